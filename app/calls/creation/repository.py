"""SQL that changes the record of a call for a new attempt to dial it, or for one that Postgres has lost. Never commits."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.status_callbacks import CALLBACK_COLUMNS, callback_columns_for_new_attempt
from app.scheduling.dial_slots import insert_slot_sql
from app.scheduling.models import ScheduledDial

_ADD_SLOT = text(f"""
    {insert_slot_sql(dial="dial", granted_at="clock_timestamp()", parameters="call.parameters")}
    FROM jsonb_populate_record(NULL::scheduled_dial, CAST(:dial AS jsonb)) AS dial JOIN call ON call.id = dial.call_id
    ON CONFLICT (call_id) DO UPDATE SET until = excluded.until, ring_by = excluded.ring_by, granted_at = excluded.granted_at
""")  # own constants
_ATTRIBUTES_KEPT_ON_REOPEN = frozenset({"id", "tenant_id", "created_at", "idempotency_key", "redial_of"})
_ATTRIBUTES_SET_ON_REOPEN = tuple(each.name for each in fields(NewCall) if each.name not in _ATTRIBUTES_KEPT_ON_REOPEN)


async def reopen_call(session: AsyncSession, call: Call, new_intent: NewCall) -> Call | None:
    """Makes a `not_started` call pending or scheduled again, for another attempt, with the values of `new_intent`.

    Returns the changed record, or None if another request has reopened the call already.
    """
    recorded, wanted = ({name: getattr(each, name) for name in CALLBACK_COLUMNS} for each in (call, new_intent))
    callbacks = callback_columns_for_new_attempt(recorded, wanted, events_with_delivery=call.deliveries_written)
    statement = (
        update(Call)
        .where(Call.id == call.id, Call.execution == "not_started", Call.attempt == call.attempt)
        .values(
            **(_values_for_new_attempt(new_intent) | callbacks),
            execution=new_intent.execution,
            pending_since=func.now(),
            attempt=Call.attempt + 1,
        )
        .returning(Call)
    )
    return (await session.scalars(statement)).one_or_none()


async def update_pending_call(session: AsyncSession, call: NewCall, columns: Mapping[str, Any]) -> None:
    """Sets `columns` of the record of `call`. Changes nothing unless the record is pending in the same attempt as `call`."""
    is_same = Call.attempt == call.attempt, Call.pending_since == call.pending_since
    await session.execute(update(Call).where(Call.id == call.id, Call.execution == "pending", *is_same).values(**columns))


async def lock_scheduled_dial(session: AsyncSession, call_id: UUID) -> bool:
    """Locks the call's row of `scheduled_dial`, which exists while the call waits to be dialled. Returns whether there is one.

    Callers lock this row before the row of the call, because a fixed order prevents deadlocks.
    """
    statement = select(ScheduledDial.call_id).where(ScheduledDial.call_id == call_id).with_for_update()
    return await session.scalar(statement) is not None


async def restore_lost_attempt(
    session: AsyncSession, record: Call, call: Call | NewCall, *, dial_row: Mapping[str, Any] | None
) -> None:
    """Restores, in a call's record, an attempt to dial that Postgres has lost, for example in a failover.

    The call is then pending in that attempt. `call` is this process's copy of the call in the attempt; `record` is the locked
    row, which shows an older state. `dial_row` is a scheduled call's row for `scheduled_dial` (`RequeueValues.dial_row`), and
    None for any other call.

    A scheduled call also gets a dial slot, so that it counts toward `max_concurrent`. Its row in `scheduled_dial`, which may be
    there again, is deleted, so that the call is not dialled again. The caller must have locked that row
    (`lock_scheduled_dial`) before it locked the record.
    """
    restored = {"execution": "pending", "pending_since": call.pending_since, "attempt": call.attempt}
    for name, value in (_values_for_new_attempt(call) | restored).items():
        setattr(record, name, value)
    if dial_row is not None:
        statement: Any = delete(ScheduledDial).where(ScheduledDial.call_id == call.id)
        await session.execute(statement.execution_options(synchronize_session=False))
        await session.execute(_ADD_SLOT, {"dial": to_json(dial_row).decode()})


def _values_for_new_attempt(intent: Call | NewCall) -> dict[str, Any]:
    """Returns the values with which a record begins another attempt: those of `intent`, and no outcome."""
    values = {name: getattr(intent, name) for name in _ATTRIBUTES_SET_ON_REOPEN}
    return values | {"problem": None, "settled_by": None, "settled_at": None, "clean_searches": 0}
