"""How far a queue is: its counts, why it waits, and when it is done. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.queues.state_store import QueueState
from app.queues.store import CallCounts, WaitingCalls
from app.queues.wait_reason import WaitReasonName, wait_reason


@dataclass(frozen=True, slots=True)
class QueueProgress:
    state: QueueState
    waiting: WaitingCalls | None
    """None: they could not be counted in time."""
    counts: CallCounts | None
    """None: they could not be counted in time."""
    wait_reason: WaitReasonName | None
    projected_end_at: datetime | None


def progress_of(state: QueueState, waiting: WaitingCalls | None, counts: CallCounts | None) -> QueueProgress:
    return QueueProgress(state, waiting, counts, wait_reason(state), projected_end(state, waiting))


def projected_end(state: QueueState, waiting: WaitingCalls | None) -> datetime | None:
    """Returns when the last waiting call is dialled or expires, if all goes as fast as the pace allows: now or later.

    None if that cannot be known: no call waits, no pace is set, hours apply, or the queue does not go on by itself.
    """
    call = state.next_call
    if call is None or waiting is None or waiting.last_not_before is None or waiting.last_ring_by is None:
        return None
    rates = [rate for rate in (call.pace.calls_per_second, call.account_pace.calls_per_second) if rate is not None]
    if not rates or state.queue.paused or call.is_halted or call.is_tenant_suspended or call.has_hours:
        return None
    at_pace = state.read_at + timedelta(seconds=waiting.number / min(rates))
    # Calls whose deadline has passed wait until a worker expires them.
    return max(state.read_at, min(max(at_pace, waiting.last_not_before), waiting.last_ring_by))
