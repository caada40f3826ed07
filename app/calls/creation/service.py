"""Creates a call: validates the request, commits the intent (the call's first record), dials. Does not import FastAPI.

No transaction is open while a request to Twilio is in progress.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls import ids, repository
from app.calls.creation.dial import PreparedCall
from app.calls.creation.in_flight_limit import InFlightLimiter, InFlightSlot
from app.calls.creation.paced.service import PacedIntentWriter, reopen_paced_call
from app.calls.creation.placement import CallPlacer
from app.calls.creation.preparation import CallPreparer
from app.calls.creation.repository import reopen_call
from app.calls.creation.scheduled.service import ScheduledIntentWriter
from app.calls.creation.scheduled.store import MAX_SCHEDULED_ROWS_PER_STATEMENT, ScheduledCall, insert_scheduled_dial
from app.calls.creation.scheduled.times import make_schedule
from app.calls.creation.store import MAX_ROWS_PER_STATEMENT, NewCall, insert_intents
from app.calls.creation.undialled_calls import UndialledCallRecorder
from app.calls.creation.validation import validate_call
from app.calls.models import Call
from app.calls.parameters import CallRequest
from app.calls.stored_problem import is_temporary_problem, restore_error
from app.clock import monotonic_seconds
from app.database.batcher import Batcher
from app.database.engine import Database
from app.errors import (
    CallgateError,
    CallPending,
    DatabaseUnavailable,
    FieldError,
    IdempotencyKeyReused,
    InvalidRequest,
    MalformedBody,
    PaceExceeded,
    TenantSuspended,
)
from app.observability.tracing import current_traceparent
from app.scheduling.schedule import CallSchedule
from app.scheduling.store import find_dial_settings_of_queues
from app.security.keyring import Keyring
from app.security.pseudonyms import Pseudonymizer
from app.tenants.caller import Caller
from app.tenants.directory import UsableAccount
from app.twilio.addresses import address_key

CallIdObserver = Callable[[UUID | None], None]
"""A function that is called with the id of a call that the request may have started, or that its idempotency key names.

