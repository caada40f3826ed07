"""Explains to people why the next call of a queue (the waiting call that is due first) is not dialled yet. No I/O.

This module does not decide whether the call is dialled: app.calls.creation.grants does.
"""

from typing import Literal

from app.queues.state_store import QueueState

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


def wait_reason(state: QueueState) -> WaitReasonName | None:
    """Returns what the queue's next call waits for. Returns None if a worker may dial the call now, or if no call waits."""
    call = state.next_call
    if call is None:
        return None
    reasons: dict[WaitReasonName, bool] = {
        "halted": call.is_halted,
        "tenant_suspended": call.is_tenant_suspended,
        "paused": state.queue.paused,
        "not_before": call.not_before > state.read_at,
        "retry": (call.due_at > state.read_at and call.tries > 0) or call.is_account_refused,
        "outside_hours": call.due_at > state.read_at and call.has_hours,
        "concurrency": call.pace.is_full,
        "pace": call.pace.has_no_token,
        "account_concurrency": call.account_pace.is_full,
        "account_pace": call.account_pace.has_no_token,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)
