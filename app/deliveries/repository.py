"""SQL for deliveries. Never commits. Every read for a tenant filters by the tenant."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import bindparam, case, exists, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlalchemy.types import Interval, Text

from app.calls import ids
from app.deliveries.models import Delivery

MAX_COUNTED = 10_000
MAX_HOLDING_ATTEMPTS: Final = 2
"""A pending event holds back the later events of its call until it has failed this often."""
_HOLD = timedelta(seconds=30)

# The recursive part finds the tenants by skipping through the index, so that one tenant's backlog does not slow down the
# others. Each tenant gets at most :per_tenant rows. The search ends at :limit rows, because each tenant costs a scan of every
# partition. A held row is checked again when the row that holds it is settled, and after :hold. The events of one call are
# written within days of each other.
_CLAIM = text("""
    WITH RECURSIVE tenant AS (
        (SELECT tenant_id FROM delivery WHERE next_attempt_at IS NOT NULL AND tenant_id > :after ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT further.tenant_id FROM delivery further
                WHERE further.next_attempt_at IS NOT NULL AND further.tenant_id > tenant.tenant_id
                ORDER BY further.tenant_id LIMIT 1)
        FROM tenant WHERE tenant.tenant_id IS NOT NULL
    ), due AS (
        SELECT own.call_id, own.at, own.id, own.position
        FROM tenant CROSS JOIN LATERAL (
            SELECT call_id, at, id, position FROM delivery
            WHERE tenant_id = tenant.tenant_id AND tenant_id <> ALL(:busy) AND next_attempt_at <= now()
            ORDER BY next_attempt_at LIMIT :per_tenant FOR UPDATE SKIP LOCKED
        ) AS own
        LIMIT :limit
    ), checked AS MATERIALIZED (
        SELECT due.call_id, due.at, due.id, EXISTS (
            SELECT FROM delivery earlier
            WHERE earlier.call_id = due.call_id AND earlier.position < due.position
            AND earlier.at BETWEEN due.at - interval '30 days' AND due.at + interval '30 days'
            AND earlier.state = 'pending' AND earlier.attempts < :max_holding_attempts
        ) AS held
        FROM due
    ), claimed AS (
        UPDATE delivery SET held = checked.held, next_attempt_at = now() + CASE WHEN checked.held THEN :hold ELSE :lease END
        FROM checked WHERE delivery.call_id = checked.call_id AND delivery.at = checked.at AND delivery.id = checked.id
        RETURNING delivery.*
    )
    SELECT * FROM claimed ORDER BY tenant_id
""").bindparams(bindparam("busy", type_=ARRAY(Text)), bindparam("hold", type_=Interval), bindparam("lease", type_=Interval))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Statistics of at most MAX_COUNTED pending deliveries."""

    pending: int
    oldest: datetime | None
    most_overdue: datetime | None


async def waiting(session: AsyncSession) -> Waiting:
    some = select(Delivery.pending_since, Delivery.next_attempt_at).where(Delivery.next_attempt_at.is_not(None))
    found = some.limit(MAX_COUNTED).subquery()
    due = func.min(found.c.next_attempt_at).filter(found.c.next_attempt_at <= func.now())
    pending, oldest, most_overdue = (
        await session.execute(select(func.count(), func.min(found.c.pending_since), due).select_from(found))
    ).one()
    return Waiting(pending, oldest, most_overdue)


async def list_deliveries(session: AsyncSession, call_id: UUID) -> Sequence[Delivery]:
    """Returns the deliveries of a call in the order of the events."""
    statement = select(Delivery).where(Delivery.call_id == call_id).order_by(Delivery.position, Delivery.at)
    return (await session.scalars(statement)).all()


async def claim(
    session: AsyncSession, *, lease: timedelta, limit: int, per_tenant: int, busy: Collection[str], after: str = ""
) -> Sequence[Delivery]:
    """Claims due deliveries, at most `per_tenant` of each tenant and none of the `busy` tenants. Held ones get no lease.

    Ordered by tenant, starting with the first tenant id greater than `after`, and at most `limit` in all.
    """
    selection = {"after": after, "busy": list(busy), "per_tenant": per_tenant, "limit": limit}
    values = selection | {"max_holding_attempts": MAX_HOLDING_ATTEMPTS, "hold": _HOLD, "lease": lease}
    return (await session.scalars(select(Delivery).from_statement(_CLAIM), values)).all()


