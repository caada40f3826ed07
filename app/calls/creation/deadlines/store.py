"""SQL of the calls that were granted: whose deadline has come, and where there are slots."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.models import Call
from app.database.engine import Database
from app.scheduling.accounts import accounts_of
from app.scheduling.models import DialSlot

# Those whose call has ended are among them until the slot is freed.
_ACCOUNTS_WITH_SLOTS = f"""
    {accounts_of("dial_slot")}
    SELECT account_id FROM account WHERE account_id IS NOT NULL
"""  # noqa: S608  # a constant
_CHECK_AGAIN = "UPDATE dial_slot SET ring_by = clock_timestamp() + $2::interval WHERE call_id = $1"
_END_DEADLINE = "UPDATE dial_slot SET ring_by = NULL WHERE call_id = $1"


async def accounts_with_slots(database: Database) -> list[UUID]:
    return [row["account_id"] for row in await database.fetch(_ACCOUNTS_WITH_SLOTS)]


async def claim_deadlines(session: AsyncSession, *, lease: timedelta, limit: int) -> Sequence[Call]:
    """Returns calls whose `ring_by` has come, and moves it by `lease`."""
    due = (
        select(DialSlot.call_id)
        .where(DialSlot.ring_by <= func.now())
        .order_by(DialSlot.ring_by)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    leased = update(DialSlot).where(DialSlot.call_id == due.c.call_id).values(ring_by=func.now() + lease)
    call_ids = (await session.scalars(leased.returning(DialSlot.call_id))).all()
    return (await session.scalars(select(Call).where(Call.id.in_(call_ids)))).all()


async def check_deadline_again(database: Database, call_id: UUID, wait: timedelta) -> None:
    await database.fetch(_CHECK_AGAIN, call_id, wait)


async def end_deadline(database: Database, call_id: UUID) -> None:
    await database.fetch(_END_DEADLINE, call_id)
