"""SQL for scheduled calls that may be in Twilio's queue at their `ring_by`, the latest time at which they may begin to ring.

`ring_by` is stored in the call's dial slot, a row of `dial_slot` that stands for one concurrent call of an account.

Also deletes rows of `dial_turn` that are not needed any more. The table has a row for each API key and workload that schedules
calls, with the time at which a worker last took the right to dial one of its calls. The row with the oldest time is next.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from asyncpg import LockNotAvailableError
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.leases import account_id_not_in
from app.calls.models import Call
from app.database.engine import Database
from app.scheduling.accounts import accounts_with_rows_sql
from app.scheduling.models import DialSlot
from app.scheduling.schedule import PRIORITIES

# Includes slots of ended calls that are not freed yet.
_ACCOUNTS_WITH_SLOTS = f"""
    {accounts_with_rows_sql("dial_slot")}
    SELECT account_id FROM account WHERE account_id IS NOT NULL
"""  # noqa: S608  # a constant
_POSTPONE_RING_BY_CHECK_SQL = "UPDATE dial_slot SET ring_by = clock_timestamp() + $2::interval WHERE call_id = $1"
# No call is dialled whose API key or workload has no row in `dial_turn`. The lock keeps other sessions from scheduling calls
# while such rows are deleted, and the next statement sees all calls that were scheduled before the lock.
_SET_LOCK_TIMEOUT_SQL = "SET LOCAL lock_timeout = '100ms'"
_LOCK_SCHEDULED = "LOCK TABLE scheduled_dial IN SHARE MODE"
_IDLE_DIAL_TURNS = f"""
    SELECT account_id, caller_id FROM dial_turn
    WHERE last_grant_at < now() - $1::interval AND NOT EXISTS (
        SELECT FROM scheduled_dial AS waiting
        WHERE waiting.account_id = dial_turn.account_id AND waiting.caller_id = dial_turn.caller_id
            AND waiting.priority IN ({", ".join(str(place) for place in range(len(PRIORITIES)))})
    )
    LIMIT $2
"""  # noqa: S608  # own constants
_DELETE_IDLE_TURNS = f"""
    DELETE FROM dial_turn USING ({_IDLE_DIAL_TURNS}) AS idle
    WHERE dial_turn.account_id = idle.account_id AND dial_turn.caller_id = idle.caller_id
    RETURNING dial_turn.account_id
"""  # noqa: S608  # own constants
_CLEAR_DEADLINE = "UPDATE dial_slot SET ring_by = NULL WHERE call_id = $1"


async def accounts_with_taken_dial_slots(database: Database) -> list[UUID]:
    return [row["account_id"] for row in await database.fetch(_ACCOUNTS_WITH_SLOTS)]


async def claim_calls_past_ring_by(
    session: AsyncSession, *, lease: timedelta, limit: int, busy_accounts: Collection[UUID]
) -> Sequence[Call]:
    """Claims and returns at most `limit` calls whose `ring_by` has passed, the latest time at which a call may begin to ring.

    A worker has taken the right to dial each of these calls, and may have dialled it. Leaves out the calls of the accounts in
    `busy_accounts`. Other workers skip the claimed calls until `lease` has passed.
    """
    due = (
        select(DialSlot.call_id)
        .where(DialSlot.ring_by <= func.now(), account_id_not_in(DialSlot.account_id, busy_accounts))
        .order_by(DialSlot.ring_by)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    leased = update(DialSlot).where(DialSlot.call_id == due.c.call_id).values(ring_by=func.now() + lease)
    call_ids = (await session.scalars(leased.returning(DialSlot.call_id))).all()
    return (await session.scalars(select(Call).where(Call.id.in_(call_ids)))).all()


async def postpone_ring_by_check(database: Database, call_id: UUID, wait: timedelta) -> None:
    await database.fetch(_POSTPONE_RING_BY_CHECK_SQL, call_id, wait)


async def delete_idle_dial_turn_rows(database: Database, idle_for: timedelta, *, limit: int) -> int:
    """Deletes at most `limit` rows of `dial_turn` that are not needed any more. Returns the number of deleted rows.

    A row belongs to an API key or a workload, and has the time at which a worker last took the right to dial one of its calls.
    The row is not needed if this time is more than `idle_for` ago and no call of the key or workload waits to be dialled.

    Locks the table `scheduled_dial` for some milliseconds, in which no call can be scheduled, and no worker can take the right
    to dial one. Returns 0 if the table cannot be locked within 0.1 s.
    """
    if not await database.fetch(_IDLE_DIAL_TURNS, idle_for, 1):
        return 0
    async with database.transaction() as connection:
        await connection.execute(_SET_LOCK_TIMEOUT_SQL)
        try:
            async with connection.transaction():
                await connection.execute(_LOCK_SCHEDULED)
        except LockNotAvailableError:
            return 0
        return len(await connection.fetch(_DELETE_IDLE_TURNS, idle_for, limit))


async def clear_ring_by(database: Database, call_id: UUID) -> None:
    await database.fetch(_CLEAR_DEADLINE, call_id)
