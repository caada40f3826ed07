"""How far a queue is: its counts, why it waits, and when it is done. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from app.queues.state_store import QueueState
from app.queues.store import CallCounts, WaitingCalls
from app.queues.wait_reason import WaitReasonName, wait_reason

UnknownEnd = Literal["none_waits", "not_counted", "stopped", "hours", "no_rate"]
"""Why it is unknown when the last call of a queue is dialled. `stopped`: no call is dialled until someone changes that."""


@dataclass(frozen=True, slots=True)
class QueueProgress:
    state: QueueState
    waiting: WaitingCalls | None
    """None: they could not be counted in time."""
    counts: CallCounts | None
    """None: they could not be counted in time."""
    wait_reason: WaitReasonName | None
    end: datetime | UnknownEnd

    @property
    def projected_end_at(self) -> datetime | None:
        return self.end if isinstance(self.end, datetime) else None


def progress_of(state: QueueState, waiting: WaitingCalls | None, counts: CallCounts | None) -> QueueProgress:
    return QueueProgress(state, waiting, counts, wait_reason(state), projected_end(state, waiting))


def projected_end(state: QueueState, waiting: WaitingCalls | None) -> datetime | UnknownEnd:
    """Returns when the last waiting call is dialled or expires, if all goes as fast as the pace allows: now or later.

    Returns why it is unknown, if it is.
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
    at_pace = state.read_at + timedelta(seconds=waiting.number / min(rates))
    # Calls whose deadline has passed wait until a worker expires them.
    return max(state.read_at, min(max(at_pace, waiting.last_not_before), waiting.last_ring_by))