It is called with None if there is no such call.
"""
_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _ignore_call_id(_: UUID | None) -> None:
    pass


@dataclass(frozen=True, slots=True)
class CreationResult:
    """The result of a creation: the call is started, scheduled or unknown.

    `replayed` is True if an earlier request with the same idempotency key created the call.
    """

    call: Call | NewCall
    replayed: bool = False


class CreationService:
    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        slots: InFlightLimiter,
        placement: CallPlacer,
        undialled_calls: UndialledCallRecorder,
        scheduled_intents: ScheduledIntentWriter,
        pseudonyms: Pseudonymizer,
        preparation: CallPreparer,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._slots = slots
        self._placement = placement
        self._undialled_calls = undialled_calls
        self._pseudonyms = pseudonyms
        self._preparation = preparation
        self._intents = Batcher(self._write_intents, max_batch=MAX_ROWS_PER_STATEMENT)
        self._paced_intents = PacedIntentWriter(database)
        self._scheduled_intents = scheduled_intents
        self._queues = Batcher(partial(find_dial_settings_of_queues, database))
        self._existing = Batcher(self._find_calls_by_key, max_batch=MAX_SCHEDULED_ROWS_PER_STATEMENT)

    async def create(
        self, caller: Caller, body: Mapping[str, Any], idempotency_key: str | None, on_call_id: CallIdObserver = _ignore_call_id
    ) -> CreationResult:
        """Places or schedules a call. Twilio processes at most one POST for it, even if this process dies.

        Raises CallgateError if the call was not started, or if `idempotency_key` belongs to another request. A repeated request
        gets the call of the first one, even if a new request would now be refused. Calls `on_call_id` with the call's id before
        the first record is committed, and with None when it is certain that no call is placed. So if the task is canceled, the
        last value says which call may have been started.
        """
        began = monotonic_seconds()
        canonical_body = _canonical_request_bytes(body)
        call_id = uuid7()
        with InFlightSlot(self._slots, caller.tenant_id) as slot:
            try:
                valid = validate_call(body)
                self._pseudonyms.add_addresses_to_log(to=valid.request.to, from_=valid.request.from_)
                if caller.suspended:
                    raise TenantSuspended
                if not valid.request.is_scheduled:
                    slot.take(caller.max_in_flight)
                account = await self._preparation.find_account(caller.tenant_id, valid.request.account_sid)
                sip_auth = await self._preparation.find_sip_auth(caller.tenant_id, valid.request.sip_credential)
                callbacks, prepared = self._preparation.prepare_call(valid.request, account, sip_auth, call_id, began)
                schedule = await self._make_schedule(caller, valid.request) if valid.request.is_scheduled else None
            except CallgateError as error:
                return await self.replay_or_raise(caller, body, idempotency_key, error)
            call = NewCall(
                id=call_id,
                tenant_id=caller.tenant_id,
                account_id=account.account_id,
                account_sid=account.account_sid,
                created_at=ids.creation_time_of_id(call_id),
                idempotency_key=idempotency_key,
                fingerprint=self._keyring.keyed_hash(canonical_body),
                parameters=valid.request.parameters_for_record()
                | (schedule.call_record_members(valid.request.queue) if schedule else {}),
                warnings=valid.warnings_json(*callbacks.warnings),
                to=valid.request.to,
                from_=valid.request.from_,
                address_key=address_key(valid.request.to),
                traceparent=current_traceparent(),
                **callbacks.columns,
            )
            scheduled = ScheduledCall(call, schedule) if schedule else None
            try:
                is_committed = await self._commit_intent(call, account, scheduled, on_call_id)
            except PaceExceeded as error:
                return await self.replay_or_raise(caller, body, idempotency_key, error)
            if is_committed:
                return CreationResult(call) if scheduled else await self._place_call(call, account, prepared)
            if existing := await self._find_call_by_key(caller.tenant_id, idempotency_key):
                on_call_id(existing.id)
                if not self._may_be_retried_or_raise(existing, canonical_body):
                    return CreationResult(existing, replayed=True)
                _, prepared = self._preparation.prepare_call(valid.request, account, sip_auth, existing.id, began)
                if reopened := await self._reopen_call(existing, call, account, scheduled):
                    return CreationResult(reopened) if scheduled else await self._place_call(reopened, account, prepared)
        # Another request with the same key was faster.
        return await self.create(caller, body, idempotency_key, on_call_id)

    async def replay_or_raise(
        self, caller: Caller, body: Mapping[str, Any], idempotency_key: str | None, error: CallgateError
    ) -> CreationResult:
        """Returns the call of an earlier request with this idempotency key. `error` is why the new request is refused.

        Raises `error` if there is no such call, or if the call may be dialled again. Raises another CallgateError if the body
        differs from the earlier one, if the call is pending, or if a lasting problem prevented its start.
        """
        existing = await self._find_call_by_key(caller.tenant_id, idempotency_key)
        if existing is None or self._may_be_retried_or_raise(existing, _canonical_request_bytes(body)):
            raise error
        return CreationResult(existing, replayed=True)

    def require_capacity(self) -> None:
        """Raises Overloaded if no slot is free for a creation of any tenant, and ShuttingDown if the process stops."""
        self._slots.require_free_slot()

    async def _find_call_by_key(self, tenant_id: str, idempotency_key: str | None) -> Call | None:
        if idempotency_key is None:
            return None
        return await self._existing.submit((tenant_id, idempotency_key))

    async def _find_calls_by_key(self, keys: Sequence[tuple[str, str]]) -> Sequence[Call | None]:
        async with self._database.begin() as session:
            found = await repository.find_calls_by_idempotency_key(session, keys)
        return [found.get(key) for key in keys]

    def _may_be_retried_or_raise(self, call: Call, canonical_body: bytes) -> bool:
        """Returns whether `call`, which an earlier request with the same key has created, may be dialled again.

        Returns True if a temporary problem prevented the start, and False if the client gets the call as it is. Raises the
        error to answer with if the request differs from the earlier one, if the call is pending, or if a lasting problem
        prevented the start. `canonical_body` is the new request, and `call` has a keyed hash of the earlier one.
        """
        if not self._keyring.matches_keyed_hash(call.fingerprint, canonical_body):
            raise IdempotencyKeyReused(call_id=call.id)
        if call.execution == "pending":
            raise CallPending(call_id=call.id, retry_after_s=1)
        if call.execution != "not_started" or call.problem is None:
            return False
        if is_temporary_problem(call.problem["slug"]):
            return True
        raise restore_error(call.problem, call_id=call.id)

    async def _make_schedule(self, caller: Caller, request: CallRequest) -> CallSchedule:
        """Returns the times of a scheduled call. Raises InvalidRequest for an unknown queue or for invalid times."""
        queue = await self._queues.submit((caller.tenant_id, request.queue))
        if queue is None:
            text = f"must name a queue of this tenant: there is none with the name {request.queue}"
            raise InvalidRequest(field_errors=(FieldError("/queue", "unknown_queue", text),))
        return make_schedule(request, queue, caller.key_id, now=queue.read_at)

    async def _commit_intent(
        self, call: NewCall, account: UsableAccount, scheduled: ScheduledCall | None, on_call_id: CallIdObserver
    ) -> bool:
        """Commits the intent, the call's first record. Returns False if a call with its idempotency key exists.

        Raises PaceExceeded if the pace of the account does not allow the call.
        """
        on_call_id(call.id)
        if scheduled:
            is_committed = await self._scheduled_intents.commit_intent(scheduled)
            on_call_id(call.id if is_committed else None)
            return is_committed
        try:
            written_at = await (self._paced_intents if account.has_pace_limits else self._intents).submit(call)
        except PaceExceeded:
            on_call_id(None)
            raise
        except DatabaseUnavailable as error:
            if error.commit_in_doubt:
                self._undialled_calls.mark_call_not_started(call)
            raise
        except asyncio.CancelledError:
            # The server's drain timeout has ended, and this request will not dial.
            self._undialled_calls.mark_call_not_started(call)
            raise
        if written_at is None:
            on_call_id(None)
            return False
        call.pending_since = call.updated_at = written_at
        return True

    async def _write_intents(self, calls: Sequence[NewCall]) -> Sequence[datetime | None]:
        inserted = await insert_intents(self._database, calls)
        return [inserted.get(call.id) for call in calls]

    async def _reopen_call(
        self, existing: Call, new_intent: NewCall, account: UsableAccount, scheduled: ScheduledCall | None
    ) -> Call | None:
        """Makes the existing call, which did not start, pending or scheduled again, and returns its record.

        Returns None if another request with the same key was faster. Raises PaceExceeded if the pace of the account does not
        allow the call.
        """
        event_id = uuid7()
        committing = False
        try:
            async with self._database.begin() as session:
                is_paced = account.has_pace_limits and not scheduled
                call = await (reopen_paced_call if is_paced else reopen_call)(session, existing, new_intent)
                if call:
                    data = {"attempt": call.attempt}
                    await repository.add_event(session, call.id, f"call.{call.execution}", data, event_id=event_id)
                    if scheduled:
                        await insert_scheduled_dial(session, existing.id, scheduled)
                committing = call is not None
            return call
        except (DatabaseUnavailable, asyncio.CancelledError):
            # A failure before the commit has rolled everything back.
            if committing and scheduled:
                # A worker may dial the call before this attempt could be withdrawn.
                existing.execution = "unknown"
                return existing
            if committing:
                self._undialled_calls.mark_attempt_not_started(existing.id, existing.attempt + 1, event_id=event_id)
            raise

    async def _place_call(self, call: Call | NewCall, account: UsableAccount, prepared: PreparedCall) -> CreationResult:
        settled = await self._placement.place(call, account, prepared)
        if settled.execution == "not_started" and settled.problem:
            raise restore_error(settled.problem, call_id=settled.id)
        return CreationResult(settled)


def _canonical_request_bytes(body: Mapping[str, Any]) -> bytes:
    """Returns the request as JSON with sorted members. Two requests are the same if these bytes are equal."""
    try:
        return _CANONICAL_JSON.encode(body).encode()
    except RecursionError:
        raise MalformedBody("The body is not acceptable JSON: it is nested too deeply.") from None
