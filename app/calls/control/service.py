"""Changes a call: cancels it, ends it, redirects it. Does not import FastAPI.

A request to end a call is stored and sent later if the call is not known to have started, or if Twilio's answer was lost:
ending a call is idempotent. For any other change the client gets an error instead.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import structlog

from app.calls import repository
from app.calls.callback_urls import CallbackUrls
from app.calls.control import repository as control_repository
from app.calls.control.records import is_busy_failed_or_unanswered, record_fetched_call, record_update, record_update_by_client
from app.calls.control.validation import validate_update
from app.calls.creation.scheduled.store import end_waiting_calls_by_id
from app.calls.models import Call, PendingUpdate
from app.calls.not_found_at_twilio import is_call_not_found, may_be_found_later
from app.calls.parameters import CallUpdate
from app.calls.search_plan import is_outcome_open
from app.calls.settlement import Settlement
from app.calls.status_callbacks import StatusCallbackSettings, UrlValidator, status_callbacks_for_update
from app.calls.upstream_problems import problem_for_change
from app.database.engine import Database, Session
from app.errors import ActionUnknown, CallgateError, DatabaseUnavailable, NoUsableCredentials, TenantSuspended, WrongCallState
from app.http.concurrency import ConcurrencyLimit
from app.tenants.caller import Caller
from app.tenants.directory import TenantDirectory, UsableAccount
from app.twilio.client import TwilioClient, try_credentials
from app.twilio.errors import TwilioError, TwilioNotFound, TwilioOutcomeUnknown, TwilioRejected, TwilioWrongState
from app.twilio.schemas import MAX_CALL_TIME, MAX_QUEUE_TIME, TERMINAL_STATUSES, CallResource, Credential

Result = TypeVar("Result")

logger = structlog.stdlib.get_logger(__name__)

# Each further attempt follows a dial that Twilio refused for a temporary reason. The next dial comes at least a second later.
_MAX_CANCEL_ATTEMPTS = 5
CHANGE_ERRORS_BY_TWILIO_ERROR: Mapping[type[TwilioError], type[CallgateError]] = {TwilioWrongState: WrongCallState}
"""Maps Twilio's errors to errors for the client. Has only those for which a change needs another error than a creation."""
_MIN_RETRY_WAIT, _MAX_RETRY_WAIT = timedelta(seconds=1), timedelta(seconds=60)
# How long after the request a pending update is tried: every call has ended by then.
_MAX_PENDING_UPDATE_AGE = MAX_QUEUE_TIME + MAX_CALL_TIME


@dataclass(frozen=True, slots=True)
class ControlResult:
    """The call after an update. `done` is False if the change is not made yet, but stored to be sent to Twilio later."""

    call: Call
    done: bool


