"""Data classes for what the console's pages about calls read from the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from app.calls.last_answer import CallRow


@dataclass(frozen=True, slots=True)
class CallListLine:
    """A call, as a line of the console's list of calls."""

    id: UUID
    tenant_id: str
    created_at: datetime
    execution: str
    settled_by: str | None
    status: str | None
    to: str
    from_: str
    duration: int | None
    price: Decimal | None
    price_unit: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class EventRow:
    id: UUID
    at: datetime
    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery: the request that reports one event of the call to the tenant, sent with `method` to `url`."""

    id: UUID
    at: datetime
    event: str
    state: str
    attempts: int
    held: bool
    next_attempt_at: datetime | None
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    delivered_at: datetime | None
    url: str | None
    method: str | None


@dataclass(frozen=True, slots=True)
class PendingEndRequest:
    """A stored request to end a call. Callgate sends the request to Twilio when it is known that the call has started."""

    status: str
    wanted_at: datetime


@dataclass(frozen=True, slots=True)
class ScheduledDialRow:
    """A row of the table `scheduled_dial`. The table has one row for each call that waits to be dialled."""

    due_at: datetime
    not_before: datetime
    ring_by: datetime
    priority: int
    tries: int


@dataclass(frozen=True, slots=True)
class ConcurrentCallRow:
    """A row of the table `dial_slot`. A call that has a row counts as a concurrent call of its account and its queue."""

    until: datetime
    """The call counts as a concurrent call until this time at the latest."""
    missing_since: datetime | None
    """When Twilio began to answer 404 for the call; None if Twilio does not answer 404."""


@dataclass(frozen=True, slots=True)
class CallHistory:
    """A call with its events, its deliveries and its rows in other tables, all read by one SQL statement."""

    call: CallRow
    now: datetime
    """The time of Postgres's clock at which the call was read."""
    events: Sequence[EventRow] = ()
    """The call's events in order of time. If the call has too many to show, these are the earliest ones."""
    has_more_events: bool = False
    deliveries: Sequence[DeliveryRow] = ()
    """The deliveries in the order of the events that they report. If there are too many to show, these are the first ones."""
    has_more_deliveries: bool = False
    pending_end: PendingEndRequest | None = None
    dial: ScheduledDialRow | None = None
    slot: ConcurrentCallRow | None = None
    queue: str | None = None
    """The name of the call's queue."""
    is_queue_paused: bool = False
    redial_id: UUID | None = None
    """The id of the call that Callgate placed because this call ended busy or unanswered; None if there is no such call."""
