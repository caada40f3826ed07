"""HTTP client of Twilio's API, with one method per endpoint. Methods raise TwilioError for every failure."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Self, TypeVar

import httpx

from app.observability import Metrics
from app.security.redaction import SecretRedactor
from app.twilio.call_list import MAX_PAGE_BYTES, parse_call_page, read_call_list, read_call_pages
from app.twilio.call_uris import account_uri
from app.twilio.clock import TwilioClockOffsets
from app.twilio.direct_transport import DirectTransport
from app.twilio.error_translation import ErrorTranslation
from app.twilio.errors import ANSWER_TOO_LONG, TwilioCredentialRejected, TwilioError, TwilioNotSent, TwilioOutcomeUnknown
from app.twilio.instrumentation import instrumented
from app.twilio.refusals import error_for_answer, read_error_answer
from app.twilio.response_body import BodyTooLong, read_response_body
from app.twilio.schemas import CallResource, Credential, Form, OnCredentialUse, parse_storable_json
from app.twilio.secrets import authorization_header, redact_document, secrets_of_call_request
from app.twilio.send_gate import SendGate

Result = TypeVar("Result")

_MAX_ANSWER_BYTES = 1024 * 1024
_CALLS_PATH = "Calls.json"
_parse_url = lru_cache(maxsize=1024)(httpx.URL)  # parsing takes as long as the rest of a request


async def try_credentials(credentials: Sequence[Credential], send_request: Callable[[Credential], Awaitable[Result]]) -> Result:
    """Calls `send_request` with one credential after the other until Twilio accepts one, and returns the result.

    Raises TwilioCredentialRejected if Twilio refuses all of them, and TwilioNotSent if there are none. Raises any other
    TwilioError at once, without trying the remaining credentials.
    """
    rejection: TwilioError = TwilioNotSent("no_credential")
    for credential in credentials:
        try:
            return await send_request(credential)
        except TwilioCredentialRejected as error:
            rejection = error
    raise rejection


class HttpClient:
    """Passes requests to the transport, without the layers of httpx.AsyncClient.

    These layers (redirects, cookies, hooks and authentication flows) are not needed here, and take as much CPU time as sending
    the request.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, timeout: httpx.Timeout, user_agent: str) -> None:
        self._transport = transport
        self._extensions = {"timeout": timeout.as_dict()}
        self._user_agent = user_agent
        # Cached for all requests with one credential: building the headers takes longer than the rest of httpx's work.
        self._headers = lru_cache(maxsize=1024)(self._build_headers)

    async def send(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        gate: SendGate | None = None,
    ) -> httpx.Response:
        """Sends the request at most once and returns when the answer's head has arrived. The caller closes the response.

        Raises TooLate, and sends nothing, if the deadline of `gate` has passed before the first byte is written.
        """
        url = httpx.URL(url)
        # httpx adds no headers to a request with a stream; the transport adds Content-Length.
        request = httpx.Request(
            method,
            url,
            headers=self._headers(url.netloc, tuple(headers.items())),
            stream=httpx.ByteStream(content or b""),
            extensions=self._extensions if gate is None else {**self._extensions, "send_gate": gate},
        )
        return await self._transport.handle_async_request(request)

    def _build_headers(self, host: bytes, headers: Sequence[tuple[str, str]]) -> httpx.Headers:
        accepted = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        return httpx.Headers({"Host": host.decode(), **accepted, "User-Agent": self._user_agent, **dict(headers)})

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def make_http_client(
    *,
    connect_timeout: float,
    read_timeout: float,
    pool_timeout: float,
    max_connections: int,
    user_agent: str,
    keepalive: float = 2.0,
) -> HttpClient:
    """Makes a client that neither follows redirects nor retries. Times are in seconds; `keepalive` is for idle connections."""
    return HttpClient(
        DirectTransport(max_connections=max_connections, keepalive_s=keepalive),
        timeout=httpx.Timeout(connect=connect_timeout, read=read_timeout, write=read_timeout, pool=pool_timeout),
        user_agent=user_agent,
    )


