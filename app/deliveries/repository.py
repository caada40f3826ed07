"""SQL for deliveries. Never commits. Every read for a tenant filters by the tenant."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, exists, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls import ids
from app.calls.models import Call, CallEvent
from app.calls.store import DELIVERIES_CHANNEL
from app.deliveries.models import Delivery
from app.deliveries.stored_fields import StoredCallbackFields

MAX_COUNTED_PENDING = 10_000
_NOTIFY = select(func.pg_notify(DELIVERIES_CHANNEL, ""))


@dataclass(frozen=True, slots=True)
class DeliveryBacklog:
    """The number of pending deliveries, when the oldest became pending, and when the most overdue one was due.

    At most MAX_COUNTED_PENDING deliveries are read, in no particular order. If more are pending, the values describe only the
    ones that were read. `oldest_pending_since` is None if none is pending, and `earliest_due_at` is None if none is due.
    """

    pending: int
    oldest_pending_since: datetime | None
    earliest_due_at: datetime | None


async def read_delivery_backlog(session: AsyncSession) -> DeliveryBacklog:
    """Counts pending deliveries, at most MAX_COUNTED_PENDING, and finds the oldest and the most overdue one among them."""
    some = select(Delivery.pending_since, Delivery.next_attempt_at).where(Delivery.next_attempt_at.is_not(None))
    found = some.limit(MAX_COUNTED_PENDING).subquery()
    due = func.min(found.c.next_attempt_at).filter(found.c.next_attempt_at <= func.now())
    pending, oldest, most_overdue = (
        await session.execute(select(func.count(), func.min(found.c.pending_since), due).select_from(found))
    ).one()
    return DeliveryBacklog(pending, oldest, most_overdue)


async def list_deliveries(session: AsyncSession, call_id: UUID) -> Sequence[tuple[Delivery, StoredCallbackFields | None]]:
    """Returns the deliveries of a call in the order of the events, each with the fields of Twilio's callback for the event.

    The fields are stored in the call's event that has the same id as the delivery. They are None if there is no such event.
    """
    statement = (
        select(Delivery, CallEvent.id, CallEvent.data, CallEvent.data_left_out)
        .join(CallEvent, (CallEvent.call_id == Delivery.call_id) & (CallEvent.id == Delivery.id), isouter=True)
        .where(Delivery.call_id == call_id)
        .order_by(Delivery.position, Delivery.at)
    )
    rows = await session.execute(statement)
    return [
        (delivery, None if event_id is None else StoredCallbackFields(data, left_out))
        for delivery, event_id, data, left_out in rows
    ]


async def mark_delivery_due(session: AsyncSession, delivery_id: UUID, *, call_id: UUID, tenant_id: str) -> bool:
    """Makes a delivery due now, so that a worker sends it. Returns False if the tenant's call has no such delivery.

    A delivery that was delivered or given up becomes pending again, and its attempts are counted from 0.
    """
    statement = (
        update(Delivery)
        .where(Delivery.call_id == call_id, Delivery.at == ids.creation_time_of_id(delivery_id), Delivery.id == delivery_id)
        .where(Delivery.tenant_id == tenant_id)
        .values(_pending_again_values())
        .returning(Delivery.id)
    )
    await session.execute(_NOTIFY)
    return (await session.scalars(statement)).one_or_none() is not None


async def mark_deliveries_due(
    session: AsyncSession, *, tenant_id: str, since: datetime, after: UUID, failed_only: bool, limit: int
) -> Sequence[UUID]:
    """Makes given-up deliveries of a tenant pending again and, unless `failed_only`, delivered ones, too.

    Changes the `limit` oldest deliveries that were written at `since` or later and whose ids come after `after`. Returns the
    ids of the changed deliveries in order. Leaves out deliveries whose call was deleted at the end of its retention period,
    because nothing is left to send.
    """
    states = ["gave_up"] if failed_only else ["gave_up", "delivered"]
    settled = (
        select(Delivery.call_id, Delivery.id)
        .where(Delivery.tenant_id == tenant_id, Delivery.at >= since, Delivery.state.in_(states))
        .where(tuple_(Delivery.at, Delivery.id) > tuple_(ids.creation_time_of_id(after), after))
        .where(exists().where(Call.id == Delivery.call_id))
        .order_by(Delivery.at, Delivery.id)
        .limit(limit)
        .with_for_update()
        .cte("settled")
    )
    statement = (
        update(Delivery)
        # Do not compare `at` with `settled.at`, because Postgres may crash (app.deliveries.store).
        .where(Delivery.call_id == settled.c.call_id, Delivery.id == settled.c.id, Delivery.at >= since)
        .values(_pending_again_values())
        .returning(Delivery.id)
    )
    await session.execute(_NOTIFY)
    return sorted(await session.scalars(statement))


def _pending_again_values() -> dict[str, Any]:
    """Returns the column values that make a delivery pending and due now.

    The number of attempts becomes 0 unless the delivery was pending.
    """
    pending = Delivery.state == "pending"
    return {
        "state": "pending",
        "held": False,
        "next_attempt_at": func.now(),
        "attempts": case((pending, Delivery.attempts), else_=0),
        "pending_since": case((pending, Delivery.pending_since), else_=func.now()),
        "delivered_at": None,
    }
