"""Records Twilio's answers to requests that change or read a call."""

from collections.abc import Mapping
from typing import Any

import structlog

from app.calls import repository
from app.calls.control import repository as control_repository
from app.calls.models import Call, PendingUpdate
from app.calls.parameters import CallUpdate
from app.calls.progress import apply_resource
from app.database.engine import Database
from app.errors import ActionUnknown, DatabaseUnavailable, WrongCallState
from app.twilio.schemas import TERMINAL_STATUSES, CallResource

# The statuses that a request to end a call can set. A call that ends by itself may have the status `completed`, too.
_STATUSES_SET_BY_END_REQUESTS = ("canceled", "completed")

logger = structlog.stdlib.get_logger(__name__)


def is_busy_failed_or_unanswered(call: Call) -> bool:
    """Returns whether the call ended as `busy`, `failed` or `no-answer`, statuses that no request to end a call can set.

    Such a call may be redialled.
    """
    return call.status in TERMINAL_STATUSES and call.status not in _STATUSES_SET_BY_END_REQUESTS


async def record_update_by_client(
    database: Database, call: Call, resource: CallResource, update: CallUpdate, *, columns: Mapping[str, Any]
) -> Call:
    """Records a change that Twilio has made for a client. Returns the record. `columns` are further columns to set.

    If Postgres fails, usually returns the call as Twilio shows it, because a client would repeat the change after an error.
    Raises an error in three cases:

    1. Postgres fails, and `columns` are to be recorded: ActionUnknown.
    2. Postgres fails, and the update ends a call that may be redialled: DatabaseUnavailable if the update does nothing but end
       the call, otherwise ActionUnknown.
    3. The update ends a call that may be redialled, but the call had already ended as `busy`, `failed` or `no-answer`, so a
       redial may be scheduled: WrongCallState if the update does nothing but end the call, otherwise ActionUnknown.
    """
    may_be_redialled = update.status is not None and "redial" in call.parameters
    try:
        call = await record_update(database, call, resource, update, columns=columns)
    except DatabaseUnavailable:
        if may_be_redialled and update.only_ends_call:
            raise
        if may_be_redialled or columns:
            raise ActionUnknown(call_id=call.id) from None
        logger.warning("update_not_recorded", call_id=str(call.id), call_sid=call.sid)
        apply_resource(call, resource)
    if may_be_redialled and is_busy_failed_or_unanswered(call):
        raise (WrongCallState if update.only_ends_call else ActionUnknown)(call_id=call.id)
    return call


async def record_update(
    database: Database,
    call: Call,
    resource: CallResource | None,
    update: CallUpdate,
    *,
    columns: Mapping[str, Any] | None = None,
    pending: PendingUpdate | None = None,
) -> Call:
    """Records a change of the call, and the event `call.updated`. Returns the record.

    `resource` is Twilio's answer, or None if the change concerns only Callgate's own record and was not sent to Twilio.
    `columns` are further columns of the record to set. `pending` is the stored request to end the call that caused the
    change, or None if the change has another cause.

    If the update has a `status`, also deletes the stored request to end the call, except in two cases. If a later request has
    replaced `pending`, the later request stays. If the update is `canceled` and the call has not ended, a stored `completed`
    stays, because `canceled` does not end an answered call.
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
            await control_repository.delete_pending_update(session, call.id, expected_update=pending, status=status)
    return locked


async def record_fetched_call(database: Database, call: Call, resource: CallResource) -> None:
    """Records what Twilio has answered to a read of the call."""
    async with database.begin() as session:
        locked = await repository.lock_call(session, call.id)
        if locked is not None:
            await repository.record_resource(session, locked, resource)
