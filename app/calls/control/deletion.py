"""Deletes a call at Twilio. Does not import FastAPI."""

from functools import partial

import structlog

from app.calls import repository
from app.calls.control.records import record_fetched_call
from app.calls.control.service import CHANGE_ERRORS_BY_TWILIO_ERROR, CallControl
from app.calls.models import Call
from app.calls.not_found_at_twilio import is_call_not_found, is_deleted_at_twilio
from app.calls.upstream_problems import problem_for_change
from app.errors import ActionUnknown, DatabaseUnavailable, UpstreamUnreachable
from app.twilio.errors import TwilioError, TwilioOutcomeUnknown
from app.twilio.schemas import TERMINAL_STATUSES

logger = structlog.stdlib.get_logger(__name__)


async def delete_at_twilio(control: CallControl, call: Call) -> None:
    """Deletes the call at Twilio. Callgate's record stays for audit but is not shown under Twilio's paths (/2010-04-01).

    If the record does not show how the call ended, first reads the call from Twilio, because this is not possible after the
    deletion. Raises UpstreamUnreachable if the answer to this read was lost: the call is then not deleted. Raises
    NoUsableCredentials if none of the account's credentials can be used. Raises ActionUnknown if the answer to the deletion was
    lost, or the deletion could not be recorded.
    """
    await control.require_usable_account(call)
    delete = partial(control.twilio.delete_call, sid=call.sid or "", deadline_s=control.deadline_s)
    try:
        async with control.request_limit.admit_request(call.tenant_id):
            if call.status not in TERMINAL_STATUSES:
                await _fetch_and_record_call(control, call)
            await control.try_each_credential(call, delete)
    except TwilioOutcomeUnknown as error:
        raise deletion_unknown_error(call) from error
    except TwilioError as error:
        if not is_call_not_found(error) or not is_deleted_at_twilio(call, error, now=await control.postgres_time()):
            raise problem_for_change(error, CHANGE_ERRORS_BY_TWILIO_ERROR, call_id=call.id) from error
    try:
        async with control.database.begin() as session:
            locked = await repository.lock_call(session, call.id)
            if locked is not None:
                await repository.mark_deleted(session, locked, by="tenant")
    except DatabaseUnavailable as error:
        # A 503 would say that nothing was changed. The record is still shown until the deletion is repeated.
        logger.warning("deletion_not_recorded", call_id=str(call.id), call_sid=call.sid, reason=error.reason)
        raise deletion_unknown_error(call) from error


def deletion_unknown_error(call: Call) -> ActionUnknown:
    """Returns the error for the client if it is unknown whether Twilio deleted the call, or the deletion was not recorded."""
    return ActionUnknown("Twilio may have deleted the call. It is safe to delete it again.", call_id=call.id)


async def _fetch_and_record_call(control: CallControl, call: Call) -> None:
    """Reads the call from Twilio, and commits Twilio's answer to the record before the call is deleted.

    Raises UpstreamUnreachable if Twilio's answer was lost, and TwilioError if the read failed in another way.
    """
    try:
        resource = await control.fetch_from_twilio(call)
    except TwilioOutcomeUnknown as error:
        detail = "Twilio gave no usable answer when the call was read. The call was not deleted."
        raise UpstreamUnreachable(detail, call_id=call.id, retry_after_s=5) from error
    await record_fetched_call(control.database, call, resource)
