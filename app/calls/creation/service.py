"""Creates a call: validates, commits the intent, places it. Not aware of HTTP.

Transactions are the `async with` blocks below; none is open while Twilio is being called.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls import ids, repository
from app.calls.callback_urls import CallbackUrls
from app.calls.creation.dial import PreparedCall
from app.calls.creation.placement import Placement
from app.calls.creation.slots import CreationSlot, CreationSlots
from app.calls.creation.store import BATCH, NewCall, insert_intents, reopen
from app.calls.creation.validation import validate_call
from app.calls.creation.withdrawals import Withdrawals
from app.calls.models import Call
from app.calls.parameters import CallRequest
from app.calls.status_callbacks import StatusCallbacks, UrlValidator, status_callbacks
from app.calls.stored_problem import is_temporary, restore_error
from app.clock import elapsed
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
    NoUsableCredentials,
    TenantSuspended,
)
from app.observability.tracing import current_traceparent
from app.security.keyring import Keyring
from app.security.pseudonyms import Pseudonyms
from app.tenants.caller import Caller
from app.tenants.directory import CallableAccount, TenantDirectory
from app.tenants.sip_auth import SipAuth
from app.twilio.addresses import address_key
from app.twilio.schemas import Form

_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Creation:
    """A call that is started or unknown. `replayed`: an earlier request with the same key created it."""

    call: Call | NewCall
    replayed: bool = False


class CreationService:
    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        tenants: TenantDirectory,
        slots: CreationSlots,
        placement: Placement,
        withdrawals: Withdrawals,
        pseudonyms: Pseudonyms,
        callback_urls: CallbackUrls | None,
        validate_callback: UrlValidator,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._tenants = tenants
        self._slots = slots
        self._placement = placement
        self._withdrawals = withdrawals
        self._pseudonyms = pseudonyms
        self._callback_urls = callback_urls
        self._validate_callback = validate_callback
        self._intents = Batcher(self._write_intents, max_batch=BATCH)

    async def create(self, caller: Caller, body: Mapping[str, Any], idempotency_key: str | None) -> Creation:
        """Places a call with at most one POST that Twilio may have processed, even if this process dies.

        Raises CallgateError if the call was not started, or if the key belongs to another request. Before any error is
        raised, the key is looked up: a repeated request gets its call, even if it would be refused by now. Without an error,
        no lookup is needed: the insert of the intent fails if the key is taken.
        """
        began = elapsed()
        fingerprint = _canonical_bytes(body)
        call_id = uuid7()
        with CreationSlot(self._slots, caller.tenant_id) as slot:
            try:
                valid = validate_call(body)
                self._pseudonyms.log(to=valid.request.to, from_=valid.request.from_)
                if caller.suspended:
                    raise TenantSuspended
                slot.take(caller.max_in_flight)
                account = await self._tenants.callable_account(caller.tenant_id, account_sid=valid.request.account_sid)
                if account is None:
                    raise NoUsableCredentials
                sip_auth = await self._find_sip_auth(caller, name) if (name := valid.request.sip_credential) else None
                progress, prepared = self._prepare(valid.request, account, sip_auth, call_id, began)
            except CallgateError:
                existing = await self._find(caller, idempotency_key)
                if existing is None or self._may_be_retried(existing, fingerprint):
                    raise
                return Creation(existing, replayed=True)
            call = NewCall(
                id=call_id,
                tenant_id=caller.tenant_id,
                account_id=account.account_id,
                account_sid=account.account_sid,
                created_at=ids.created_at(call_id),
                idempotency_key=idempotency_key,
                fingerprint=self._keyring.keyed_hash(fingerprint),
                parameters=valid.request.for_record(),
                warnings=valid.warnings_json(*progress.warnings),
                to=valid.request.to,
                from_=valid.request.from_,
                address_key=address_key(valid.request.to),
                traceparent=current_traceparent(),
                **progress.columns,
            )
            if await self._commit_intent(call):
                return await self._place(call, account, prepared)
            existing = await self._find(caller, idempotency_key)
            if existing and not self._may_be_retried(existing, fingerprint):
                return Creation(existing, replayed=True)
            if existing:
                _, prepared = self._prepare(valid.request, account, sip_auth, existing.id, began)
                if reopened := await self._reopen(existing, call):
                    return await self._place(reopened, account, prepared)
        # Another request with the same key was first.
        return await self.create(caller, body, idempotency_key)

    def require_capacity(self) -> None:
        """Raises Overloaded or ShuttingDown if no tenant can begin a creation now."""
        self._slots.require_free()

    async def _find(self, caller: Caller, idempotency_key: str | None) -> Call | None:
        if idempotency_key is None:
            return None
        async with self._database.begin() as session:
            return await repository.get_call_by_key(session, idempotency_key, tenant_id=caller.tenant_id)

    def _may_be_retried(self, call: Call, fingerprint: bytes) -> bool:
        """Returns whether the key's call ended `not_started` for a temporary reason. Raises the error for a repetition."""
        if not self._keyring.matches(call.fingerprint, fingerprint):
            raise IdempotencyKeyReused(call_id=call.id)
        if call.execution == "pending":
            raise CallPending(call_id=call.id, after_s=1)
        if call.execution != "not_started" or call.problem is None:
            return False
        if is_temporary(call.problem["slug"]):
            return True
        raise restore_error(call.problem, call_id=call.id)

    async def _find_sip_auth(self, caller: Caller, name: str) -> SipAuth:
        """Returns what the tenant's SIP credential holds now. Raises InvalidRequest for a name that it does not have."""
        sip_auth = await self._tenants.sip_auth(caller.tenant_id, name)
        if sip_auth is None:
            text = f"must name a SIP credential of this tenant: there is none with the name {name}"
            raise InvalidRequest(field_errors=(FieldError("/sip_credential", "unknown_sip_credential", text),))
        return sip_auth

    def _prepare(
        self, request: CallRequest, account: CallableAccount, sip_auth: SipAuth | None, call_id: UUID, began: float
    ) -> tuple[StatusCallbacks, PreparedCall]:
        """Does everything that can fail, before anything is committed."""
        progress = status_callbacks(request, account, call_id, urls=self._callback_urls, validate_url=self._validate_callback)
        parameters = request.for_twilio() | progress.for_twilio
        if sip_auth is not None:
            parameters |= sip_auth.for_twilio()
        if None in progress.for_twilio.values():
            parameters = {name: value for name, value in parameters.items() if value is not None}
        return progress, PreparedCall(Form.of(parameters), began, progress.reach_callgate)

    async def _commit_intent(self, call: NewCall) -> bool:
        """Commits the intent. Returns False if the idempotency key names a call already."""
        try:
            written_at = await self._intents.submit(call)
        except DatabaseUnavailable as error:
            if error.commit_in_doubt:
                self._withdrawals.withdraw_intent(call)
            raise
        except asyncio.CancelledError:
            # The server's drain timeout has ended, and this request will not dial.
            self._withdrawals.withdraw_intent(call)
            raise
        if written_at is None:
            return False
        call.pending_since = call.updated_at = written_at
        return True

    async def _write_intents(self, calls: Sequence[NewCall]) -> Sequence[datetime | None]:
        inserted = await insert_intents(self._database, calls)
        return [inserted.get(call.id) for call in calls]

    async def _reopen(self, existing: Call, intended: NewCall) -> Call | None:
        """Makes the call of an earlier attempt pending again and returns it.

        Returns None if another request with the same key was first.
        """
        event_id = uuid7()
        committing = False
        try:
            async with self._database.begin() as session:
                call = await reopen(session, existing, intended)
                if call:
                    data = {"attempt": call.attempt}
                    await repository.add_event(session, call.id, "call.pending", data, event_id=event_id)
                committing = call is not None
            return call
        except (DatabaseUnavailable, asyncio.CancelledError):
            # A failure before the commit has rolled everything back.
            if committing:
                self._withdrawals.withdraw_reopening(existing.id, existing.attempt + 1, event_id=event_id)
            raise

    async def _place(self, call: Call | NewCall, account: CallableAccount, prepared: PreparedCall) -> Creation:
        settled = await self._placement.place(call, account, prepared)
        if settled.execution == "not_started" and settled.problem:
            raise restore_error(settled.problem, call_id=settled.id)
        return Creation(settled)


def _canonical_bytes(body: Mapping[str, Any]) -> bytes:
    """Returns the request as bytes with sorted members: equal bytes are the same request."""
    try:
        return _CANONICAL_JSON.encode(body).encode()
    except RecursionError:
        raise MalformedBody("The body is not acceptable JSON: it is nested too deeply.") from None
