"""What is no longer kept: every statement that deletes for age. Never commits.

Nothing goes whose outcome is open or that somebody still follows. Locked rows are passed over: who works on one comes first.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, exists, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.callbacks.models import Delivery
from app.calls.ids import first_id_at
from app.calls.models import Call, CallEvent, WantedUpdate
from app.database import Partition

_SETTLED = ("started", "not_started")
_OVER = {CallEvent.__tablename__: "true", Delivery.__tablename__: "next_attempt_at IS NULL"}


async def expire_calls(session: AsyncSession, *, after: UUID, before: datetime, limit: int) -> Sequence[UUID]:
    """Delete calls last dialled before that time, the oldest beyond `after` first. Their ids, in order."""
    expired = (
        select(Call.id)
        .where(Call.id > after, Call.id < first_id_at(before), Call.pending_since < before)
        .where(Call.execution.in_(_SETTLED), Call.refresh_at.is_(None), Call.search_at.is_(None))
        .where(~exists().where(WantedUpdate.call_id == Call.id))
        .where(~exists().where(Delivery.call_id == Call.id, Delivery.next_attempt_at.is_not(None)))
        .order_by(Call.id)
        .limit(limit)
        .with_for_update(of=Call, skip_locked=True)
        .cte("expired")
    )
    statement = delete(Call).where(Call.id.in_(select(expired.c.id))).returning(Call.id)
    return sorted(await session.scalars(statement.execution_options(synchronize_session=False)))


async def expire_strays(session: AsyncSession, table: str, *, before: datetime, limit: int) -> int:
    """Delete rows of that time from the default partition of `table`, which is never dropped. Returns how many."""
    statement = text(f"""
        DELETE FROM {table}_default WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table}_default WHERE at < :before AND {_OVER[table]} LIMIT :limit FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    """)  # noqa: S608  # our own names
    return len((await session.execute(statement, {"before": before, "limit": limit})).all())


async def is_over(session: AsyncSession, partition: Partition) -> bool:
    """Whether nobody waits for anything in it."""
    statement = text(f"SELECT NOT EXISTS (SELECT FROM {partition.name} WHERE NOT ({_OVER[partition.table]}))")  # noqa: S608
    return bool(await session.scalar(statement))
