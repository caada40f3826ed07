"""Makes histories of calls (a call, its events and its deliveries) in the types that the console reads from the database."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls.last_answer import CallRow
from app.calls.models import Call
from app.console.calls.records import CallHistory, DeliveryRow, EventRow, ScheduledDialRow

START = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
SID = "CA" + "e" * 32


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def event(seconds: float, type_: str, **data: Any) -> EventRow:
    return EventRow(uuid7(), at(seconds), type_, data)


def delivery(seconds: float, event: str = "completed", **members: Any) -> DeliveryRow:
    values: dict[str, Any] = {
        "state": "pending",
        "attempts": 0,
        "held": False,
        "next_attempt_at": None,
        "last_attempt_at": None,
        "last_status": None,
        "last_error": None,
        "delivered_at": None,
        "url": "https://calls.example.com/progress?user=kate",
        "method": "POST",
    }
    return DeliveryRow(**{"id": uuid7(), "at": at(seconds), "event": event, **values, **members})


def waiting(*, due: float, ring_by: float) -> ScheduledDialRow:
    return ScheduledDialRow(due_at=at(due), not_before=at(due), ring_by=at(ring_by), priority=1, tries=0)


def history(*events: EventRow, now: float = 60, **members: Any) -> CallHistory:
    """Returns a history as read `now` seconds after START. `members` set attributes of the history or of its call."""
    own = {name: members.pop(name) for name in CallHistory.__slots__ if name in members}
    attributes = dict.fromkeys(Call.__mapper__.columns.keys())
    values: dict[str, Any] = {
        "id": UUID("01a20722-82cb-7520-b5df-0e45ebf88f42"),
        "tenant_id": "sales",
        "account_sid": "AC" + "a" * 32,
        "created_at": START,
        "updated_at": START,
        "pending_since": START,
        "execution": "started",
        "settled_by": "response",
        "to": "sip:kate@example.com",
        "from_": "Jack",
        "parameters": {"to": "sip:kate@example.com", "from": "Jack", "url": "https://example.com/flow?user=kate"},
        "warnings": [],
    }
    return CallHistory(call=CallRow(attributes | values | members), now=at(now), events=events, **own)