class TwilioClient:
    """Sends requests about calls to Twilio's 2010 API. Methods raise TwilioError for every failure of the network or of Twilio.

    The parameter `deadline_s` of a method limits the time for each request and its answer, in seconds.
    """

    def __init__(
        self,
        http: HttpClient,
        *,
        base_url: str,
        metrics: Metrics | None = None,
        on_use: OnCredentialUse | None = None,
        clock: TwilioClockOffsets | None = None,
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._on_use = on_use
        self.metrics = metrics or Metrics()
        self.clock = clock or TwilioClockOffsets(self.metrics)

    async def create_call(
        self, credential: Credential, form: Form, *, deadline_s: float, send_before: float | None = None
    ) -> CallResource:
        """Creates a call: https://www.twilio.com/docs/voice/api/call-resource#create-a-call-resource.

        Sends at most one POST, and no POST after `app.clock.monotonic_seconds()` has reached `send_before`. TwilioNotSent and
        TwilioNotProcessed prove that no call was created. After TwilioOutcomeUnknown, a call may have been created.
        """
        gate = SendGate(deadline=math.inf if send_before is None else send_before)
        addresses = [form.parameters[name] for name in ("to", "from") if name in form.parameters]
        resource: CallResource = await self._send(
            "POST", credential, _CALLS_PATH, form, deadline_s, _parse_resource, gate=gate, addresses=addresses
        )
        return resource

    async def check_credential(self, credential: Credential, *, deadline_s: float) -> None:
        """Raises TwilioError unless Twilio accepts the credential. Sends a request that changes nothing at Twilio."""
        await self._send("GET", credential, "Calls.json?PageSize=1", None, deadline_s)

    async def fetch_call(self, credential: Credential, sid: str, *, deadline_s: float) -> CallResource:
        """Fetches a call. Twilio's answer may be out of date.

        https://www.twilio.com/docs/voice/api/call-resource#fetch-a-call-resource
        """
        parse = partial(_parse_resource_of_call, sid)
        resource: CallResource = await self._send("GET", credential, f"Calls/{sid}.json", None, deadline_s, parse)
        return resource

    async def update_call(
        self,
        credential: Credential,
        sid: str,
        parameters: Mapping[str, Any],
        *,
        deadline_s: float,
        addresses: Sequence[str] = (),
    ) -> CallResource:
        """Updates a call with at most one POST: https://www.twilio.com/docs/voice/api/call-resource#update-a-call-resource.

        `addresses` are the call's `to` and `from`, which are kept when secrets are removed from Twilio's answer.
        """
        resource: CallResource = await self._send(
            "POST",
            credential,
            f"Calls/{sid}.json",
            parameters,
            deadline_s,
            partial(_parse_resource_of_call, sid),
            addresses=addresses,
        )
        return resource

    async def delete_call(self, credential: Credential, sid: str, *, deadline_s: float) -> None:
        """Deletes a call. The request can safely be repeated.

        https://www.twilio.com/docs/voice/api/call-resource#delete-a-call-resource
        """
        await self._send("DELETE", credential, f"Calls/{sid}.json", None, deadline_s)

    async def list_calls(
        self,
        credential: Credential,
        filters: Mapping[str, str],
        *,
        deadline_s: float,
        keep: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> list[CallResource]:
        """Lists calls: https://www.twilio.com/docs/voice/api/call-resource#read-multiple-call-resources.

        Twilio applies `filters` (`To`, `Status`, `StartTime>`). This method then keeps only the calls for which `keep` returns
        true. The newest calls may be missing in Twilio's list. Raises TwilioListTooLong if the list has more pages than
        `MAX_PAGES` in app.twilio.call_list.
        """

        return await read_call_list(self.pages_of_calls(credential, filters, deadline_s=deadline_s), keep=keep)

    def pages_of_calls(
        self, credential: Credential, filters: Mapping[str, str], *, deadline_s: float
    ) -> AsyncIterator[list[Mapping[str, Any]]]:
        """Yields Twilio's list of calls page by page. Requests each page only when the iterator reaches it."""

        async def get(path: str) -> Any:
            return await self._send("GET", credential, path, None, deadline_s, parse_call_page, answer_limit=MAX_PAGE_BYTES)

        return read_call_pages(get, credential.account_sid, filters)

    @instrumented
    async def _send(
        self,
        method: str,
        credential: Credential,
        path: str,
        parameters: Form | Mapping[str, Any] | None,
        deadline_s: float,
        parse: Callable[[Any], Any] = lambda document: document,
        *,
        answer_limit: int = _MAX_ANSWER_BYTES,
        gate: SendGate | None = None,
        addresses: Sequence[str] = (),
    ) -> Any:
        """Sends one request. Returns `parse(document)` for the JSON of a 2xx answer; raises TwilioError for another answer."""
        url: httpx.URL | str = f"{credential.base_url or self._base_url}{account_uri(credential.account_sid)}/{path}"
        form = parameters if isinstance(parameters, Form) else _as_form(parameters or {})
        content = None if parameters is None else form.content
        if self._on_use:
            self._on_use(credential)
        headers = {"Authorization": authorization_header(credential)}
        if content is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        with ErrorTranslation(gate):
            secrets = secrets_of_call_request(credential, form.parameters, form.secret_names)
            async with asyncio.timeout(deadline_s):
                url = _parse_url(url) if path == _CALLS_PATH else url
                sent_at = time.time()
                response = await self._http.send(method, url, headers=headers, content=content, gate=gate)
                self.clock.measure_offset(
                    credential.base_url, response.headers.get("Date"), sent_at=sent_at, received_at=time.time()
                )
                try:
                    body = await read_response_body(response, limit=answer_limit)
                except BodyTooLong:
                    raise TwilioOutcomeUnknown(ANSWER_TOO_LONG) from None
                finally:
                    await response.aclose()
        return parse(_parse_answer(response, body, secrets, addresses))


def _as_form(parameters: Mapping[str, Any]) -> Form:
    try:
        return Form.from_parameters(parameters)
    except UnicodeEncodeError as error:
        raise TwilioNotSent("not_encodable") from error


def _parse_answer(response: httpx.Response, body: bytes, secrets: SecretRedactor, addresses: Sequence[str]) -> Any:
    """Returns the JSON of a 2xx answer, with secrets removed. Returns None for a 204.

    Raises TwilioError for an answer with another status, and for an answer that is not JSON (docs/adr/0003).
    """
    status = response.status_code
    document = parse_storable_json(body)
    if not 200 <= status < 300:
        raise error_for_answer(read_error_answer(response, document, secrets))
    if document is None and status != httpx.codes.NO_CONTENT:
        raise TwilioOutcomeUnknown("unreadable_answer", read_error_answer(response, document, secrets))
    return redact_document(document, secrets, addresses) if secrets.may_occur_in(body) else document


def _parse_resource(document: Any) -> CallResource:
    """Returns the call in an answer. Raises TwilioOutcomeUnknown if the answer has no valid CallSid."""
    resource = CallResource.parse_answer(document)
    if resource is None:
        raise TwilioOutcomeUnknown("answer_without_sid")
    return resource


def _parse_resource_of_call(sid: str, document: Any) -> CallResource:
    """Returns the call in an answer. Raises TwilioOutcomeUnknown if the answer's CallSid is missing, invalid, or not `sid`."""
    resource = _parse_resource(document)
    if resource.sid != sid:
        raise TwilioOutcomeUnknown("answer_of_another_call")
    return resource
