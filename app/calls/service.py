"""The use cases of calls. Not aware of HTTP.

Transactions are the `async with` blocks below; none is open while Twilio is being called.
"""

import asyncio
import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from app.auth import Caller
from app.calls import ids, repository
from app.calls.dial import Budget, NotStarted, Outcome, Started, Unknown, dial
from app.calls.models import Call, CallEvent
from app.calls.parameters import SECRET_PARAMETERS
from app.calls.repository import CallFilter
from app.calls.validation import CallRequest, validate_call
from app.crypto import Keyring
from app.database import Database
from app.errors import (
    CallgateError,
    CallNotFound,
    CallPending,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    NoUsableCredentials,
    Overloaded,
    ShuttingDown,
    TenantSuspended,
    passing,
    rebuild,
)
from app.observability import Metrics
from app.tenants.service import Dialable, TenantService
from app.twilio.client import TwilioClient

logger = structlog.stdlib.get_logger(__name__)

_OUTCOME_RETRY_S = 1.0
_CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Limits:
    max_in_flight: int
    budget: Budget
    first_refresh: timedelta


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
        twilio: TwilioClient,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._tenants = tenants
        self._twilio = twilio
        self._metrics = metrics
        self._limits = limits
        self._placing: set[asyncio.Task[Call]] = set()
        self._closing = False

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
        account = await self._admit(caller, valid.request)
        intent = {
            "account_id": account.account_id,
            "account_sid": account.account_sid,
            "parameters": valid.request.for_record(),
            "warnings": valid.warnings_json(),
            "fingerprint": self._keyring.keyed_hash(fingerprint),
            "to": valid.request.to,
            "from_": valid.request.from_,
        }
        call = await self._commit_intent(caller, known, intent, idempotency_key)
        if call is None:
            return await self.create(caller, body, idempotency_key)
        settled = await self._uncancelled(self._place(call, account, valid.request))
        if settled.execution == "not_started" and settled.problem:
            raise rebuild(settled.problem, call_id=settled.id)
        return Creation(settled)

    async def get(self, caller: Caller, id_or_sid: str) -> Call:
        async with self._database.begin() as session:
            if _CALL_SID.fullmatch(id_or_sid):
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

    async def drain(self) -> None:
        """Take no new creation and wait until the outcome of every one that was begun is committed."""
        self._closing = True
        while self._placing:
            await asyncio.wait(self._placing)

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

    async def _admit(self, caller: Caller, request: CallRequest) -> Dialable:
        """Every reason to refuse that is not the request's own fault. Nothing is stored or sent before."""
        if caller.suspended:
            raise TenantSuspended
        if self._closing:
            raise ShuttingDown(after_s=1)
        if len(self._placing) >= self._limits.max_in_flight:
            raise Overloaded(after_s=1)
        account = await self._tenants.dialable(caller.tenant_id, account_sid=request.account_sid)
        if account is None:
            raise NoUsableCredentials
        return account

    async def _commit_intent(
        self, caller: Caller, known: Call | None, intent: dict[str, Any], idempotency_key: str | None
    ) -> Call | None:
        """The call, pending; None when a request with the same key was quicker."""
        async with self._database.begin() as session:
            if known:
                call = await repository.reopen(session, known, intent)
            else:
                call_id = uuid7()
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

    async def _place(self, call: Call, account: Dialable, request: CallRequest) -> Call:
        """Dial, then commit what became of it before anybody hears of it."""
        parameters = request.for_twilio()
        secrets = [parameters[name] for name in SECRET_PARAMETERS & parameters.keys()]
        parameters.pop("account_sid", None)
        try:
            outcome = await dial(self._twilio, account.accesses, parameters, budget=self._limits.budget, secrets=secrets)
        except Exception:
            # A mistake of ours in mid-dial proves nothing about the call: it must not be told as "not started".
            logger.exception("dial_broke", call_id=str(call.id))
            outcome = Unknown("internal_error", [])
        self._metrics.creations.labels(_execution(outcome)).inc()
        try:
            return await self._commit_outcome(call, outcome)
        except DatabaseUnavailable:
            # Told as unknown at once, committed as soon as Postgres is back; if we end first, the worker finds it pending.
            self._keep(self._commit_when_possible(call, outcome))
        except Exception:
            # Such as a sid that is bound to another call. The record stays pending, and the worker will find it.
            logger.exception("outcome_not_committed", call_id=str(call.id))
        call.execution = "unknown"
        return call

    async def _commit_outcome(self, call: Call, outcome: Outcome) -> Call:
        data: dict[str, Any] = {"attempts": [_without_none(asdict(attempt)) for attempt in outcome.attempts]}
        async with self._database.begin() as session:
            match outcome:
                case Started(resource):
                    data["sid"] = resource.sid
                    settled = await repository.settle_started(
                        session, call, resource, settled_by="response", refresh_in=self._limits.first_refresh
                    )
                case NotStarted(problem):
                    data["problem"] = problem.slug
                    settled = await repository.settle_not_started(session, call, _describe(problem), settled_by="response")
                case Unknown(reason):
                    data["reason"] = reason
                    settled = await repository.mark_unknown(session, call)
            if settled:
                await repository.add_event(session, call.id, f"call.{_execution(outcome)}", data)
            # Somebody (a callback, the worker) settled it before us: what stands is the truth.
            return settled or await repository.get_call(session, call.id, tenant_id=call.tenant_id) or call

    async def _commit_when_possible(self, call: Call, outcome: Outcome) -> Call:
        while True:
            await asyncio.sleep(_OUTCOME_RETRY_S)
            try:
                return await self._commit_outcome(call, outcome)
            except DatabaseUnavailable:
                if self._closing:
                    return call

    async def _uncancelled(self, placing: Coroutine[Any, Any, Call]) -> Call:
        """Nobody's hang-up cancels a dial: the caller may go away, the outcome is committed all the same."""
        return await asyncio.shield(self._keep(placing))

    def _keep(self, coroutine: Coroutine[Any, Any, Call]) -> asyncio.Task[Call]:
        task = asyncio.create_task(coroutine)
        self._placing.add(task)
        self._metrics.in_flight.set(len(self._placing))
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Call]) -> None:
        self._placing.discard(task)
        self._metrics.in_flight.set(len(self._placing))


def _execution(outcome: Outcome) -> str:
    return {Started: "started", NotStarted: "not_started", Unknown: "unknown"}[type(outcome)]


def _describe(problem: CallgateError) -> dict[str, Any]:
    """What `rebuild` reads."""
    described = {"slug": problem.slug, "detail": problem.detail, "after_s": problem.after_s}
    return described | ({"upstream": asdict(problem.upstream)} if problem.upstream else {})


def _canonical(body: Mapping[str, Any]) -> bytes:
    """The request as bytes, whatever the order of its members: what "the same request" means."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CallNotFound from None
