"""SQL for pending updates (stored requests to end a call), and for the time of the last event from Twilio. Never commits."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import case, delete, func, not_, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.leases import account_id_not_in
from app.calls.models import Call, CallEvent, PendingUpdate

# Events that Twilio caused.
_TWILIO_EVENTS = ("call.started", "call.corrected", "call.callback", "call.status", "call.priced", "call.updated")

# app.calls.search_plan.is_outcome_open in SQL.
_OUTCOME_IS_OPEN = or_(
    Call.execution.in_(("pending", "unknown")),
    Call.settled_by.is_not_distinct_from("none_found") & Call.search_at.is_not(None),
)
# A pending update can be sent or deleted only when the outcome of its call is known.
_OUTCOME_IS_KNOWN = not_(_OUTCOME_IS_OPEN)


async def store_pending_update(session: AsyncSession, call: Call, *, status: str) -> None:
    """Stores a request to end the call, in place of an earlier one. `status` is Twilio's `canceled` or `completed`.

    If the earlier request is for the same attempt to dial the call and has the status `completed`, this status is kept, because
    `canceled` does not end an answered call.
    """
    values = {"status": status, "attempt": call.attempt, "wanted_at": func.now(), "due_at": func.now()}
    statement = upsert(PendingUpdate).values(call_id=call.id, **values)
    is_stronger = (PendingUpdate.status == "completed") & (PendingUpdate.attempt == call.attempt)
    changed = values | {"status": case((is_stronger, PendingUpdate.status), else_=status)}
    await session.execute(statement.on_conflict_do_update(index_elements=[PendingUpdate.call_id], set_=changed))


async def delete_pending_update(
    session: AsyncSession, call_id: UUID, *, expected_update: PendingUpdate | None = None, status: str | None = None
) -> PendingUpdate | None:
    """Deletes the call's stored request to end the call, and returns this request. Returns None if nothing was deleted.

    With `expected_update`, deletes just this request, and not a later one that has replaced it. With `status`, deletes only a
    request with this status.
    """
    statement = delete(PendingUpdate).where(PendingUpdate.call_id == call_id).returning(PendingUpdate)
    if expected_update is not None:
        statement = statement.where(PendingUpdate.due_at == expected_update.due_at)
    if status is not None:
        statement = statement.where(PendingUpdate.status == status)
    return (await session.scalars(statement)).one_or_none()


async def postpone_pending_update(session: AsyncSession, pending: PendingUpdate, wait: timedelta) -> None:
    """Postpones a stored request to end a call by `wait`, counted from now. Does nothing if a later request has replaced it."""
    is_same = (PendingUpdate.call_id == pending.call_id) & (PendingUpdate.due_at == pending.due_at)
    await session.execute(update(PendingUpdate).where(is_same).values(due_at=func.now() + wait))


async def claim_pending_updates(
    session: AsyncSession, *, lease: timedelta, limit: int, busy_accounts: Collection[UUID]
) -> Sequence[tuple[PendingUpdate, Call]]:
    """Claims up to `limit` due requests to end a call (`PendingUpdate`), and returns each request with its call.

    Other workers skip the claimed requests until `lease` has passed. Leaves out calls of `busy_accounts`, whose earlier
    requests this worker has not finished. Also leaves out calls for which a callback or a search may still show whether Twilio
    has started them: their requests wait until this is known.
    """
    due = (
        select(PendingUpdate.call_id)
        .join(Call, Call.id == PendingUpdate.call_id)
        .where(PendingUpdate.due_at <= func.now(), _OUTCOME_IS_KNOWN, account_id_not_in(Call.account_id, busy_accounts))
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
    updates = {pending.call_id: pending for pending in await session.scalars(leased)}
    calls = await session.scalars(select(Call).where(Call.id.in_(updates)))
    return [(updates[call.id], call) for call in calls]


async def earliest_pending_update_due_at(session: AsyncSession) -> datetime | None:
    """Returns the earliest time at which a stored request to end a call is due; None if there is none.

    The time may be past or future. Leaves out requests that wait because it is still open whether Twilio has started the call.
    """
    statement = select(func.min(PendingUpdate.due_at)).join(Call, Call.id == PendingUpdate.call_id).where(_OUTCOME_IS_KNOWN)
    return await session.scalar(statement)


async def last_twilio_event_at(session: AsyncSession, call: Call) -> datetime:
    """Returns the time of the call's last event that came from Twilio, such as a callback, or `created_at` if there is none."""
    # If Callgate sends the callbacks, a change of only their method is not sent to Twilio, so its event does not count.
    came_from_twilio = (
        CallEvent.type.in_(_TWILIO_EVENTS),
        CallEvent.data["parameters"].is_distinct_from(["status_callback_method"]),
    )
    statement = select(func.max(CallEvent.at)).where(CallEvent.call_id == call.id, *came_from_twilio)
    return (await session.scalar(statement)) or call.created_at
