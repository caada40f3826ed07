"""Read and change what Twilio has below a call. Not aware of HTTP.

docs/adr/0012 says what is repeated (nothing but a refused credential) and how an unknown outcome is told.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4, uuid5

import structlog

from app.auth import Caller
from app.calls import repository
from app.calls.models import Call
from app.calls.service import CallService
from app.database import Database
from app.errors import (
    ActionUnknown,
    CallgateError,
    CallNotFound,
    DatabaseUnavailable,
    NoUsableCredentials,
    SubresourceNotFound,
    SubresourceRejected,
    TenantSuspended,
    Upstream,
    UpstreamCredentialsRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
    WrongCallState,
)
from app.tenants.service import TenantService
from app.twilio.client import first_accepted
from app.twilio.errors import (
    Answer,
    TwilioAnswered,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotSent,
    TwilioOutcomeUnknown,
    TwilioThrottled,
)
from app.twilio.forwarding import Done, Fields, Forwarding, Opened
from app.twilio.schemas import CALL_SID, SID, AccountAccess
from app.twilio.subresources import IDEMPOTENCY_KEY, RECORDINGS, Operation

Answered = TypeVar("Answered")

_FETCH_RECORDING = Operation(RECORDINGS, "fetch")

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request about a call's subresource. `fields` are in Twilio's names; `key` is the client's Idempotency-Key."""

    operation: Operation
    sid: str | None
    fields: Fields
    key: str | None = None


class SubresourceService:
    def __init__(
        self, *, database: Database, calls: CallService, tenants: TenantService, forwarding: Forwarding, budget_s: float
    ) -> None:
        self._database = database
        self._calls = calls
        self._tenants = tenants
        self._forwarding = forwarding
        self._budget_s = budget_s

    async def started_call(self, caller: Caller, id_or_sid: str, *, account_sid: str | None = None) -> Call:
        """The tenant's own call, of this account if one is named. Raises CallNotFound or WrongCallState."""
        call = await self._calls.get(caller, id_or_sid)
        if account_sid not in (None, call.account_sid):
            raise CallNotFound
        if call.sid is None:
            raise WrongCallState("The call was not started, as far as is known, so Twilio has nothing of it.", call_id=call.id)
        return call

    @asynccontextmanager
    async def read(self, call: Call, wanted: Wanted) -> AsyncIterator[Opened]:
        """What Twilio has, while it arrives."""

        async def ask(access: AccountAccess, deadline_s: float) -> Opened:
            return await stack.enter_async_context(
                self._forwarding.read(
                    access, wanted.operation, str(call.sid), wanted.sid, wanted.fields, deadline_s=deadline_s
                )
            )

        async with AsyncExitStack() as stack:
            yield await self._asked(call, ask)

    async def change(self, caller: Caller, call: Call, wanted: Wanted) -> Done:
        """Make, update or delete one. It is on the call's record before the first byte goes to Twilio, and what came of it after.

        Raises ActionUnknown when Twilio may have done it: that is never repeated here.
        """
        if caller.suspended and wanted.operation.action == "create":
            raise TenantSuspended
        fields, repeatable = _with_idempotency_key(call, wanted)

        async def ask(access: AccountAccess, deadline_s: float) -> Done:
            return await self._forwarding.change(
                access, wanted.operation, str(call.sid), wanted.sid, fields, deadline_s=deadline_s
            )

        accesses = await self._accesses(call)
        await self._note(call, wanted, {"result": "sent"})
        try:
            done = await self._first_accepted(accesses, ask)
        except TwilioError as error:
            await self._note_afterwards(call, wanted, _outcome_of(error))
            if isinstance(error, TwilioOutcomeUnknown):
                raise in_doubt(call, repeatable=repeatable) from error
            raise _refusal(error) from error
        await self._note_afterwards(call, wanted, {"result": "done", "status": done.status} | _sid_of(done))
        return done

    @asynccontextmanager
    async def media(
        self, call: Call, recording_sid: str, suffix: str, query: Fields, wanted: Mapping[str, str]
    ) -> AsyncIterator[Opened]:
        """The sound of a recording of this call, while it arrives. `suffix`: `.mp3`, `.wav`."""
        of_call = Wanted(_FETCH_RECORDING, recording_sid, ())
        async with self.read(call, of_call):
            pass  # Twilio knows it below this call: otherwise SubresourceNotFound has been raised.

        async def ask(access: AccountAccess, deadline_s: float) -> Opened:
            return await stack.enter_async_context(
                self._forwarding.media(access, recording_sid, suffix, query, wanted, deadline_s=deadline_s)
            )

        async with AsyncExitStack() as stack:
            yield await self._asked(call, ask)

    async def _asked(self, call: Call, ask: Callable[[AccountAccess, float], Awaitable[Answered]]) -> Answered:
        try:
            return await self._first_accepted(await self._accesses(call), ask)
        except TwilioOutcomeUnknown as error:
            raise UpstreamUnreachable("Twilio gave no usable answer to this question, which changed nothing.", after_s=5) from error
        except TwilioError as error:
            raise _refusal(error) from error

    async def _accesses(self, call: Call) -> Sequence[AccountAccess]:
        accesses = await self._tenants.accesses(call.account_id)
        if not accesses:
            raise NoUsableCredentials
        return accesses

    async def _first_accepted(
        self, accesses: Sequence[AccountAccess], ask: Callable[[AccountAccess, float], Awaitable[Answered]]
    ) -> Answered:
        """Within the budget. A credential that is refused here is not marked: it may lack one permission only."""
        ends = time.monotonic() + self._budget_s
        return await first_accepted(accesses, lambda access: ask(access, ends - time.monotonic()))

    async def _note(self, call: Call, wanted: Wanted, data: dict[str, Any]) -> None:
        operation = wanted.operation
        sid = {"sid": wanted.sid} if wanted.sid and SID.fullmatch(wanted.sid) else {}
        async with self._database.begin() as session:
            await repository.add_event(
                session, call.id, f"call.{operation.subresource.noun}", {"action": operation.action} | sid | data
            )

    async def _note_afterwards(self, call: Call, wanted: Wanted, data: dict[str, Any]) -> None:
        """What happened at Twilio is told even if it cannot be written down: a 5xx would say that nothing was changed."""
        try:
            await self._note(call, wanted, data)
        except DatabaseUnavailable:
            logger.error("subresource_event_lost", call_id=str(call.id), **data)


