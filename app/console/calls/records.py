"""What the pages about calls read from the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from app.calls.last_answer import CallRow


@dataclass(frozen=True, slots=True)
class CallLine:
    """A call in the list."""

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
class PendingEnd:
    """A stored request to end the call. It is carried out when the call is known to have started."""

    status: str
    wanted_at: datetime


@dataclass(frozen=True, slots=True)
class DialRow:
    """A row of scheduled_dial: the call waits to be dialled."""

    due_at: datetime
    not_before: datetime
    ring_by: datetime
    priority: int
    tries: int


@dataclass(frozen=True, slots=True)
class SlotRow:
    """A row of dial_slot: the call counts as a concurrent call of its account and its queue."""

    until: datetime
    """The call stops counting at this time at the latest."""
    missing_since: datetime | None
    """Since this time, Twilio has answered that there is no such call. None: Twilio knows the call."""


@dataclass(frozen=True, slots=True)
class CallHistory:
    """A call with all that happened to it, read at one moment."""

    call: CallRow
    now: datetime
    """Postgres's clock when the call was read."""
    events: Sequence[EventRow] = ()
    """In order of time. If there are too many to show, the earliest ones."""
    has_more_events: bool = False
    deliveries: Sequence[DeliveryRow] = ()
    """In the order of their events. If there are too many to show, the first ones."""
    has_more_deliveries: bool = False
    pending_end: PendingEnd | None = None
    dial: DialRow | None = None
    slot: SlotRow | None = None
    queue: str | None = None
    """The name of the call's queue."""
    is_queue_paused: bool = False
    redialed_as: UUID | None = None
    """The id of the call that was placed because this one ended busy or unanswered."""
