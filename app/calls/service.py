"""The use cases of calls. Not aware of HTTP.

Transactions are the `async with` blocks below; none is open while Twilio is being called.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.auth import Caller
from app.calls import ids, repository
from app.calls.models import Call, CallEvent
from app.calls.placement import Placement
from app.calls.progress_callbacks import Judge, ProgressCallbacks, progress_callbacks
from app.calls.repository import CallFilter
from app.calls.validation import CallRequest, validate_call
from app.crypto import Keyring
from app.database import Database
from app.errors import (
    CallNotFound,
    CallPending,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    MalformedBody,
    NoUsableCredentials,
    TenantSuspended,
    passing,
    rebuild,
)
from app.tenants.service import Dialable, TenantService
from app.twilio.schemas import CALL_SID


@dataclass(frozen=True, slots=True)
class Creation:
    """A call that is started or unknown; `replayed` when the idempotency key named it already."""

    call: Call
    replayed: bool = False


class CallService:
    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        tenants: TenantService,
        placement: Placement,
        callback_base: str | None,
        judge_callback: Judge,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._tenants = tenants
        self._placement = placement
        self._callback_base = callback_base
        self._judge_callback = judge_callback

    async def create(self, caller: Caller, body: Mapping[str, Any], idempotency_key: str | None) -> Creation:
        """Place a call: at most one POST that may have been processed, whatever happens to us.

        Raises CallgateError when the call was not started, or when the key names another dial. The key is looked up before
        anything is refused, so that no refusal hides a call that is live.
        """
        fingerprint = _canonical(body)
        known = await self._find(caller, idempotency_key)
        if known and not self._to_be_tried_again(known, fingerprint):
            return Creation(known, replayed=True)
        valid = validate_call(body)
        if caller.suspended:
            raise TenantSuspended
        with self._placement.slot(caller.tenant_id):
            account = await self._tenants.dialable(caller.tenant_id, account_sid=valid.request.account_sid)
            if account is None:
                raise NoUsableCredentials
            call_id, attempt = (known.id, known.attempt + 1) if known else (uuid7(), 1)
            progress = progress_callbacks(valid.request, account, call_id, base=self._callback_base, judge=self._judge_callback)
            intent = {
                "account_id": account.account_id,
                "account_sid": account.account_sid,
                "parameters": valid.request.for_record(),
                "warnings": valid.warnings_json(*progress.warnings),
                "fingerprint": self._keyring.keyed_hash(fingerprint),
                "to": valid.request.to,
                "from_": valid.request.from_,
                **progress.columns,
            }
            try:
                call = await self._commit_intent(caller, call_id, known, intent, idempotency_key)
            except DatabaseUnavailable:
                # The commit may have taken place all the same.
                self._placement.withdraw(call_id, attempt)
                raise
            if call is not None:
                return await self._place(call, account, valid.request, progress)
        # A request with the same key was quicker.
        return await self.create(caller, body, idempotency_key)

    def admission(self) -> AbstractContextManager[None]:
        """Held by a request that wants to create; Overloaded when there is no room for another."""
        return self._placement.admission()

    async def get(self, caller: Caller, id_or_sid: str) -> Call:
        async with self._database.begin() as session:
            if CALL_SID.fullmatch(id_or_sid):
                call = await repository.get_call_by_sid(session, id_or_sid, tenant_id=caller.tenant_id)
            else:
                call = await repository.get_call(session, _uuid(id_or_sid), tenant_id=caller.tenant_id)
        if call is None:
            raise CallNotFound
        return call

    async def list(self, caller: Caller, wanted: CallFilter, *, limit: int) -> tuple[Sequence[Call], str | None]:
        """A page, newest first, and the cursor of the next one."""
        async with self._database.begin() as session:
            calls = await repository.list_calls(session, tenant_id=caller.tenant_id, wanted=wanted, limit=limit + 1)
        return calls[:limit], ids.cursor_of(calls[limit - 1].id) if len(calls) > limit else None

    async def events(self, caller: Caller, id_or_sid: str) -> Sequence[CallEvent]:
        call = await self.get(caller, id_or_sid)
        async with self._database.begin() as session:
            return await repository.list_events(session, call.id)

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

    async def _commit_intent(
        self, caller: Caller, call_id: UUID, known: Call | None, intent: dict[str, Any], idempotency_key: str | None
    ) -> Call | None:
        """The call, pending; None when a request with the same key was quicker."""
        async with self._database.begin() as session:
            if known:
                call = await repository.reopen(session, known, intent)
            else:
                intent |= {
                    "id": call_id,
                    "tenant_id": caller.tenant_id,
                    "created_at": ids.created_at(call_id),
                    "idempotency_key": idempotency_key,
                }
                call = await repository.insert_intent(session, intent)
            if call:
                await repository.add_event(session, call.id, "call.pending", {"attempt": call.attempt})
        return call

    async def _place(self, call: Call, account: Dialable, request: CallRequest, progress: ProgressCallbacks) -> Creation:
        parameters = request.for_twilio() | progress.for_twilio
        settled = await self._placement.place(call, account, parameters, secrets=request.secrets())
        if settled.execution == "not_started" and settled.problem:
            raise rebuild(settled.problem, call_id=settled.id)
        return Creation(settled)


def _canonical(body: Mapping[str, Any]) -> bytes:
    """The request as bytes, whatever the order of its members: what "the same request" means."""
    try:
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        raise MalformedBody("The body is not acceptable JSON: it is nested too deeply.") from None


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CallNotFound from None