async def record_success(session: AsyncSession, delivery: Delivery, *, status: int) -> None:
    success = {"state": "delivered", "next_attempt_at": None, "delivered_at": func.now(), "last_error": None}
    await _record_attempt(session, delivery, success | {"last_status": status})


async def record_failure(
    session: AsyncSession, delivery: Delivery, *, status: int | None, error: str | None, wait: timedelta | None
) -> None:
    """Records a failed attempt. The next one is due after `wait`; None gives the delivery up."""
    next_state = {"state": "gave_up", "next_attempt_at": None} if wait is None else {"next_attempt_at": func.now() + wait}
    await _record_attempt(session, delivery, next_state | {"last_status": status, "last_error": error})


async def release(session: AsyncSession, call_ids: Collection[UUID]) -> None:
    """Makes held deliveries due at once if no earlier event holds them back any more.

    Call it in a separate transaction, after the one that claimed or recorded a result. Both sides check again after their
    commit, so at least one of two concurrent workers sees the change of the other.
    """
    earlier = aliased(Delivery)
    holds = exists().where(
        earlier.call_id == Delivery.call_id,
        earlier.position < Delivery.position,
        earlier.state == "pending",
        earlier.attempts < MAX_HOLDING_ATTEMPTS,
    )
    statement = (
        update(Delivery)
        .where(Delivery.call_id.in_(call_ids), Delivery.held, ~holds)
        .values(held=False, next_attempt_at=func.now())
        .execution_options(synchronize_session=False)
    )
    await session.execute(statement)


async def retry(session: AsyncSession, delivery_id: UUID, *, call_id: UUID, tenant_id: str) -> Delivery | None:
    """Makes a delivery due now; a settled one starts again. Returns None if the tenant's call has no such delivery."""
    statement = (
        update(Delivery)
        .where(Delivery.call_id == call_id, Delivery.at == ids.created_at(delivery_id), Delivery.id == delivery_id)
        .where(Delivery.tenant_id == tenant_id)
        .values(_pending_again())
        .returning(Delivery)
    )
    return (await session.scalars(statement)).one_or_none()


async def replay(
    session: AsyncSession, *, tenant_id: str, since: datetime, after: UUID, failed_only: bool, limit: int
) -> Sequence[UUID]:
    """Makes settled deliveries pending again, the oldest first, from `since` and after the id `after`.

    Returns their ids in order.
    """
    states = ["gave_up"] if failed_only else ["gave_up", "delivered"]
    settled = (
        select(Delivery.call_id, Delivery.at, Delivery.id)
        .where(Delivery.tenant_id == tenant_id, Delivery.at >= since, Delivery.state.in_(states))
        .where(tuple_(Delivery.at, Delivery.id) > tuple_(ids.created_at(after), after))
        .order_by(Delivery.at, Delivery.id)
        .limit(limit)
        .with_for_update()
        .cte("settled")
    )
    statement = (
        update(Delivery)
        .where(Delivery.call_id == settled.c.call_id, Delivery.at == settled.c.at, Delivery.id == settled.c.id)
        .values(_pending_again())
        .returning(Delivery.id)
    )
    return sorted(await session.scalars(statement))


def _pending_again() -> dict[str, Any]:
    pending = Delivery.state == "pending"
    return {
        "state": "pending",
        "held": False,
        "next_attempt_at": func.now(),
        "attempts": case((pending, Delivery.attempts), else_=0),
        "pending_since": case((pending, Delivery.pending_since), else_=func.now()),
        "delivered_at": None,
    }


async def _record_attempt(session: AsyncSession, delivery: Delivery, values: dict[str, Any]) -> None:
    """Records an attempt, unless the lease ended and another worker has delivered it meanwhile."""
    statement = (
        update(Delivery)
        .where(Delivery.call_id == delivery.call_id, Delivery.at == delivery.at, Delivery.id == delivery.id)
        .where(Delivery.state == "pending")
        .values(values | {"attempts": Delivery.attempts + 1, "last_attempt_at": func.now()})
        .execution_options(synchronize_session=False)
    )
    await session.execute(statement)
