"""`callgate queues add|cancel`: adds the calls of a file to a queue, or cancels all waiting calls of a queue."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import EXIT_RUN_AGAIN, AsJson, configure_error_logging, show_values
from app.cli.processes import service_settings
from app.cli.tenants import QueueArgument, TenantId
from app.errors import CommandFailed

if TYPE_CHECKING:
    from rich.progress import Progress

    from app.errors import CallgateError
    from app.queues.bulk import BulkLine, BulkLineResult

_MAX_SHOWN_REFUSALS = 20
_MAX_READ_BYTES = 1024 * 1024


@dataclass
class _BulkLineCounts:
    """The numbers of lines that were processed so far, by result."""

    created: int = 0
    replayed: int = 0
    unknown: int = 0
    """Lines whose calls may or may not have been created, because Postgres has not confirmed the write."""
    refused: Counter[str] = field(default_factory=Counter)
    is_unfinished: bool = False
    """Whether the same lines can have another result later: one of them is `unknown`, or is refused with 5xx or CallPending."""

    def count_line(self, line: BulkLineResult, print_problem: Callable[[str], None]) -> None:
        """Counts the line. If it is one of the first 20 refused lines, passes its number and the reason to `print_problem`."""
        from app.errors import CallgateError, CallPending

        if not isinstance(line.result, CallgateError):
            if line.result.replayed:
                self.replayed += 1
            elif line.result.call.execution == "unknown":
                self.unknown += 1
                self.is_unfinished = True
            else:
                self.created += 1
            return
        self.refused[line.result.slug] += 1
        if line.result.status >= 500 or isinstance(line.result, CallPending):
            self.is_unfinished = True
        if self.refused.total() <= _MAX_SHOWN_REFUSALS:
            print_problem(f"line {line.number}: {_error_text(line.result)}")


def _error_text(error: CallgateError) -> str:
    faults = "; ".join(f"{fault.pointer} {fault.detail}" for fault in error.field_errors)
    return f"{error.slug}: {faults or error.detail}"


def register_commands(queues: typer.Typer) -> None:
    queues.command("add")(add_calls)
    queues.command("cancel")(cancel_calls)


def add_calls(
    tenant: TenantId,
    name: QueueArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="NDJSON: each line is the body of a creation with its `key`. A dash: standard input."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Add the calls of a file to a queue.

    Each `key` identifies one call: adding the same file again creates only the missing calls. Exit code 3: add the file again,
    because some lines are refused only for the moment, or Postgres has not confirmed them (`unknown`). Exit code 1: lines are
    refused, and would be refused again.
    """
    configure_error_logging()
    with _open_calls_file(file) as opened:
        summary = asyncio.run(_add_calls_of_file(tenant, name, file, opened))
    counts: dict[str, Any] = {
        "created": summary.created,
        "replayed": summary.replayed,
        "unknown": summary.unknown,
        "refused": summary.refused.total(),
    }
    if as_json:
        show_values(counts | {"problems": summary.refused}, as_json=True)
    else:
        show_values(counts | {f"refused {slug}": number for slug, number in sorted(summary.refused.items())}, as_json=False)
    if summary.refused or summary.unknown:
        raise typer.Exit(EXIT_RUN_AGAIN if summary.is_unfinished else 1)


def cancel_calls(tenant: TenantId, name: QueueArgument, as_json: AsJson = False) -> None:
    """Cancel all waiting calls of a queue. Calls that are being dialled continue."""
    configure_error_logging()
    show_values({"queue": name, "canceled": asyncio.run(_cancel_waiting_calls(tenant, name))}, as_json=as_json)


async def _cancel_waiting_calls(tenant: str, name: str) -> int:
    from app.audit.events import command_actor
    from app.observability import Metrics
    from app.services import open_services

    async with open_services(service_settings(), Metrics()) as state:
        return await state["queue_cancellation"].cancel(command_actor(), tenant, name)


async def _add_calls_of_file(tenant: str, name: str, file: Path, opened: FileIO) -> _BulkLineCounts:
    from app.audit.events import command_actor
    from app.observability import Metrics
    from app.services import open_services
    from app.tenants.administration import TenantAdministration
    from app.tenants.caller import command_caller

    summary = _BulkLineCounts()
    async with open_services(service_settings(), Metrics()) as state:
        row = await TenantAdministration(state["database"], state["keyring"], command_actor()).get_tenant(tenant)
        await state["queues"].get(tenant, name)
        caller = command_caller(tenant, suspended=row.suspended_at is not None)
        with _progress_bar() as progress:
            bar = progress.add_task(name, total=_count_lines(file))
            async for first_number, texts in _read_lines(opened):
                async for answered in state["bulk"].create_calls(caller, name, _parse_lines(first_number, texts)):
                    for line in answered:
                        # Not with `typer.echo`, which would write into the bar.
                        summary.count_line(line, partial(progress.console.print, soft_wrap=True))
                    refused = summary.refused.total()
                    progress.update(bar, completed=answered[-1].number, description=f"{name}, {refused} refused")
    return summary


def _open_calls_file(file: Path) -> FileIO:
    """Opens the file. Must not be called inside an event loop: opening a named pipe blocks until a writer opens it."""
    if str(file) == "-":
        os.set_blocking(sys.stdin.fileno(), True)  # another process may have changed that, and reads would end early
        return FileIO(sys.stdin.fileno(), closefd=False)
    try:
        return FileIO(file)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}") from None


def _count_lines(file: Path) -> int | None:
    """Returns the number of lines, or None if the file is a stream, which can be read only once."""
    if not file.is_file():
        return None
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


async def _read_lines(opened: FileIO) -> AsyncIterator[tuple[int, Sequence[bytes]]]:
    """Yields the lines of the file in groups, each with the number of its first line.

    A group has the lines that one read completes. The next read begins only when the caller asks for the next group, so that a
    long file does not fill the memory. The last group is the text after the last line break, even if that is empty.
    """
    from app.http.limits import MAX_BODY_BYTES

    first_number, incomplete = 1, bytearray()
    while content := await _read_in_thread(opened):
        *lines, rest = content.split(b"\n")
        if lines:
            lines[0] = bytes(incomplete) + lines[0]
            yield first_number, lines
            first_number += len(lines)
            incomplete.clear()
        incomplete += rest[: MAX_BODY_BYTES + 1 - len(incomplete)]  # a longer line is refused for its length
    yield first_number, [bytes(incomplete)]


async def _read_in_thread(opened: FileIO) -> bytes:
    """Waits until the file has more content, and returns at most _MAX_READ_BYTES bytes; b"" at the end of the file."""
    read = Future[bytes]()

    def work() -> None:
        if not read.set_running_or_notify_cancel():
            return
        try:
            read.set_result(opened.read(_MAX_READ_BYTES))
        except OSError as error:
            read.set_exception(CommandFailed(f"the lines cannot be read: {error.strerror}"))

    # Not `asyncio.to_thread`: after Ctrl-C, `asyncio.run` would wait for the thread, whose read may never return.
    Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(read)


def _parse_lines(first_number: int, lines: Sequence[bytes]) -> Iterator[BulkLine]:
    """Returns the parsed lines without empty ones. `first_number` is the number in the file of the first of `lines`."""
    from app.queues.lines import parse_bulk_line

    return (parse_bulk_line(number, text) for number, text in enumerate(lines, start=first_number) if text.strip())


def _progress_bar() -> Progress:
    """Returns a progress bar on standard error. It shows nothing if standard error is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, markup=False, highlight=False)
    return Progress(*columns, console=console, disable=not console.is_terminal)
