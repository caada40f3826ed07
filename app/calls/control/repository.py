"""Every statement on wanted updates, and on when there was last news of a call. Never commits."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.models import Call, CallEvent, PendingUpdate

# Events that say what Twilio told us.
_NEWS = ("call.started", "call.corrected", "call.callback", "call.status", "call.priced", "call.updated")


async def want(session: AsyncSession, call: Call, *, status: str) -> None:
    """Remember how the call is to be ended; a later wish replaces an earlier one."""
    values = {"status": status, "attempt": call.attempt, "due_at": func.now()}
    statement = upsert(PendingUpdate).values(call_id=call.id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[PendingUpdate.call_id], set_=values))


async def forget(session: AsyncSession, call_id: UUID, *, only: PendingUpdate | None = None) -> PendingUpdate | None:
    """The wish, taken away; None when there is none (any more). `only` as it was claimed: one that came since stays."""
    statement = delete(PendingUpdate).where(PendingUpdate.call_id == call_id).returning(PendingUpdate)
    if only is not None:
        statement = statement.where(PendingUpdate.due_at == only.due_at)
    return (await session.scalars(statement)).one_or_none()


async def postpone(session: AsyncSession, call_id: UUID, wait: timedelta) -> None:
    await session.execute(update(PendingUpdate).where(PendingUpdate.call_id == call_id).values(due_at=func.now() + wait))


async def claim_pending_updates(session: AsyncSession, *, lease: timedelta, limit: int) -> Sequence[tuple[PendingUpdate, Call]]:
    """Due wishes whose call is known to have started or not, leased by moving their time forward.

    A call that was given up as none found may yet turn up, so its wish stays until nobody looks for it any more.
    """
    settled = or_(
        Call.execution == "started",
        (Call.execution == "not_started") & or_(Call.settled_by != "none_found", Call.search_at.is_(None)),
    )
    due = (
        select(PendingUpdate.call_id)
        .join(Call, Call.id == PendingUpdate.call_id)
        .where(PendingUpdate.due_at <= func.now(), settled)
        .order_by(PendingUpdate.due_at)
        .limit(limit)
        .with_for_update(of=PendingUpdate, skip_locked=True)
        .cte("due")
    )
    leased = (
        update(PendingUpdate)
        .where(PendingUpdate.call_id.in_(select(due.c.call_id)))
        .values(due_at=func.now() + lease)
        .returning(PendingUpdate)
    )
    wanted = {wish.call_id: wish for wish in await session.scalars(leased)}
    calls = await session.scalars(select(Call).where(Call.id.in_(wanted)))
    return [(wanted[call.id], call) for call in calls]


async def last_news_at(session: AsyncSession, call: Call) -> datetime:
    """When the record last took something from Twilio that it did not know yet."""
    statement = select(func.max(CallEvent.at)).where(CallEvent.call_id == call.id, CallEvent.type.in_(_NEWS))
    return (await session.scalar(statement)) or call.created_at