@dataclass(frozen=True, slots=True)
class CallControl:
    """Changes calls at Twilio.

    `request_limit` limits the concurrent requests to Twilio that clients cause. Each may take `deadline_s` seconds.
    """

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    callback_urls: CallbackUrls | None
    validate_callback: UrlValidator
    settlement: Settlement
    deadline_s: float
    request_limit: ConcurrencyLimit

    async def update(self, caller: Caller, call: Call, body: Mapping[str, Any]) -> ControlResult:
        """Changes a call with the parameters of Twilio's *update call* in `body`.

        Raises ActionUnknown if the change may have been made, wholly or in part. For a request that only ends the call, raises
        DatabaseUnavailable instead: the call may have ended, or may end later, and the client may repeat the request. Any other
        error means that this request has not changed the call.
        """
        update = validate_update(body)
        if caller.suspended and not update.only_ends_call:
            raise TenantSuspended
        if call.execution == "scheduled" or is_outcome_open(call):
            call = await self._cancel_call_or_store_update(call, update)
        if call.settled_by == "canceled" and update.only_ends_call:
            # It may have been canceled earlier: a client repeats its request if the answer was lost.
            return ControlResult(call, done=True)
        if is_outcome_open(call):
            return ControlResult(call, done=False)
        if call.execution != "started" or call.status in TERMINAL_STATUSES:
            raise WrongCallState(call_id=call.id)
        account = await self.require_usable_account(call)
        callbacks = status_callbacks_for_update(
            update, call, account, urls=self.callback_urls, validate_url=self.validate_callback
        )
        parameters = update.parameters_for_twilio() | callbacks.parameters_for_twilio
        if not parameters:
            return ControlResult(await self._record_callback_settings(call, update, callbacks), done=True)
        try:
            async with self.request_limit.admit_request(call.tenant_id):
                resource = await self._send_update_to_twilio(call, parameters)
        except TwilioError as error:
            return await self._store_update_or_raise(call, update, error)
        call = await record_update_by_client(self.database, call, resource, update, columns=callbacks.columns)
        return ControlResult(call, done=True)

    async def _record_callback_settings(self, call: Call, update: CallUpdate, callbacks: StatusCallbackSettings) -> Call:
        """Records a change of the status callbacks that Callgate sends to the tenant. It needs no request to Twilio."""
        try:
            return await record_update(self.database, call, None, update, columns=callbacks.columns)
        except DatabaseUnavailable as error:
            if error.commit_in_doubt:
                raise ActionUnknown(call_id=call.id) from error
            raise

    async def send_pending_update(self, pending: PendingUpdate, call: Call) -> None:
        """Sends Twilio a stored request to end a call. Call this method only when it is known whether the call was started.

        Deletes the request if the call was not started or has ended. If the call waits to be dialled again, cancels it without
        a request to Twilio.
        """
        if call.execution == "scheduled":
            # The call was put back to wait, because it could not be dialled for a temporary reason.
            if await self._cancel_waiting_call(call):
                await self._delete_pending_update(call, pending, "not_started")
            return
        if call.execution != "started" or pending.attempt != call.attempt:
            await self._delete_pending_update(call, pending, "not_started")
            return
        if call.status in TERMINAL_STATUSES:
            await self._delete_pending_update(call, pending, "ended")
            return
        update = CallUpdate.model_validate({"status": pending.status})
        try:
            resource = await self._send_update_to_twilio(call, update.given_parameters())
        except TwilioError as error:
            await self._postpone_or_delete_update(call, pending, error)
        else:
            await record_update(self.database, call, resource, update, pending=pending)

    async def cancel_if_queued(self, call: Call) -> None:
        """Cancels a started call if Twilio reports that the call is still in Twilio's queue. Otherwise changes nothing.

        Raises TwilioError if Twilio cannot be asked, or its answer was lost.
        """
        resource = await self.fetch_from_twilio(call)
        update = CallUpdate(status="canceled")
        if resource.status == "queued":
            resource = await self._send_update_to_twilio(call, update.given_parameters())
            await record_update(self.database, call, resource, update)
            logger.info("queued_call_canceled", call_id=str(call.id), call_sid=call.sid)

    async def _cancel_call_or_store_update(self, call: Call, update: CallUpdate) -> Call:
        """Cancels a scheduled call, or stores the update if it is unknown whether the call was started. Returns the record.

        A call is scheduled again if a worker dials it and Twilio refuses it for a temporary reason. If this happens each time,
        raises DatabaseUnavailable after a few attempts. Raises WrongCallState if `update` does more than end the call, and the
        call is scheduled or it is unknown whether it was started.
        """
        for _ in range(_MAX_CANCEL_ATTEMPTS):
            if call.execution == "scheduled":
                if not update.only_ends_call:
                    raise WrongCallState("The call waits to be dialled. Until then it can only be canceled.", call_id=call.id)
                await self._cancel_waiting_call(call)
            call = await self._store_update_if_outcome_open(call, update)
            if call.execution != "scheduled":
                return call
        raise DatabaseUnavailable("The call could not be canceled and waits to be dialled.", call_id=call.id, retry_after_s=1)

    async def _cancel_waiting_call(self, call: Call) -> bool:
        """Cancels a scheduled call. Returns False if a worker has already begun to dial the call, or if it has ended."""
        change = self.settlement.change_to_canceled()
        async with self.database.transaction() as connection:
            ended = await end_waiting_calls_by_id(connection, [call.id], change)
        self.settlement.count_undialled_calls(change, len(ended))
        return bool(ended)

    async def _store_update_if_outcome_open(self, call: Call, update: CallUpdate) -> Call:
        """Stores the request to end the call, unless it has become known whether the call was started. Returns the record.

        Raises WrongCallState if this is still unknown, and `update` does more than end the call.
        """
        async with self.database.begin() as session:
            locked = await repository.lock_call(session, call.id)
            if locked is None or not is_outcome_open(locked):
                return locked or call
            if not update.only_ends_call or update.status is None:
                detail = "It is not known yet whether the call has started. Until then the call can only be ended."
                raise WrongCallState(detail, call_id=call.id)
            await self._store_pending_update(session, locked, update)
        return locked

    async def _store_update_or_raise(self, call: Call, update: CallUpdate, error: TwilioError) -> ControlResult:
        """Stores an update that failed with `error`, so that it is sent again, or raises the error for the client.

        Stores the update only if it does nothing but end the call, and Twilio's answer was lost or Twilio may not show the new
        call yet. Raises DatabaseUnavailable if storing fails. Raises ActionUnknown if Twilio's answer to any other update was
        lost.
        """
        if not isinstance(error, TwilioOutcomeUnknown) and not (
            update.only_ends_call
            and is_call_not_found(error)  # otherwise Postgres is not asked
            and may_be_found_later(call, error, now=await self.postgres_time())
        ):
            raise problem_for_change(error, CHANGE_ERRORS_BY_TWILIO_ERROR, call_id=call.id) from error
        if update.only_ends_call:
            async with self.database.begin() as session:
                return await self._store_update_unless_ended(session, call, update)
        with contextlib.suppress(DatabaseUnavailable):
            async with self.database.begin() as session:
                data = update.parameters_for_event() | {"reason": error.reason}
                await repository.add_event(session, call.id, "call.update_unknown", data)
        raise ActionUnknown(call_id=call.id) from error

    async def _store_update_unless_ended(self, session: Session, call: Call, update: CallUpdate) -> ControlResult:
        """Stores the request to end the call, unless the call has ended by now.

        `done` in the result is True if the call has ended. Raises WrongCallState if the call ended as `busy`, `failed` or
        `no-answer`, because its redial may be scheduled.
        """
        locked = await repository.lock_call(session, call.id) or call
        if is_busy_failed_or_unanswered(locked):
            raise WrongCallState(call_id=call.id)
        if locked.status in TERMINAL_STATUSES:
            return ControlResult(locked, done=True)
        await self._store_pending_update(session, locked, update)
        return ControlResult(locked, done=False)

    async def _store_pending_update(self, session: Session, call: Call, update: CallUpdate) -> None:
        await control_repository.store_pending_update(session, call, status=update.status or "")
        await repository.add_event(session, call.id, "call.update_remembered", update.parameters_for_event())

    async def _delete_pending_update(self, call: Call, pending: PendingUpdate, reason: str) -> None:
        async with self.database.begin() as session:
            if await control_repository.delete_pending_update(session, call.id, expected_update=pending):
                event_data = {"status": pending.status, "reason": reason}
                await repository.add_event(session, call.id, "call.update_forgotten", event_data)

    async def _postpone_or_delete_update(self, call: Call, pending: PendingUpdate, error: TwilioError) -> None:
        async with self.database.begin() as session:
            now = await repository.transaction_start_time(session)
            age = now - pending.wanted_at
            may_work_later = not isinstance(error, TwilioRejected) or may_be_found_later(call, error, now=now)
            if age < _MAX_PENDING_UPDATE_AGE and may_work_later:
                wait = min(max(age / 2, _MIN_RETRY_WAIT), _MAX_RETRY_WAIT)
                await control_repository.postpone_pending_update(session, pending, wait)
                return
        has_ended = isinstance(error, TwilioWrongState)
        if not has_ended:
            logger.warning("wanted_update_refused", call_id=str(call.id), call_sid=call.sid, reason=error.reason)
        await self._delete_pending_update(call, pending, "ended" if has_ended else error.reason)

    async def _send_update_to_twilio(self, call: Call, parameters: dict[str, Any]) -> CallResource:
        """Sends the update and returns Twilio's answer. Raises TwilioError if the update was refused or the answer was lost.

        Twilio may answer 404 to a request to end a call that has just ended (pipecat-ai/pipecat#2145). In this case, reads the
        call from Twilio. If the call has ended, records this and raises TwilioWrongState.
        """
        addresses = (call.to, call.from_)
        send = partial(
            self.twilio.update_call, sid=call.sid or "", parameters=parameters, addresses=addresses, deadline_s=self.deadline_s
        )
        try:
            return await self.try_each_credential(call, send)
        except TwilioNotFound as error:
            if parameters.keys() != {"status"}:
                raise
            resource = await self.fetch_from_twilio(call)
            if resource.status not in TERMINAL_STATUSES:
                # One of the two answers is out of date.
                raise TwilioOutcomeUnknown("contradictory_answers", error.answer) from error
            await record_fetched_call(self.database, call, resource)
            raise TwilioWrongState(error.reason, error.answer) from error

    async def require_usable_account(self, call: Call) -> UsableAccount:
        """Returns the call's Twilio account. Raises NoUsableCredentials if none of the account's credentials can be used."""
        account = await self.directory.find_usable_account(call.tenant_id, account_sid=call.account_sid)
        if account is None:
            raise NoUsableCredentials(call_id=call.id)
        return account

    async def postgres_time(self) -> datetime:
        """Returns the time by Postgres's clock, which dates the records."""
        async with self.database.begin() as session:
            return await repository.transaction_start_time(session)

    async def fetch_from_twilio(self, call: Call) -> CallResource:
        """Returns the call as Twilio shows it now. Raises TwilioError if it cannot be read."""
        fetch = partial(self.twilio.fetch_call, sid=call.sid or "", deadline_s=self.deadline_s)
        return await self.try_each_credential(call, fetch)

    async def try_each_credential(self, call: Call, send_request: Callable[[Credential], Awaitable[Result]]) -> Result:
        """Calls `send_request` with each of the account's credentials in turn until Twilio accepts one. Returns the result.

        Raises TwilioError if Twilio accepts none, or if a request fails for another reason.
        """
        return await try_credentials(await self.directory.active_credentials(call.account_id), send_request)
