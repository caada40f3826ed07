"""Creates a call: validates, commits the intent, places it. Not aware of HTTP.

Transactions are the `async with` blocks below; none is open while Twilio is being called.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls import ids, repository
from app.calls.callback_urls import CallbackUrls
from app.calls.creation.dial import PreparedCall
from app.calls.creation.placement import Placement
from app.calls.creation.store import BATCH, NewCall, insert_intents, reopen
from app.calls.creation.validation import validate_call
from app.calls.creation.withdrawals import Withdrawals
from app.calls.models import Call
from app.calls.parameters import CallRequest
from app.calls.status_callbacks import StatusCallbacks, UrlValidator, status_callbacks
from app.calls.stored_problem import passing, rebuild
from app.clock import elapsed
from app.database import Database
from app.database.batcher import Batcher
from app.errors import (
    CallgateError,
    CallPending,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    MalformedBody,
    NoUsableCredentials,
    TenantSuspended,
)
from app.http.authentication import Caller
from app.observability.tracing import current_traceparent
from app.security.keyring import Keyring
from app.security.pseudonyms import Pseudonyms
from app.tenants.directory import CallableAccount, TenantDirectory
from app.twilio.addresses import address_key
from app.twilio.schemas import Form

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Creation:
    """A call that is started or unknown; `replayed` when the idempotency key named it already."""

    call: Call | NewCall
    replayed: bool = False


class CreationService:
    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        tenants: TenantDirectory,
        placement: Placement,
        withdrawals: Withdrawals,
        pseudonyms: Pseudonyms,
        callback_urls: CallbackUrls | None,
        validate_callback: UrlValidator,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._tenants = tenants
        self._placement = placement
        self._withdrawals = withdrawals
        self._pseudonyms = pseudonyms
        self._callback_urls = callback_urls
        self._validate_callback = validate_callback
        self._intents = Batcher(self._write_intents, max_batch=BATCH)

    async def create(self, caller: Caller, body: Mapping[str, Any], idempotency_key: str | None) -> Creation:
        """Place a call: at most one POST that may have been processed, whatever happens to us.

        Raises CallgateError when the call was not started, or when the key names another dial. No refusal hides a call that
        is live: before one is told, the key is looked up. Otherwise the commit of the intent tells whether the key is new.
        """
        began = elapsed()
        fingerprint = _canonical(body)
        call_id = uuid7()
        with ExitStack() as held:
            try:
                valid = validate_call(body)
                self._pseudonyms.log(to=valid.request.to, from_=valid.request.from_)
                if caller.suspended:
                    raise TenantSuspended
                held.enter_context(self._placement.slot(caller.tenant_id))
                account = await self._tenants.callable_account(caller.tenant_id, account_sid=valid.request.account_sid)
                if account is None:
                    raise NoUsableCredentials
                progress, prepared = self._prepare(valid.request, account, call_id, began)
            except CallgateError:
                known = await self._find(caller, idempotency_key)
                if known is None or self._to_be_tried_again(known, fingerprint):
                    raise
                return Creation(known, replayed=True)
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
            known = await self._find(caller, idempotency_key)
            if known and not self._to_be_tried_again(known, fingerprint):
                return Creation(known, replayed=True)
            if known:
                _, prepared = self._prepare(valid.request, account, known.id, began)
                if reopened := await self._reopen(known, call):
                    return await self._place(reopened, account, prepared)
        # A request with the same key was quicker.
        return await self.create(caller, body, idempotency_key)

    def require_room(self) -> None:
        """Raises Overloaded or ShuttingDown when no creation could begin now, whoever asks."""
        self._placement.require_room()

    async def _find(self, caller: Caller, idempotency_key: str | None) -> Call | None:
        if idempotency_key is None:
            return None
        async with self._database.begin() as session:
            return await repository.get_call_by_key(session, idempotency_key, tenant_id=caller.tenant_id)

    def _to_be_tried_again(self, call: Call, fingerprint: bytes) -> bool:
        """Whether the key's call ended `not_started` for a passing reason. Raises what a repetition is answered otherwise."""
        if not self._keyring.matches(call.fingerprint, fingerprint):
            raise IdempotencyKeyReused(call_id=call.id)
        if call.execution == "pending":
            raise CallPending(call_id=call.id, after_s=1)
        if call.execution != "not_started" or call.problem is None:
            return False
        if passing(call.problem["slug"]):
            return True
        raise rebuild(call.problem, call_id=call.id)

    def _prepare(
        self, request: CallRequest, account: CallableAccount, call_id: UUID, began: float
    ) -> tuple[StatusCallbacks, PreparedCall]:
        """What can fail of a dial, before anything is committed."""
        progress = status_callbacks(request, account, call_id, urls=self._callback_urls, validate_url=self._validate_callback)
        form = Form.of(request.for_twilio() | progress.for_twilio)
        return progress, PreparedCall(form, began)

    async def _commit_intent(self, call: NewCall) -> bool:
        """False when the idempotency key names a call already."""
        try:
            written_at = await self._intents.submit(call)
        except DatabaseUnavailable as error:
            if error.commit_in_doubt:
                self._withdrawals.intent(call)
            raise
        except asyncio.CancelledError:
            # The server's patience has ended, and nobody is left to dial.
            self._withdrawals.intent(call)
            raise
        if written_at is None:
            return False
        call.pending_since = call.updated_at = written_at
        return True

    async def _write_intents(self, calls: Sequence[NewCall]) -> Sequence[datetime | None]:
        inserted = await insert_intents(self._database, calls)
        return [inserted.get(call.id) for call in calls]

    async def _reopen(self, known: Call, intended: NewCall) -> Call | None:
        """The call of an earlier attempt, pending again; None when a request with the same key was quicker."""
        opening = uuid7()
        committing = False
        try:
            async with self._database.begin() as session:
                call = await reopen(session, known, intended)
                if call:
                    told = {"attempt": call.attempt}
                    await repository.add_event(session, call.id, "call.pending", told, event_id=opening)
                committing = call is not None
            return call
        except (DatabaseUnavailable, asyncio.CancelledError):
            # What went wrong before the commit was begun has rolled everything back.
            if committing:
                self._withdrawals.reopening(known.id, known.attempt + 1, event_id=opening)
            raise

    async def _place(self, call: Call | NewCall, account: CallableAccount, prepared: PreparedCall) -> Creation:
        settled = await self._placement.place(call, account, prepared)
        if settled.execution == "not_started" and settled.problem:
            raise rebuild(settled.problem, call_id=settled.id)
        return Creation(settled)


def _canonical(body: Mapping[str, Any]) -> bytes:
    """The request as bytes, whatever the order of its members: what "the same request" means."""
    try:
        return _CANONICAL.encode(body).encode()
    except RecursionError:
        raise MalformedBody("The body is not acceptable JSON: it is nested too deeply.") from None
