"""Read and change what Twilio has below a call. Not aware of HTTP.

docs/adr/0017 says what is repeated (nothing but a refused credential) and how an unknown outcome is told.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4, uuid5

import structlog

from app.calls import repository
from app.calls.models import Call
from app.calls.service import CallService
from app.database import Database
from app.errors import (
    CallNotFound,
    DatabaseUnavailable,
    NoUsableCredentials,
    SubresourceNotFound,
    TenantSuspended,
    WrongCallState,
)
from app.http.authentication import Caller
from app.subresources.answers import indeterminate_error, outcome_of, refusal, sid_of, unanswered
from app.tenants.directory import TenantDirectory
from app.twilio.client import first_accepted
from app.twilio.errors import TwilioError, TwilioOutcomeUnknown
from app.twilio.forwarding import Forwarding, QueryPairs, StreamedResponse, UpstreamResponse
from app.twilio.schemas import SID, Credential, read_json
from app.twilio.subresources import IDEMPOTENCY_KEY, RECORDINGS, Operation

_FETCH_RECORDING = Operation(RECORDINGS, "fetch")

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request about a call's subresource. `fields` are in Twilio's names; `key` is the client's Idempotency-Key."""

    operation: Operation
    sid: str | None
    fields: QueryPairs
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """The sound of a recording: `suffix` is `.mp3` or `.wav`, `headers` what the client wants of it (`Range`)."""

    recording_sid: str
    suffix: str
    query: QueryPairs = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class SubresourceService:
    def __init__(
        self, *, database: Database, calls: CallService, tenants: TenantDirectory, forwarding: Forwarding, deadline_s: float
    ) -> None:
        self._database = database
        self._calls = calls
        self._tenants = tenants
        self._forwarding = forwarding
        self._deadline_s = deadline_s

    async def started_call(self, caller: Caller, id_or_sid: str, *, account_sid: str | None = None) -> Call:
        """The tenant's own call, of this account if one is named. Raises CallNotFound or WrongCallState."""
        call = await self._calls.get(caller, id_or_sid)
        if account_sid not in (None, call.account_sid):
            raise CallNotFound
        if call.sid is None:
            raise WrongCallState("The call was not started, as far as is known, so Twilio has nothing of it.", call_id=call.id)
        return call

    def read(self, call: Call, wanted: Wanted) -> AbstractAsyncContextManager[StreamedResponse]:
        """What Twilio has, while it arrives."""
        return self._opened(
            call.account_id,
            lambda access: self._forwarding.read(
                access, wanted.operation, call.sid, wanted.sid, wanted.fields, deadline_s=self._deadline_s
            ),
        )

    async def read_whole(self, call: Call, wanted: Wanted) -> dict[str, Any]:
        """The same as one document."""
        return await _document(self.read(call, wanted))

    async def change(self, caller: Caller, call: Call, wanted: Wanted) -> UpstreamResponse:
        """Make, update or delete one. The record says so before the first byte goes to Twilio, and then what came of it.

        Raises ActionUnknown when Twilio may have done it: that is never repeated here.
        """
        if caller.suspended and wanted.operation.action == "create":
            raise TenantSuspended
        fields, repeatable = _with_idempotency_key(call, wanted)

        async def ask(access: Credential) -> UpstreamResponse:
            return await self._forwarding.change(
                access, wanted.operation, str(call.sid), wanted.sid, fields, deadline_s=self._deadline_s
            )

        credentials = await self._open_all(call.account_id)
        await self._note(call, wanted, {"result": "sent"})
        try:
            # A credential that is refused here is not marked: it may lack one permission only.
            done = await first_accepted(credentials, ask)
        except TwilioError as error:
            await self._note_afterwards(call, wanted, outcome_of(error))
            if isinstance(error, TwilioOutcomeUnknown):
                raise indeterminate_error(call, repeatable=repeatable) from error
            raise refusal(call.id, error) from error
        await self._note_afterwards(call, wanted, {"result": "done", "status": done.status} | sid_of(done))
        return done

    @asynccontextmanager
    async def media(self, call: Call, media: Media) -> AsyncIterator[StreamedResponse]:
        """The sound of a recording of this call, while it arrives."""
        # Twilio knows it below this call, or SubresourceNotFound ends it here.
        await self.read_whole(call, Wanted(_FETCH_RECORDING, media.recording_sid, ()))
        async with self._opened(
            call.account_id,
            lambda access: self._forwarding.media(
                access, media.recording_sid, media.suffix, media.query, media.headers, deadline_s=self._deadline_s
            ),
        ) as opened:
            yield opened

    async def find_recording(
        self, caller: Caller, account_id: UUID, account_sid: str, recording_sid: str
    ) -> tuple[Call, dict[str, Any]]:
        """A recording by its sid alone, and the call that it is of. SubresourceNotFound unless that is the tenant's own."""
        opened = self._opened(
            account_id,
            lambda access: self._forwarding.read(
                access, _FETCH_RECORDING, None, recording_sid, (), deadline_s=self._deadline_s
            ),
        )
        recording = await _document(opened)
        try:
            return await self.started_call(caller, str(recording.get("call_sid")), account_sid=account_sid), recording
        except CallNotFound:
            raise SubresourceNotFound from None

    async def child_legs(self, caller: Caller, account_sid: str, parent_sid: str, query: QueryPairs) -> dict[str, Any] | None:
        """Twilio's list of the calls that this call of the tenant made (by `<Dial>`). None: the tenant has no such call."""
        try:
            parent = await self.started_call(caller, parent_sid, account_sid=account_sid)
        except CallNotFound:
            return None
        page = await _document(
            self._opened(
                parent.account_id,
                lambda access: self._forwarding.calls(access, query, deadline_s=self._deadline_s),
            )
        )
        legs = page.get("calls")
        if not isinstance(legs, list):
            raise unanswered()
        # Nobody else's, whatever Twilio makes of the filter.
        own = [leg for leg in legs if isinstance(leg, dict) and leg.get("parent_call_sid") == parent_sid]
        return page | {"calls": own}

    @asynccontextmanager
    async def _opened(
        self, account_id: UUID, ask: Callable[[Credential], AbstractAsyncContextManager[StreamedResponse]]
    ) -> AsyncIterator[StreamedResponse]:
        """What a question is answered, while it arrives."""
        credentials = await self._open_all(account_id)
        async with AsyncExitStack() as stack:
            try:
                opened = await first_accepted(credentials, lambda access: stack.enter_async_context(ask(access)))
            except TwilioOutcomeUnknown as error:
                raise unanswered() from error
            except TwilioError as error:
                raise refusal(None, error) from error
            yield opened

    async def _open_all(self, account_id: UUID) -> Sequence[Credential]:
        credentials = await self._tenants.credentials(account_id)
        if not credentials:
            raise NoUsableCredentials
        return credentials

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


async def _document(answer: AbstractAsyncContextManager[StreamedResponse]) -> dict[str, Any]:
    try:
        async with answer as opened:
            document = read_json(b"".join([chunk async for chunk in opened.chunks]))
    except TwilioOutcomeUnknown as error:
        raise unanswered() from error
    if not isinstance(document, dict):
        raise unanswered()
    return document


def _with_idempotency_key(call: Call, wanted: Wanted) -> tuple[QueryPairs, bool]:
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
