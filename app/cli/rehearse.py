"""`callgate rehearse`: shows when each call of a file would ring or expire, without calling anybody."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import AsJson, configure_error_logging, show_table, show_values
from app.cli.pace import Burst, CallsPerSecond, MaxConcurrent, pace_change
from app.cli.signals import signals_as_keyboard_interrupt
from app.cli.tenants import run_with_pool
from app.cli.times import parse_past_or_future_time
from app.errors import CommandFailed

if TYPE_CHECKING:
    from app.database.pool import Pool
    from app.local.rehearsal import RehearsalSettings
    from app.local.rehearsal_report import RehearsedCall
    from app.scheduling.pace_limits import PaceChange

_STANDARD_INPUT = "-"
_DEFAULT_QUEUE = "rehearsal"
_MAX_LINES = 100_000
_MAX_FILE_BYTES = 256 * 1024 * 1024
_ACCEPTED_YEARS = range(1970, 9000)
# The calls that Twilio dials for an account in one second, unless another rate was agreed with Twilio.
_DEFAULT_TWILIO_CALLS_PER_SECOND = 1


def rehearse(
    file: Annotated[str, typer.Argument(metavar="FILE", help="NDJSON: each line a creation's body with a key; - for stdin.")],
    queue: Annotated[str | None, typer.Option("--queue", metavar="NAME", help="The queue whose settings apply.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="The queue's tenant, if several have a queue of this name.")
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--at",
            parser=parse_past_or_future_time,
            metavar="TIME",
            help="When the calls are added, such as 2026-11-30T08:00:00Z; now.",
        ),
    ] = None,
    call_seconds: Annotated[
        int, typer.Option("--call-seconds", min=1, max=14_400, help="How long an answered call lasts.")
    ] = 60,
    calls_per_second: CallsPerSecond = None,
    burst: Burst = None,
    max_concurrent: MaxConcurrent = None,
    twilio_calls_per_second: Annotated[
        float | None,
        typer.Option(
            "--twilio-calls-per-second",
            min=0.001,
            max=1000,
            help="Calls that Twilio dials for the account in one second: the account's pace, or 1.",
        ),
    ] = None,
    twilio_max_concurrent: Annotated[
        int | None,
        typer.Option("--twilio-max-concurrent", min=1, help="Calls that Twilio lets the account have at the same time."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show when each call of a file would ring or expire, and at what pace.

    No phone rings, and your database is only read. The command starts a Postgres and a simulator of Twilio of its own, and its
    clock skips the time between events. The settings of the queue, its tenant and its oldest account are read from the
    database; options for the pace replace those of the queue. Without --queue and --tenant no database is needed. Calls that
    already wait do not count. The exit code is 1 if lines are refused.
    """
    configure_error_logging()
    if start is not None and start.year not in _ACCEPTED_YEARS:
        raise CommandFailed(f"--at: the year must be between {_ACCEPTED_YEARS[0]} and {_ACCEPTED_YEARS[-1]}")
    change = pace_change(calls_per_second, burst, max_concurrent, unlimited=False)
    settings = _read_settings(tenant, queue, change)
    settings = _with_simulator_settings(settings, twilio_calls_per_second, twilio_max_concurrent, call_seconds)
    calls = _run_rehearsal(_read_lines(file), queue or _DEFAULT_QUEUE, settings, start or datetime.now(UTC))
    _print_rehearsal(calls, as_json=as_json)
    if any(call.outcome == "refused" for call in calls):
        raise typer.Exit(1)


def _read_lines(file: str) -> list[bytes]:
    try:
        with nullcontext(sys.stdin.buffer) if file == _STANDARD_INPUT else Path(file).open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise CommandFailed(f"{file}: is larger than {_MAX_FILE_BYTES // 1024**2} MiB")
    lines = content.splitlines()
    if len(lines) > _MAX_LINES:
        raise CommandFailed(f"{file}: has more than {_MAX_LINES} lines")
    return lines


def _read_settings(tenant: str | None, queue: str | None, change: PaceChange) -> RehearsalSettings:
    """Returns the stored settings of the queue, its tenant and its oldest account. `change` replaces limits of the queue.

    If `tenant` and `queue` are both None, reads no database: only the limits in `change` apply. Raises CommandFailed if there
    is no such tenant or queue, or if several tenants have such a queue.
    """
    from app.local.rehearsal import RehearsalSettings, read_rehearsal_settings
    from app.scheduling.pace_limits import UNLIMITED_PACE
    from app.settings import load_settings

    async def read(pool: Pool) -> RehearsalSettings:
        async with pool.transaction() as connection:
            return await read_rehearsal_settings(connection, tenant, queue, change)

    if tenant is None and queue is None:
        return RehearsalSettings(queue_pace=UNLIMITED_PACE.with_changes(change))
    return replace(run_with_pool(read), slow_when_queued=load_settings().slow_when_queued)