def in_doubt(call: Call, *, repeatable: bool) -> ActionUnknown:
    detail = "Repeat it under the same Idempotency-Key: Twilio does it once." if repeatable else None
    error = ActionUnknown(detail, call_id=call.id)
    error.safe = repeatable
    return error


def _with_idempotency_key(call: Call, wanted: Wanted) -> tuple[Fields, bool]:
    """Twilio's IdempotencyKey, where it takes one: the client's, one that follows from its header, or a new one.

    And whether the client can repeat the request with the same one.
    """
    if not wanted.operation.takes_idempotency_key:
        return wanted.fields, False
    if any(name == IDEMPOTENCY_KEY and value for name, value in wanted.fields):
        return wanted.fields, True
    others = [(name, value) for name, value in wanted.fields if name != IDEMPOTENCY_KEY]
    if wanted.key is None:
        return [*others, (IDEMPOTENCY_KEY, str(uuid4()))], False
    name = "/".join((wanted.operation.subresource.segment, wanted.sid or "", wanted.key))
    return [*others, (IDEMPOTENCY_KEY, str(uuid5(call.id, name)))], True


def _outcome_of(error: TwilioError) -> dict[str, Any]:
    """For the call's events: no text of Twilio's, which may repeat what was asked for."""
    unknown = isinstance(error, TwilioOutcomeUnknown)
    told = {"result": "unknown" if unknown else "not_done", "reason": error.reason}
    answer = error.answer
    if answer is None:
        return told
    answered = {"status": answer.status, "code": answer.code, "twilio_request_id": answer.request_id}
    return told | {name: value for name, value in answered.items() if value is not None}


def _sid_of(done: Done) -> dict[str, Any]:
    sid = (done.document or {}).get("sid")
    return {"sid": sid} if isinstance(sid, str) and SID.fullmatch(sid) else {}


def _refusal(error: TwilioError) -> CallgateError:
    match error:
        case TwilioThrottled(answer=answer):
            return UpstreamThrottled(upstream=_upstream(answer), after_s=max(1, round(answer.retry_after_s or 1)))
        case TwilioCredentialRejected(answer=answer):
            return UpstreamCredentialsRejected(upstream=_upstream(answer))
        case TwilioAnswered(answer=answer):
            refused = SubresourceNotFound if answer.status == 404 else SubresourceRejected
            return refused(upstream=_upstream(answer))
        case TwilioNotSent():
            return UpstreamUnreachable(after_s=5)
    raise error


def _upstream(answer: Answer) -> Upstream:
    return Upstream(answer.status, answer.code, answer.message, answer.more_info, answer.request_id)
