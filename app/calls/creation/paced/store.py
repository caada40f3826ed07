"""Writes intents, the first records of calls, if the pace of their account allows the calls. Each batch is one statement.

The pace is the account's limit of the call rate and of concurrent calls. Each intent takes a token of the call rate (a token
bucket) and a dial slot, which stands for one concurrent call.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.creation.sql_parts import rows_with_event_ids_as_json
from app.calls.creation.store import (
    IDEMPOTENCY_KEY_CONFLICT_TARGET,
    INTENT_STATE_COLUMNS,
    PENDING_INTENT_ROW_MEMBERS,
    NewCall,
    insert_calls_sql,
    intent_row,
)
from app.database.batcher import LOCKED, RowLocked
from app.database.engine import Database
from app.scheduling.admission import COUNT_ADMITTED_CALLS_SQL, SELECT_ADMITTED_CALLS_CTES_SQL, PaceRefusal
from app.scheduling.models import Pace

_INSERT_PACED_INTENTS = insert_calls_sql(
    INTENT_STATE_COLUMNS,
    on_conflict=IDEMPOTENCY_KEY_CONFLICT_TARGET,
    ctes_before=SELECT_ADMITTED_CALLS_CTES_SQL,
    final_select=COUNT_ADMITTED_CALLS_SQL,
)


async def insert_paced_intents(database: Database, calls: Sequence[NewCall]) -> dict[UUID, datetime | PaceRefusal | RowLocked]:
    """Inserts pending calls with their events: for each account as many as its pace (dialling limits) allows, the oldest first.

    Returns a result for each call, by call id: the time of the write, a PaceRefusal if the pace does not allow the call now, or
    LOCKED if another session has locked the account's pace. Leaves out a call if another call has its idempotency key.
    """
    rows = await database.fetch(
        _INSERT_PACED_INTENTS, rows_with_event_ids_as_json([intent_row(call) | PENDING_INTENT_ROW_MEMBERS for call in calls])
    )
    return {row["id"]: LOCKED if row["is_locked"] else row["updated_at"] or PaceRefusal.from_row(row) for row in rows}


async def lock_pace_in_session(session: AsyncSession, account_id: UUID) -> None:
    """Locks the account's row in `pace` (the table of dialling limits), if there is one, until the transaction ends."""
    await session.execute(select(Pace.subject_id).where(Pace.subject_id == account_id).with_for_update())
