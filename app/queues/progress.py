"""How far a queue is, and what its next call waits for. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from app.queues.state_store import QueueState
from app.queues.store import CallCounts, WaitingCalls

WaitReasonName = Literal[
    "halted",
    "tenant_suspended",
    "paused",
    "not_before",
    "retry",
    "outside_hours",
    "concurrency",
    "pace",
    "account_concurrency",
    "account_pace",
]


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


def wait_reason(state: QueueState) -> WaitReasonName | None:
    """Returns what the call that is due first waits for. None: a worker may grant it now, or no call waits."""
    call = state.next_call
    if call is None:
        return None
    reasons: dict[WaitReasonName, bool] = {
        "halted": call.is_halted,
        "tenant_suspended": call.is_tenant_suspended,
        "paused": state.queue.paused,
        "not_before": call.not_before > call.read_at,
        "retry": call.due_at > call.read_at and call.tries > 0,
        "outside_hours": call.due_at > call.read_at and call.has_hours,
        "concurrency": call.pace.is_full,
        "pace": call.pace.is_spent,
        "account_concurrency": call.account_pace.is_full,
        "account_pace": call.account_pace.is_spent,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


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
    at_pace = call.read_at + timedelta(seconds=waiting.number / min(rates))
    # Calls whose deadline has passed wait until a worker expires them.
    return max(call.read_at, min(max(at_pace, waiting.last_not_before), waiting.last_ring_by))
