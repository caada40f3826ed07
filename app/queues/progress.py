"""The progress of a queue: the numbers of its calls, why the next call waits, and when the last call is dialled. No I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from app.queues.state_store import QueueState
from app.queues.store import CallCounts, WaitingCallsSummary
from app.queues.wait_reason import WaitReasonName, wait_reason

UnknownEndReason = Literal["none_waits", "not_counted", "stopped", "hours", "no_rate"]
"""Why it is unknown when the last call of a queue will be dialled.

`none_waits`: no call waits. `not_counted`: counting the waiting calls took too long. `stopped`: the queue is paused, its tenant
is suspended, or all dialling of scheduled calls is halted. `hours`: calls may ring only at certain hours. `no_rate`: neither
the queue nor the account limits the calls per second.
"""


@dataclass(frozen=True, slots=True)
class QueueProgress:
    state: QueueState
    waiting: WaitingCallsSummary | None
    """The number and the times of the waiting calls. The value is None if counting took too long."""
    counts: CallCounts | None
    """The numbers of all calls of the queue. The value is None if counting took too long."""
    wait_reason: WaitReasonName | None
    end: datetime | UnknownEndReason

    @property
    def projected_end_at(self) -> datetime | None:
        """The time at which the last waiting call is expected to be dialled or to expire; None if it is unknown."""
        return self.end if isinstance(self.end, datetime) else None


def progress_of(state: QueueState, waiting: WaitingCallsSummary | None, counts: CallCounts | None) -> QueueProgress:
    """Returns the progress of a queue. `waiting` or `counts` is None if counting took too long."""
    return QueueProgress(state, waiting, counts, wait_reason(state), projected_end(state, waiting))


def projected_end(state: QueueState, waiting: WaitingCallsSummary | None) -> datetime | UnknownEndReason:
    """Returns when the last waiting call will be dialled or expire, or the reason why that time is unknown.

    Assumes that calls are dialled at the highest rate that the limits of the queue and its account allow. The time is never in
    the past.
    """
    call = state.next_call
    if waiting is None:
        return "not_counted"
    if call is None or waiting.last_not_before is None or waiting.last_ring_by is None:
        return "none_waits"
    if state.queue.paused or call.is_halted or call.is_tenant_suspended:
        return "stopped"
    if call.has_hours:
        return "hours"
    rates = [rate for rate in (call.pace.calls_per_second, call.account_pace.calls_per_second) if rate is not None]
    if not rates:
        return "no_rate"
    at_pace = last_dial_time_at_rate(state.read_at, waiting.number, min(rates), last_due_at=waiting.last_not_before)
    return last_dial_or_expiry_time(state.read_at, at_pace, last_ring_by=waiting.last_ring_by)


def last_dial_time_at_rate(now: datetime, number: int, calls_per_second: float, *, last_due_at: datetime) -> datetime:
    """Returns when the last of `number` waiting calls is dialled at this rate, if none of them expires.

    The time is not before `last_due_at`, when the last of the calls becomes due.
    """
    return max(now + timedelta(seconds=number / calls_per_second), last_due_at)


def last_dial_or_expiry_time(now: datetime, last_dial_at: datetime, *, last_ring_by: datetime) -> datetime:
    """Returns `last_dial_at` or `last_ring_by` (the calls' latest deadline), whichever is earlier, but no time before `now`."""
    # Calls whose deadline has passed wait until a worker expires them.
    return max(now, min(last_dial_at, last_ring_by))
