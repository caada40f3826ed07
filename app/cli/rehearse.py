"""`callgate rehearse`: when each call of a file would ring or expire, without a call to anybody."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import AsJson, show, show_table
from app.cli.pace import Burst, CallsPerSecond, MaxConcurrent, pace_change
from app.cli.tenants import run_with_pool
from app.cli.times import any_time
from app.errors import CommandFailed

if TYPE_CHECKING:
    from app.database.pool import Pool
    from app.local.rehearsal import RehearsalSettings, RehearsedCall
    from app.scheduling.pace_limits import PaceChange

_STANDARD_INPUT = "-"
_NO_QUEUE = "rehearsal"
_MAX_LINES = 100_000


def rehearse(
    file: Annotated[str, typer.Argument(metavar="FILE", help="NDJSON: each line a creation's body with a key; - for stdin.")],
    queue: Annotated[str | None, typer.Option("--queue", metavar="NAME", help="The queue whose settings apply.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="The queue's tenant, if several have a queue of this name.")
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--at", parser=any_time, metavar="TIME", help="When the calls are added, such as 2026-11-30T08:00:00Z; now."
        ),
    ] = None,
    call_seconds: Annotated[
        float, typer.Option("--call-seconds", min=1, max=14_400, help="How long a call is under way.")
    ] = 60,
    calls_per_second: CallsPerSecond = None,
    burst: Burst = None,
    max_concurrent: MaxConcurrent = None,
    as_json: AsJson = False,
) -> None:
    """Show when each call of a file would ring or expire, and at what pace.

    Nothing is dialled and nothing is stored: the calls are played against a clock that jumps, with an embedded Postgres of its
    own. The settings of the queue, its tenant and the tenant's first account are read from the database; options for the pace
    replace those of the queue. Without --queue and --tenant no database is needed. Calls that wait already do not count.
    """
    change = pace_change(calls_per_second, burst, max_concurrent, unlimited=False)
    settings = _read_settings(tenant, queue, change)
    call_time = timedelta(seconds=call_seconds)
    calls = _play(_read_lines(file), queue or _NO_QUEUE, settings, start or datetime.now(UTC), call_time)
    _show(calls, call_time, as_json=as_json)


def _read_lines(file: str) -> list[bytes]:
    try:
        content = sys.stdin.buffer.read() if file == _STANDARD_INPUT else Path(file).read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}") from None
    lines = content.splitlines()
    if len(lines) > _MAX_LINES:
        raise CommandFailed(f"{file}: has more than {_MAX_LINES} lines")
    return lines


def _read_settings(tenant: str | None, queue: str | None, change: PaceChange) -> RehearsalSettings:
    """Returns the stored settings with the pace that the options give. Raises CommandFailed."""
    from app.local.rehearsal import RehearsalSettings, read_settings
    from app.local.rehearsal_store import CopiedSettings
    from app.scheduling.pace_limits import UNLIMITED

    async def read(pool: Pool) -> RehearsalSettings:
        async with pool.transaction() as connection:
            return await read_settings(connection, tenant, queue, change)

    if tenant is None and queue is None:
        return RehearsalSettings(CopiedSettings(), UNLIMITED, UNLIMITED.changed(change))
    return run_with_pool(read)


@contextmanager
def _scratch_database() -> Iterator[str]:
    """Yields the URL of a new database that has the rehearsal's clock and the schema. Main thread only."""
    from app.local.postgres import EmbeddedPostgres, remove
    from app.local.rehearsal import prepare_database
    from app.schema import migrate

    with tempfile.TemporaryDirectory(prefix="callgate-rehearsal-") as folder:
        directory = Path(folder)
        directory.chmod(0o755)  # root's Postgres runs as the user nobody
        postgres = EmbeddedPostgres(directory, durable=False)
        try:
            with postgres:
                asyncio.run(prepare_database(postgres.url))
                migrate(postgres.url)
                yield postgres.url
        finally:
            remove(directory)


def _play(
    lines: Sequence[bytes], queue: str, settings: RehearsalSettings, start: datetime, call_time: timedelta
) -> list[RehearsedCall]:
    from app.database.engine import Database
    from app.local.rehearsal import Rehearsal

    async def run(url: str) -> list[RehearsedCall]:
        database = Database(url, pool_size=1)
        try:
            return await Rehearsal(database, queue, call_time).play(lines, settings, start)
        finally:
            await database.close()

    with _scratch_database() as url:
        return asyncio.run(run(url))


def _show(calls: Sequence[RehearsedCall], call_time: timedelta, *, as_json: bool) -> None:
    from app.local.rehearsal import reached_pace

    rows = [_row(call) for call in calls]
    outcomes = Counter(call.outcome for call in calls)
    pace = reached_pace(calls, call_time)
    summary = {
        "rings": outcomes["rings"],
        "expires": outcomes["expires"],
        "refused": outcomes["refused"],
        "first": pace.first,
        "last": pace.last,
        "calls_per_second": pace.calls_per_second and round(pace.calls_per_second, 3),
        "most_in_a_second": pace.most_in_a_second,
        "most_under_way": pace.most_under_way,
    }
    if as_json:
        show({"calls": rows} | summary, as_json=True)
        return
    if rows:
        show_table(rows, columns=["at", "outcome", "line", "key", "priority", "wait_s", "ring_by", "reason"], as_json=False)
        typer.echo()
    show(summary, as_json=False)


def _row(call: RehearsedCall) -> dict[str, Any]:
    """Returns the call as it is printed. `wait_s` is the time from `not_before` on."""
    waited = None if call.at is None or call.not_before is None else (call.at - call.not_before).total_seconds()
    return {
        "line": call.line,
        "key": call.key,
        "outcome": call.outcome,
        "at": call.at,
        "wait_s": waited,
        "priority": call.priority,
        "not_before": call.not_before,
        "ring_by": call.ring_by,
        "reason": call.reason,
    }
