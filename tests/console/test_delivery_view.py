"""Tests the words with which the pages show a delivery's state, and when they offer to send it again."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from app.console.deliveries.store import MAX_COUNTED_DELIVERIES, ListedDelivery, WaitingDeliverySummary
from app.console.deliveries.view import BacklogItem, DeliveryItem, DeliveryQuery, cursor_after_delivery

AT = datetime(2026, 11, 28, 9, 30, 0, 123456, tzinfo=UTC)


def line(**members: Any) -> ListedDelivery:
    values: dict[str, Any] = {
        "id": uuid7(),
        "call_id": uuid7(),
        "tenant_id": "support",
        "event": "completed",
        "state": "pending",
        "attempts": 0,
        "pending_since": AT,
        "next_attempt_at": AT,
        "last_attempt_at": None,
        "last_status": None,
        "last_error": None,
        "held": False,
        "url": "https://hooks.example.com/",
        "sid": "CA" + "e" * 32,
        "to": "sip:kate@example.com",
        "from_": "+14155550123",
    }
    return ListedDelivery(**(values | members))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, ("waiting", "for its first attempt", None)),
        ({"held": True, "attempts": 1, "last_status": 500}, ("waiting", "for an earlier event of its call", "answered 500")),
        ({"attempts": 1, "last_error": "timeout"}, ("retrying", "1 attempt failed", "no answer in time")),
        ({"attempts": 3, "last_status": 503}, ("retrying", "3 attempts failed", "answered 503")),
        ({"state": "gave_up", "attempts": 12, "last_error": "new"}, ("given_up", "after 12 attempts", "new")),
        ({"last_status": 204}, ("waiting", "for its first attempt", None)),
        ({"last_attempt_at": AT, "last_status": 500}, ("waiting", "to be sent again", "answered 500")),
    ],
)
def test_the_state_is_in_words(members: dict[str, Any], expected: tuple[str, str, str | None]) -> None:
    item = DeliveryItem.from_delivery(line(**members))
    assert (item.state, item.note, item.last_error) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, False),
        ({"attempts": 1}, True),
        ({"attempts": 1, "held": True}, False),
        ({"last_attempt_at": AT, "last_status": 500}, False),
        ({"state": "gave_up", "attempts": 12}, True),
        ({"state": "delivered", "attempts": 1}, True),
        ({"state": "gave_up", "attempts": 12, "sid": None, "to": None, "from_": None}, False),
    ],
)
def test_send_again_is_offered_for_what_was_sent_and_whose_call_exists(members: dict[str, Any], *, expected: bool) -> None:
    assert DeliveryItem.from_delivery(line(**members)).can_be_sent_again is expected


def test_a_cursor_leads_behind_its_line() -> None:
    last = line()
    assert DeliveryQuery(cursor=cursor_after_delivery(last)).waiting_after == (AT, last.id)
    assert DeliveryQuery().waiting_after is None
    assert DeliveryQuery(state="given_up", cursor=str(last.id)).given_up_before == last.id


@pytest.mark.parametrize("cursor", ["x", f"{AT.isoformat()}~x", f"0001-01-01T00:00:00+14:00~{UUID(int=1)}", "~"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of several parsers
        assert DeliveryQuery(cursor=cursor).waiting_after is None or DeliveryQuery(cursor=cursor).given_up_before


def test_the_overview_says_when_it_has_not_counted_all() -> None:
    few = BacklogItem.from_backlog(WaitingDeliverySummary("support", 12, 3, AT, "503"))
    assert (few.waiting, few.retried, few.last_error) == ("12", "3", "answered 503")
    many = BacklogItem.from_backlog(WaitingDeliverySummary("support", MAX_COUNTED_DELIVERIES, 0, AT, None))
    assert (many.waiting, many.retried, many.last_error) == ("1,000+", "0", None)
    assert BacklogItem.from_backlog(WaitingDeliverySummary("support", 1, 1, AT, "tls")).last_error == "no trusted certificate"
