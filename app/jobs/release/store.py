"""SQL for `callgate queues release`. Functions with a session run in the session's transaction and never commit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy import Uuid, bindparam, delete, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.models import Call
from app.database.engine import Database
from app.scheduling.dial_slots import insert_slot_sql
from app.scheduling.models import ScheduledDial

_DUE_ACCOUNTS = """
    SELECT account.id, account.tenant_id, account.account_sid, first_not_before
    FROM twilio_account AS account CROSS JOIN LATERAL (
        SELECT min(not_before) AS first_not_before FROM scheduled_dial WHERE account_id = account.id AND not_before <= $1
    ) AS due
    WHERE first_not_before IS NOT NULL
    ORDER BY account.account_sid, account.id
"""
# `pending_since`: the earliest time at which a worker can have taken a grant for the call.
_POSSIBLY_GRANTED_CALLS = """
    SELECT call.id, call.account_id, call.account_sid, call."to", call."from" AS from_, call.address_key, call.parameters,
        greatest(scheduled_dial.not_before, $3) AS pending_since
    FROM scheduled_dial JOIN call ON call.id = call_id
    WHERE scheduled_dial.account_id = $1 AND scheduled_dial.not_before <= $2 AND ($4::uuid IS NULL OR call_id > $4)
    ORDER BY call_id LIMIT $5
"""
_ADD_SLOT = text(f"""
    {insert_slot_sql(dial="scheduled_dial", granted_at="clock_timestamp()", parameters="call.parameters")}
    FROM scheduled_dial JOIN call ON call.id = call_id WHERE call_id = :call_id
    ON CONFLICT DO NOTHING
""").bindparams(bindparam("call_id", type_=Uuid))  # own constants


@dataclass(frozen=True, slots=True)
class AccountWithDueCalls:
    """An account with calls that wait although they may have been dialled.

    Their `not_before` has passed, and the database may have lost a worker's grant (its right to dial the call).
    """

    id: UUID
    tenant_id: str
    account_sid: str
    first_not_before: datetime
    """The earliest `not_before` of these calls."""


async def accounts_with_due_calls(database: Database, before: datetime) -> list[AccountWithDueCalls]:
    """Returns the accounts with waiting calls whose `not_before` is at `before` or earlier."""
    return [AccountWithDueCalls(**row) for row in await database.fetch(_DUE_ACCOUNTS, before)]


async def waiting_calls_possibly_dialled(
    database: Database, account_id: UUID, *, before: datetime, since: datetime, after: UUID | None, limit: int
) -> Sequence[Call]:
    """Returns a batch of the account's waiting calls that may have been dialled, with a grant that the database has lost.

    A grant is a worker's right to dial one scheduled call. A restore or a failover may have lost it. Returns only calls whose
    `not_before` is at `before` or earlier. Lost grants were taken at `since` or later. `pending_since` of each returned call is
    the earliest time at which a worker can have taken such a grant. `after` is the id of the last call of the previous batch.
    The returned objects belong to no session and are never written.
    """
    rows = await database.fetch(_POSSIBLY_GRANTED_CALLS, account_id, before, since, after, limit)
    return [Call(**{**row, "parameters": from_json(row["parameters"])}) for row in rows]


async def replace_scheduled_dial_with_slot(session: AsyncSession, call_id: UUID) -> None:
    """Deletes the call's row of `scheduled_dial`, so that the call is not dialled, and adds a dial slot in its place.

    With the slot, the call counts toward the limit on concurrent calls of account and queue. The slot has the call's `ring_by`.
    If Twilio still queues the call at that time, the call is canceled.
    """
    await session.execute(_ADD_SLOT, {"call_id": call_id})
    statement: Any = delete(ScheduledDial).where(ScheduledDial.call_id == call_id)
    await session.execute(statement.execution_options(synchronize_session=False))