def _with_simulator_settings(
    settings: RehearsalSettings, calls_per_second: float | None, max_concurrent: int | None, call_seconds: int
) -> RehearsalSettings:
    """Returns the settings with the limits of the simulated Twilio, and with the duration of an answered call.

    If `calls_per_second` is None, Twilio dials as fast as Callgate's limit of the account allows or, without a limit, 1 call a
    second. If `max_concurrent` is None, Twilio does not limit concurrent calls.
    """
    from simulator.limits import AccountLimits

    rate = calls_per_second or float(settings.account_pace.calls_per_second or _DEFAULT_TWILIO_CALLS_PER_SECOND)
    limits = AccountLimits(calls_per_second=rate, max_concurrent=max_concurrent)
    return replace(settings, twilio_limits=limits, call_duration_s=call_seconds)


@contextmanager
def _scratch_database() -> Iterator[str]:
    """Yields the URL of a temporary database with Callgate's schema and a simulated clock. Works only in the main thread."""
    from app.local.postgres import EmbeddedPostgres, remove_postgres_data
    from app.local.rehearsal import install_rehearsal_clock
    from app.schema import migrate

    with tempfile.TemporaryDirectory(prefix="callgate-rehearsal-") as folder:
        directory = Path(folder)
        directory.chmod(0o755)  # root's Postgres runs as the user nobody
        postgres = EmbeddedPostgres(directory, durable=False)
        try:
            with postgres:
                asyncio.run(install_rehearsal_clock(postgres.url))
                migrate(postgres.url)
                yield postgres.url
        finally:
            remove_postgres_data(directory)


def _run_rehearsal(lines: Sequence[bytes], queue: str, settings: RehearsalSettings, start: datetime) -> list[RehearsedCall]:
    from app.local.rehearsal import simulate_scheduled_calls

    with signals_as_keyboard_interrupt(), _scratch_database() as url:
        return asyncio.run(simulate_scheduled_calls(url, queue, lines, settings, start))


def _print_rehearsal(calls: Sequence[RehearsedCall], *, as_json: bool) -> None:
    from app.local.rehearsal_report import simulated_call_rate

    rows = [_call_row(call) for call in calls]
    outcomes, statuses = Counter(call.outcome for call in calls), Counter(call.status for call in calls)
    queued = [call.queue_time for call in calls if call.queue_time]
    pace = simulated_call_rate(calls)
    summary = {
        "rings": outcomes["rings"],
        "fails": outcomes["fails"],
        "expires": outcomes["expires"],
        "refused": outcomes["refused"],
        "completed": statuses["completed"],
        "busy": statuses["busy"],
        "no_answer": statuses["no-answer"],
        "redials": sum(call.redial > 0 for call in calls),
        "queued_by_twilio": len(queued),
        "longest_queue_s": round(max(queued).total_seconds(), 3) if queued else 0,
        "first": pace.first,
        "last": pace.last,
        "calls_per_second": pace.calls_per_second and round(pace.calls_per_second, 3),
        "most_in_a_second": pace.max_calls_in_a_second,
        "most_under_way": pace.max_calls_under_way,
    }
    if as_json:
        show_values({"calls": rows} | summary, as_json=True)
        return
    if rows:
        columns = ["at", "outcome", "line", "key", "redial", "priority", "wait_s", "status", "ring_by", "reason"]
        show_table(rows, columns=columns, as_json=False)
        typer.echo()
    show_values(summary, as_json=False)


def _call_row(call: RehearsedCall) -> dict[str, Any]:
    """Returns the call as an output row. `wait_s` is the time from `not_before` until the call rings, fails or expires."""
    waited = None if call.at is None or call.not_before is None else (call.at - call.not_before).total_seconds()
    return {
        "line": call.line,
        "key": call.key,
        "redial": call.redial,
        "outcome": call.outcome,
        "at": call.at,
        "wait_s": waited,
        "priority": call.priority,
        "not_before": call.not_before,
        "ring_by": call.ring_by,
        "dialled_at": call.dialled_at,
        "put_back": call.temporary_refusals,
        "queue_s": round(call.queue_time.total_seconds(), 3),
        "status": call.status,
        "ended_at": call.ended_at,
        "reason": call.reason,
    }
