"""Reads and changes a call's subresources at Twilio. Does not import the routes.

Sends a request again only if Twilio rejected the credential, and then with the account's next credential. docs/adr/0017 says
how an unknown outcome is reported.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from app.calls import repository
from app.calls.models import Call
from app.calls.service import CallService
from app.database.engine import Database
from app.errors import (
    CallNotFound,
    DatabaseUnavailable,
    NoUsableCredentials,
    SubresourceNotFound,
    TenantSuspended,
    WrongCallState,
)
from app.http.concurrency import ConcurrencyLimit
from app.subresources.answers import (
    action_outcome_unknown_error,
    error_for_client,
    event_data_of_answer,
    event_data_of_error,
    no_usable_answer_error,
    read_json_answer,
)
from app.subresources.requests import MediaRequest, SubresourceRequest
from app.tenants.caller import Caller
from app.tenants.directory import TenantDirectory
from app.twilio.client import try_credentials
from app.twilio.errors import TwilioError, TwilioOutcomeUnknown
from app.twilio.forwarding import (
    MAX_JSON_BYTES,
    MAX_STREAMED_JSON_BYTES,
    QueryPairs,
    RequestForwarder,
    StreamedResponse,
    TwilioChangeResponse,
)
from app.twilio.schemas import SID_PATTERN, Credential
from app.twilio.subresources import RECORDINGS, SubresourceOperation

_FETCH_RECORDING = SubresourceOperation(RECORDINGS, "fetch")

logger = structlog.stdlib.get_logger(__name__)


class SubresourceService:
    """Forwards requests for a call's subresources to Twilio.

    `request_limit` limits how many requests have a connection to Twilio at the same time. A download has its connection until
    the client has read everything. `list_limit` limits how many list pages are in memory at the same time: each one from the
    request to Twilio until the client has read the response. Methods raise Overloaded if a limit does not allow the request
    in time.
    """

    def __init__(
        self,
        *,
        database: Database,
        calls: CallService,
        directory: TenantDirectory,
        forwarding: RequestForwarder,
        deadline_s: float,
        request_limit: ConcurrencyLimit,
        list_limit: ConcurrencyLimit,
    ) -> None:
        self._database = database
        self._calls = calls
        self._directory = directory
        self._forwarding = forwarding
        self._deadline_s = deadline_s
        self._request_limit = request_limit
        self._list_limit = list_limit

    async def require_started_call(self, caller: Caller, id_or_sid: str, *, account_sid: str | None = None) -> Call:
        """Returns the tenant's call with this id or CallSid. Raises CallNotFound if the tenant has no such call.

        Raises WrongCallState if the call has no CallSid yet, because it may not have started. With `account_sid`, also raises
        CallNotFound if the call is in another account.
        """
        call = await self._calls.get(caller, id_or_sid)
        if account_sid not in (None, call.account_sid):
            raise CallNotFound
        if call.sid is None:
            raise WrongCallState("The call is not known to have started, so Twilio has no subresources of it.", call_id=call.id)
        return call

    def stream_subresource(
        self,
        call: Call,
        request: SubresourceRequest,
        *,
        list_stack: AsyncExitStack | None = None,
        max_bytes: int = MAX_STREAMED_JSON_BYTES,
    ) -> AbstractAsyncContextManager[StreamedResponse]:
        """Returns a context manager that sends a GET request, and yields Twilio's answer, whose body can be streamed.

        With `list_stack`, the request also counts towards the limit of list pages in memory, until the stack closes. Reading
        the body raises TwilioOutcomeUnknown if the body has more than `max_bytes`.
        """
        return self._send_read_request(
            call.tenant_id,
            call.account_id,
            lambda credential: self._forwarding.stream_subresource(
                credential,
                request.operation,
                call.sid,
                request.sid,
                request.fields,
                deadline_s=self._deadline_s,
                max_bytes=max_bytes,
            ),
            list_stack=list_stack,
        )

    async def read_item(self, call: Call, request: SubresourceRequest) -> dict[str, Any]:
        """Fetches one item of a subresource, such as a recording. Returns Twilio's JSON object."""
        return await read_json_answer(self.stream_subresource(call, request, max_bytes=MAX_JSON_BYTES))

    async def read_list(self, call: Call, request: SubresourceRequest, response_stack: AsyncExitStack) -> dict[str, Any]:
        """Fetches a page of a list. Returns Twilio's JSON object. Raises InvalidRequest if the page is too long.

        The caller closes `response_stack` after the response was sent. Until then the page counts as one that is in memory.
        """
        answer = self.stream_subresource(call, request, list_stack=response_stack, max_bytes=MAX_JSON_BYTES)
        return await read_json_answer(answer, page_size_name="page_size")

    async def change_subresource(self, caller: Caller, call: Call, request: SubresourceRequest) -> TwilioChangeResponse:
        """Creates, updates or deletes an item, such as a recording.

        Writes an event of the call before the request is sent, and another with the result. Raises ActionUnknown if Twilio may
        have made the change, and does not repeat the request.
        """
        if caller.suspended and request.operation.action == "create":
            raise TenantSuspended
        fields, repeatable = request.fields_with_idempotency_key(call)

        async def send_request(credential: Credential) -> TwilioChangeResponse:
            return await self._forwarding.change_subresource(
                credential, request.operation, str(call.sid), request.sid, fields, deadline_s=self._deadline_s
            )

        credentials = await self._require_credentials(call.account_id)
        async with self._request_limit.admit_request(call.tenant_id):
            await self._record_event(call, request, {"result": "sent"})
            try:
                # Do not mark a refused credential: it may only lack a permission.
                response = await try_credentials(credentials, send_request)
            except TwilioError as error:
                await self._record_result(call, request, event_data_of_error(error))
                if isinstance(error, TwilioOutcomeUnknown):
                    raise action_outcome_unknown_error(call, repeatable=repeatable) from error
                raise error_for_client(call.id, error) from error
        await self._record_result(call, request, {"result": "done", "status": response.status} | event_data_of_answer(response))
        return response

    @asynccontextmanager
    async def stream_recording_media(self, call: Call, media: MediaRequest) -> AsyncIterator[StreamedResponse]:
        """Yields Twilio's answer, whose body can be streamed: the audio of a recording of this call.

        Raises SubresourceNotFound if the call has no such recording.
        """
        await self.read_item(call, SubresourceRequest(_FETCH_RECORDING, media.recording_sid, ()))
        async with self._stream_media(call, media) as response:
            yield response

    @asynccontextmanager
    async def stream_recording_media_of_account(
        self, caller: Caller, account_id: UUID, account_sid: str, media: MediaRequest
    ) -> AsyncIterator[StreamedResponse]:
        """Yields the audio of a recording like `stream_recording_media`, also if the call was deleted at Twilio.

        Raises SubresourceNotFound if there is no such recording, or if the recorded call is not the tenant's.
        """
        call, _ = await self.find_recording(caller, account_id, account_sid, media.recording_sid)
        async with self._stream_media(call, media) as response:
            yield response

    async def find_recording(
        self, caller: Caller, account_id: UUID, account_sid: str, recording_sid: str, query: QueryPairs = ()
    ) -> tuple[Call, dict[str, Any]]:
        """Returns the recorded call, and the recording as Twilio's JSON object.

        Raises SubresourceNotFound if there is no such recording, or if the recorded call is not the tenant's.
        """
        answer = self._send_read_request(
            caller.tenant_id,
            account_id,
            lambda credential: self._forwarding.stream_subresource(
                credential,
                _FETCH_RECORDING,
                None,
                recording_sid,
                query,
                deadline_s=self._deadline_s,
                max_bytes=MAX_JSON_BYTES,
            ),
        )
        recording = await read_json_answer(answer)
        try:
            return await self.require_started_call(caller, str(recording.get("call_sid")), account_sid=account_sid), recording
        except CallNotFound:
            raise SubresourceNotFound from None

    async def list_child_calls(
        self, caller: Caller, account_sid: str, parent_sid: str, query: QueryPairs, response_stack: AsyncExitStack
    ) -> dict[str, Any] | None:
        """Returns a page of Twilio's list of the calls that the call `parent_sid` has started (`<Dial>`).

        Returns None if the tenant has no such parent call in this account. Raises InvalidRequest if the page is too long.
        The caller closes `response_stack` after the response was sent, as for `read_list`.
        """
        try:
            parent = await self.require_started_call(caller, parent_sid, account_sid=account_sid)
        except CallNotFound:
            return None
        answer = self._send_read_request(
            caller.tenant_id,
            parent.account_id,
            lambda credential: self._forwarding.list_calls(credential, query, deadline_s=self._deadline_s),
            list_stack=response_stack,
        )
        page = await read_json_answer(answer, page_size_name="PageSize")
        legs = page.get("calls")
        if not isinstance(legs, list):
            raise no_usable_answer_error()
        # Filter again, so that calls of other tenants never appear, whatever Twilio's filter does.
        own = [leg for leg in legs if isinstance(leg, dict) and leg.get("parent_call_sid") == parent_sid]
        return page | {"calls": own}

    def _stream_media(self, call: Call, media: MediaRequest) -> AbstractAsyncContextManager[StreamedResponse]:
        """Returns a context manager that yields a recording's audio. Does not check that the recording is of this call."""
        return self._send_read_request(
            call.tenant_id,
            call.account_id,
            lambda credential: self._forwarding.stream_recording_media(
                credential, media.recording_sid, media.suffix, media.query, media.headers, deadline_s=self._deadline_s
            ),
        )

    @asynccontextmanager
    async def _send_read_request(
        self,
        tenant_id: str,
        account_id: UUID,
        send_request: Callable[[Credential], AbstractAsyncContextManager[StreamedResponse]],
        *,
        list_stack: AsyncExitStack | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        """Yields Twilio's answer to a GET request. Tries the account's credentials in turn until Twilio accepts one."""
        credentials = await self._require_credentials(account_id)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._request_limit.admit_request(tenant_id))
            if list_stack is not None:
                # In this order: a tenant whose requests wait for a connection must not hold up the lists of others.
                await list_stack.enter_async_context(self._list_limit.admit_request(tenant_id))
            try:
                response = await try_credentials(
                    credentials, lambda credential: stack.enter_async_context(send_request(credential))
                )
            except TwilioOutcomeUnknown as error:
                raise no_usable_answer_error() from error
            except TwilioError as error:
                raise error_for_client(None, error) from error
            yield response

    async def _require_credentials(self, account_id: UUID) -> Sequence[Credential]:
        """Returns the account's active credentials. Raises NoUsableCredentials if there are none."""
        credentials = await self._directory.active_credentials(account_id)
        if not credentials:
            raise NoUsableCredentials
        return credentials

    async def _record_event(self, call: Call, request: SubresourceRequest, data: dict[str, Any]) -> None:
        operation = request.operation
        sid = {"sid": request.sid} if request.sid and SID_PATTERN.fullmatch(request.sid) else {}
        async with self._database.begin() as session:
            await repository.add_event(
                session, call.id, f"call.{operation.subresource.noun}", {"action": operation.action} | sid | data
            )

    async def _record_result(self, call: Call, request: SubresourceRequest, data: dict[str, Any]) -> None:
        """Writes the event with the result of a change. If the database is unavailable, only logs an error.

        If DatabaseUnavailable were raised, the client would get a 5xx response, which promises that nothing was changed.
        """
        try:
            await self._record_event(call, request, data)
        except DatabaseUnavailable:
            logger.error("subresource_event_lost", call_id=str(call.id), **data)
