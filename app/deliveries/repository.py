"""Every statement on deliveries. Never commits; every read for a tenant is filtered by it."""

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

WAITING_LIMIT = 10_000
HOLDS_UP: Final = 2
"""An earlier event holds up the later ones of its call until it has failed as often as this."""
_HOLD = timedelta(seconds=30)

# The tenants are found by skipping through the index, so that what one of them has piled up costs the others nothing; each
# gets its share, and none is looked for beyond the room there is: every look is one at each month's partition. What is held is
# looked at again when what holds it is settled, or now and then. The events of one call are written within days of each other.
_CLAIM = text("""
    WITH RECURSIVE tenant AS (
        (SELECT tenant_id FROM delivery WHERE next_attempt_at IS NOT NULL AND tenant_id > :after ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT further.tenant_id FROM delivery further
                WHERE further.next_attempt_at IS NOT NULL AND further.tenant_id > tenant.tenant_id
                ORDER BY further.tenant_id LIMIT 1)
        FROM tenant WHERE tenant.tenant_id IS NOT NULL
    ), due AS (
        SELECT theirs.call_id, theirs.at, theirs.id, theirs.position
        FROM tenant CROSS JOIN LATERAL (
            SELECT call_id, at, id, position FROM delivery
            WHERE tenant_id = tenant.tenant_id AND tenant_id <> ALL(:busy) AND next_attempt_at <= now()
            ORDER BY next_attempt_at LIMIT :share FOR UPDATE SKIP LOCKED
        ) AS theirs
        LIMIT :room
    ), judged AS MATERIALIZED (
        SELECT due.call_id, due.at, due.id, EXISTS (
            SELECT FROM delivery earlier
            WHERE earlier.call_id = due.call_id AND earlier.position < due.position
            AND earlier.at BETWEEN due.at - interval '30 days' AND due.at + interval '30 days'
            AND earlier.state = 'pending' AND earlier.attempts < :holds_up
        ) AS held
        FROM due
    ), claimed AS (
        UPDATE delivery SET held = judged.held, next_attempt_at = now() + CASE WHEN judged.held THEN :hold ELSE :lease END
        FROM judged WHERE delivery.call_id = judged.call_id AND delivery.at = judged.at AND delivery.id = judged.id
        RETURNING delivery.*
    )
    SELECT * FROM claimed ORDER BY tenant_id
""").bindparams(bindparam("busy", type_=ARRAY(Text)), bindparam("hold", type_=Interval), bindparam("lease", type_=Interval))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Of the deliveries that are not made yet; of at most WAITING_LIMIT of them."""

    pending: int
    oldest: datetime | None
    most_overdue: datetime | None


async def waiting(session: AsyncSession) -> Waiting:
    some = select(Delivery.pending_since, Delivery.next_attempt_at).where(Delivery.next_attempt_at.is_not(None))
    found = some.limit(WAITING_LIMIT).subquery()
    due = func.min(found.c.next_attempt_at).filter(found.c.next_attempt_at <= func.now())
    pending, oldest, most_overdue = (
        await session.execute(select(func.count(), func.min(found.c.pending_since), due).select_from(found))
    ).one()
    return Waiting(pending, oldest, most_overdue)


async def list_deliveries(session: AsyncSession, call_id: UUID) -> Sequence[Delivery]:
    """In the order of the events."""
    statement = select(Delivery).where(Delivery.call_id == call_id).order_by(Delivery.position, Delivery.at)
    return (await session.scalars(statement)).all()


async def claim(
    session: AsyncSession, *, lease: timedelta, room: int, share: int, busy: Collection[str], after: str = ""
) -> Sequence[Delivery]:
    """Due deliveries, at most `share` of a tenant's and none of those of the `busy` ones; leased, except the held ones.

    By tenant, from the first one beyond `after` on until there is no more room.
    """
    of_whom = {"after": after, "busy": list(busy), "share": share, "room": room}
    values = of_whom | {"holds_up": HOLDS_UP, "hold": _HOLD, "lease": lease}
    return (await session.scalars(select(Delivery).from_statement(_CLAIM), values)).all()


async def delivered(session: AsyncSession, delivery: Delivery, *, status: int) -> None:
    outcome = {"state": "delivered", "next_attempt_at": None, "delivered_at": func.now(), "last_error": None}
    await _attempted(session, delivery, outcome | {"last_status": status})


async def failed(
    session: AsyncSession, delivery: Delivery, *, status: int | None, error: str | None, wait: timedelta | None
) -> None:
    """To be tried again after `wait`; None: given up."""
    again = {"state": "gave_up", "next_attempt_at": None} if wait is None else {"next_attempt_at": func.now() + wait}
    await _attempted(session, delivery, again | {"last_status": status, "last_error": error})


async def release(session: AsyncSession, call_ids: Collection[UUID]) -> None:
    """What nothing holds up any more is due at once.

    To be called in a transaction of its own, after one that claimed or that wrote an outcome: each of the two looks again when
    its own news is there for all to see, so at least one of them sees the other's.
    """
    earlier = aliased(Delivery)
    holds = exists().where(
        earlier.call_id == Delivery.call_id,
        earlier.position < Delivery.position,
        earlier.state == "pending",
        earlier.attempts < HOLDS_UP,
    )
    statement = (
        update(Delivery)
        .where(Delivery.call_id.in_(call_ids), Delivery.held, ~holds)
        .values(held=False, next_attempt_at=func.now())
        .execution_options(synchronize_session=False)
    )
    await session.execute(statement)


async def retry(session: AsyncSession, delivery_id: UUID, *, call_id: UUID, tenant_id: str) -> Delivery | None:
    """Due now. One that was settled begins anew; None when the tenant's call has no such delivery."""
    statement = (
        update(Delivery)
        .where(Delivery.call_id == call_id, Delivery.at == ids.created_at(delivery_id), Delivery.id == delivery_id)
        .where(Delivery.tenant_id == tenant_id)
        .values(_anew())
        .returning(Delivery)
    )
    return (await session.scalars(statement)).one_or_none()


async def replay(
    session: AsyncSession, *, tenant_id: str, since: datetime, after: UUID, failed_only: bool, limit: int
) -> Sequence[UUID]:
    """Begin settled deliveries anew, the oldest first, from `since` and `after` on; their ids, in order."""
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
        .values(_anew())
        .returning(Delivery.id)
    )
    return sorted(await session.scalars(statement))


def _anew() -> dict[str, Any]:
    pending = Delivery.state == "pending"
    return {
        "state": "pending",
        "held": False,
        "next_attempt_at": func.now(),
        "attempts": case((pending, Delivery.attempts), else_=0),
        "pending_since": case((pending, Delivery.pending_since), else_=func.now()),
        "delivered_at": None,
    }


async def _attempted(session: AsyncSession, delivery: Delivery, outcome: dict[str, Any]) -> None:
    """Unless it was delivered meanwhile, by whoever took it over when the lease had ended."""
    statement = (
        update(Delivery)
        .where(Delivery.call_id == delivery.call_id, Delivery.at == delivery.at, Delivery.id == delivery.id)
        .where(Delivery.state == "pending")
        .values(outcome | {"attempts": Delivery.attempts + 1, "last_attempt_at": func.now()})
        .execution_options(synchronize_session=False)
    )
    await session.execute(statement)
