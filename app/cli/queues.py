"""`callgate queues`: manages queues. A queue is a set of scheduled calls with its own speed limits, calling hours and pause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli.hours import Days, HoursFrom, HoursTo, TimeZone, calling_hours_from_options
from app.cli.output import AsJson, show_table, show_values
from app.cli.pace import Burst, CallsPerSecond, MaxConcurrent, Unlimited, pace_change
from app.cli.tenants import QueueArgument, TenantId, run_with_pool
from app.cli.times import parse_duration

if TYPE_CHECKING:
    from app.queues.progress import QueueProgress
    from app.queues.service import QueueChange, QueueService
    from app.queues.store import QueueRow

queues = typer.Typer(
    help="Queues of a tenant: sets of scheduled calls with their own pace, hours and pause.", no_args_is_help=True
)

Result = TypeVar("Result")


class ClearableSetting(StrEnum):
    hours = "hours"
    ring_within = "ring-within"


@queues.command("list")
def list_queues(tenant: TenantId, as_json: AsJson = False) -> None:
    """List a tenant's queues by name."""
    rows = [_queue_settings_row(row) for row in _run_with_queue_service(lambda service: service.list(tenant))]
    columns = ["name", "paused", "calls_per_second", "max_concurrent", "hours", "ring_within_s"]
    show_table(rows, columns=columns, as_json=as_json)


@queues.command("show")
def show_queue(tenant: TenantId, name: QueueArgument, as_json: AsJson = False) -> None:
    """Show a queue, its progress, and what its next call waits for."""
    progress = _run_with_queue_service(lambda service: service.progress(tenant, name))
    values, counts = _queue_settings_row(progress.state.queue) | _queue_progress_row(progress), _call_counts(progress)
    if as_json:
        show_values(values | {"counts": counts}, as_json=True)
        return
    for kind, numbers in (counts or {}).items():
        values |= {f"{kind} {value}": number for value, number in sorted(numbers.items())}
    show_values(values, as_json=False)


@queues.command("set")
def set_queue(
    tenant: TenantId,
    name: QueueArgument,
    calls_per_second: CallsPerSecond = None,
    burst: Burst = None,
    max_concurrent: MaxConcurrent = None,
    unlimited: Unlimited = False,
    time_zone: TimeZone = None,
    days: Days = None,
    start: HoursFrom = None,
    end: HoursTo = None,
    ring_within: Annotated[
        timedelta | None,
        typer.Option(
            "--ring-within",
            parser=parse_duration,
            metavar="DURATION",
            help="The default deadline after not_before, such as 30m.",
        ),
    ] = None,
    clear: Annotated[list[ClearableSetting] | None, typer.Option("--clear", help="What to remove; can be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a queue, or change the settings that the options give.

    Hours are set as a whole: zone, beginning and end. Changed hours apply to waiting calls at once.
    """
    from app.scheduling.hours import parse_calling_hours

    change: QueueChange = {"pace": pace_change(calls_per_second, burst, max_concurrent, unlimited=unlimited)}
    if ClearableSetting.hours in (clear or ()):
        change["hours"] = None
    if ClearableSetting.ring_within in (clear or ()):
        change["ring_within_s"] = None
    if hours := calling_hours_from_options(time_zone, days, start, end):
        change["hours"] = parse_calling_hours(hours)
    if ring_within is not None:
        change["ring_within_s"] = int(ring_within.total_seconds())
    _create_or_change_queue(tenant, name, change, as_json=as_json)


@queues.command("pause")
def pause_queue(tenant: TenantId, name: QueueArgument, as_json: AsJson = False) -> None:
    """Stop dialling the calls of a queue. Calls under way go on."""
    _change_existing_queue(tenant, name, {"paused": True}, as_json=as_json)


@queues.command("resume")
def resume_queue(tenant: TenantId, name: QueueArgument, as_json: AsJson = False) -> None:
    """Dial the calls of a queue that was paused."""
    _change_existing_queue(tenant, name, {"paused": False}, as_json=as_json)


def _create_or_change_queue(tenant: str, name: str, change: QueueChange, *, as_json: bool) -> None:
    """Creates a queue or changes an existing one, and prints its settings."""
    from app.audit.events import command_actor

    queue, _ = _run_with_queue_service(lambda service: service.create_or_change(command_actor(), tenant, name, change))
    show_values(_queue_settings_row(queue), as_json=as_json)


def _change_existing_queue(tenant: str, name: str, change: QueueChange, *, as_json: bool) -> None:
    """Changes a queue, and prints its settings. Raises NoSuchResource if there is no such queue."""
    from app.audit.events import command_actor

    queue = _run_with_queue_service(lambda service: service.change(command_actor(), tenant, name, change))
    show_values(_queue_settings_row(queue), as_json=as_json)


def _run_with_queue_service(use_case: Callable[[QueueService], Awaitable[Result]]) -> Result:
    """Calls `use_case` with a QueueService for the configured database, and returns the result of `use_case`."""
    from app.http.concurrency import ConcurrencyLimit
    from app.queues.service import QueueService

    return run_with_pool(lambda pool: use_case(QueueService(pool, ConcurrencyLimit(per_process=1, per_tenant=1))))


def _queue_settings_row(queue: QueueRow) -> dict[str, Any]:
    hours = None if queue.hours is None else queue.hours.to_json()
    return {
        "name": queue.name,
        "tenant": queue.tenant_id,
        "paused": queue.paused,
        **queue.pace.to_json(),
        "hours": hours and f"{hours['from']}-{hours['to']} {','.join(hours['days'])} {hours['time_zone']}",
        "ring_within_s": queue.ring_within_s,
    }


def _queue_progress_row(progress: QueueProgress) -> dict[str, Any]:
    waiting = progress.waiting
    return {
        "waiting": None if waiting is None else waiting.number,
        "oldest_not_before": waiting and waiting.first_not_before,
        "wait_reason": progress.wait_reason,
        "projected_end_at": progress.projected_end_at,
    }


def _call_counts(progress: QueueProgress) -> dict[str, dict[str, int]] | None:
    """Returns a queue's numbers of calls: by `execution` (Callgate's state of a call), by Twilio's status, and by problem.

    A problem is the error for which a call was not started. Returns None if counting took too long.
    """
    counts = progress.counts
    return None if counts is None else {"execution": counts.execution, "status": counts.status, "problem": counts.problem}
