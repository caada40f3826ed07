"""Tests the words of the pages of queues: reasons to wait, limits of pace, hours, and progress."""

from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

import pytest

from app.console.queues.store import MAX_COUNTED_CALLS
from app.console.queues.view import QueueSummary, QueueView, next_queue_list_page_url, wait_reason_in_words, waiting_calls_text
from app.queues.progress import QueueProgress, UnknownEndReason
from app.queues.state_store import NextCall, PaceState, QueueState
from app.queues.store import CallCounts, QueueRow, WaitingCallsSummary
from app.queues.wait_reason import WaitReasonName
from app.scheduling.pace_limits import UNLIMITED_PACE

AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)


def queue(**members: Any) -> QueueRow:
    values: dict[str, Any] = {"paused": False, "hours": None, "ring_within_s": None, "pace": UNLIMITED_PACE} | members
    return QueueRow(UUID(int=1), "support", "reminders", AT, AT, **values)


def due(**members: Any) -> NextCall:
    """Returns a call that may be dialled now. `members` are attributes with other values."""
    free = PaceState(None, is_full=False, has_no_token=False)
    values: dict[str, Any] = {
        "not_before": AT,
        "due_at": AT,
        "pace": free,
        "account_pace": free,
        "tries": 0,
        "is_account_refused": False,
    }
    may = {"is_halted": False, "is_tenant_suspended": False, "has_hours": False}
    return NextCall(**values | may | members)


@pytest.mark.parametrize("reason", get_args(WaitReasonName))
def test_every_reason_has_words(reason: WaitReasonName) -> None:
    assert " " in wait_reason_in_words(reason, waits=True)


def test_without_a_reason_the_next_call_is_dialled_or_there_is_none() -> None:
    assert wait_reason_in_words(None, waits=True) == "is dialled now"
    assert wait_reason_in_words(None, waits=False) == "–"


def test_a_line_of_the_list() -> None:
    item = QueueSummary.from_state(QueueState(queue(paused=True), AT, due(), None))
    assert (item.state, item.reason, item.next_due_at) == ("paused", "waits until the queue is resumed", AT)
    assert (waiting_calls_text(MAX_COUNTED_CALLS), waiting_calls_text(MAX_COUNTED_CALLS + 1)) == ("1,000", "1,000+")
    assert item.path == "/console/queues/support/reminders"
    halted = QueueSummary.from_state(QueueState(queue(), AT, due(is_halted=True), 2))
    assert (halted.state, halted.under_way) == ("halted", "2")
    assert next_queue_list_page_url(item, "") == "/console/queues?after_tenant=support&after=reminders"
    assert next_queue_list_page_url(item, "support") == "/console/queues?tenant=support&after=reminders"


def view(row: QueueRow, waiting: WaitingCallsSummary | None, counts: CallCounts | None, reason: Any = None) -> QueueView:
    return QueueView.from_progress(QueueProgress(QueueState(row, AT, None, None), waiting, counts, reason, "no_rate"))


@pytest.mark.parametrize("reason", get_args(UnknownEndReason))
def test_a_queue_without_a_projected_end_says_why(reason: UnknownEndReason) -> None:
    shown = QueueView.from_progress(QueueProgress(QueueState(queue(), AT, None, None), None, None, None, reason))
    assert shown.projected_end_at is None
    assert " " in shown.unknown_end_text


def test_the_sentence_says_how_many_wait_and_why() -> None:
    counts = CallCounts({"started": 3, "scheduled": 2}, {"completed": 1, "busy": 2}, {}, started_in_last_minute=90)
    two = view(queue(), WaitingCallsSummary(2, AT, AT, AT), counts, "pace")
    assert two.sentence == "2 calls wait. The next one waits for the pace of the queue."
    assert two.counts_by_execution == (("scheduled", 2), ("started", 3))
    assert two.statuses == (("busy", 2), ("completed", 1))
    assert two.achieved_pace == "1.50 a second in the last minute"
    none = WaitingCallsSummary(0, None, None, None)
    assert view(queue(), none, counts).sentence == "No call waits."
    assert view(queue(paused=True), none, counts).sentence == "Paused. No call waits."
    uncounted = view(queue(ring_within_s=3600), None, None)
    assert uncounted.sentence == "More calls wait than could be counted in time."
    assert (uncounted.counts_by_execution, uncounted.achieved_pace, uncounted.ring_within) == (
        None,
        "not counted in time",
        "3,600 s",
    )
