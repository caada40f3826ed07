"""Records Twilio's answers to requests that change or read a call."""

from collections.abc import Mapping
from typing import Any

from app.calls import repository
from app.calls.control import repository as control_repository
from app.calls.models import Call, PendingUpdate
from app.calls.parameters import CallUpdate
from app.database.engine import Database
from app.twilio.schemas import TERMINAL_STATUSES, CallResource


async def record_update(
    database: Database,
    call: Call,
    resource: CallResource | None,
    update: CallUpdate,
    *,
    columns: Mapping[str, Any] | None = None,
    pending: PendingUpdate | None = None,
) -> Call:
    """Records a change that was made, and Twilio's answer `resource`. Returns the record.

    `resource` is None if the change concerns only Callgate's own record, so that nothing was sent to Twilio.
    `columns` are further columns of the record to set. `pending` is the stored request to end the call, if the change was
    sent because of one. If the change sets a status, the call's stored request is deleted, unless it was stored after
    `pending`. `canceled` does not end an answered call, so a stored `completed` is kept until the call has ended.
    """
    async with database.begin() as session:
        locked = await repository.lock_call(session, call.id)
        if locked is None:
            return call
        for name, value in (columns or {}).items():
            setattr(locked, name, value)
        event_data = update.parameters_for_event() | ({"remembered": True} if pending else {})
        await repository.add_event(session, call.id, "call.updated", event_data)
        if resource is not None:
            await repository.record_resource(session, locked, resource)
            # The next status follows soon.
            locked.refresh_at = await repository.transaction_start_time(session)
        if update.status is not None:
            ends_call = update.status == "completed" or locked.status in TERMINAL_STATUSES
            status = None if ends_call else update.status
            await control_repository.delete_pending_update(session, call.id, only=pending, status=status)
    return locked


async def record_fetched_call(database: Database, call: Call, resource: CallResource) -> None:
    """Records what Twilio has answered to a read of the call."""
    async with database.begin() as session:
        locked = await repository.lock_call(session, call.id)
        if locked is not None:
            await repository.record_resource(session, locked, resource)
