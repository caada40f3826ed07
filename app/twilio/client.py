"""Speak HTTP with Twilio. One method per endpoint; foreign exceptions end here.

What the fault matrix relies on: a transport raises ConnectError, ConnectTimeout and PoolTimeout only before the first byte of
the request is written, and ProxyError only when a proxy refuses the tunnel. Everything else may have happened after it.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self, TypeVar

import httpx
import structlog

from app.observability import Metrics
from app.security.redaction import Secrets
from app.twilio.call_list import PAGE_BYTES_LIMIT, read_call_list
from app.twilio.clock import TwilioClock
from app.twilio.errors import TwilioCredentialRejected, TwilioError, TwilioNotSent, TwilioOutcomeUnknown
from app.twilio.instrumentation import instrumented
from app.twilio.refusals import read_answer, refusal
from app.twilio.schemas import CallResource, Credential, Form, read_json
from app.twilio.secrets import authorization, redact_document, secrets_of
from app.twilio.send_gate import SendGate
from app.twilio.transport import AiohttpTransport

Answered = TypeVar("Answered")

logger = structlog.stdlib.get_logger(__name__)

_ANSWER_LIMIT = 1024 * 1024
_CALLS = "Calls.json"
_parsed = lru_cache(maxsize=1024)(httpx.URL)  # costs as much as all the rest of a request

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


async def first_accepted(credentials: Sequence[Credential], ask: Callable[[Credential], Awaitable[Answered]]) -> Answered:
    """The answer to a request, made with each credential until Twilio accepts one; every other error ends it.

    Raises the last TwilioCredentialRejected, or TwilioNotSent when there is no credential at all.
    """
    refusal: TwilioError = TwilioNotSent("no_credential")
    for access in credentials:
        try:
            return await ask(access)
        except TwilioCredentialRejected as error:
            refusal = error
    raise refusal


class HttpClient:
    """Prepared requests, straight to the transport.

    What httpx.AsyncClient does besides (redirects, cookies, hooks, rounds of authentication) is not wanted here, and costs as
    much as the sending.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, timeout: httpx.Timeout, user_agent: str) -> None:
        self._transport = transport
        self._extensions = {"timeout": timeout.as_dict()}
        self._headers = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "User-Agent": user_agent}

    async def send(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        gate: SendGate | None = None,
    ) -> httpx.Response:
        """The answer's head; the caller reads the body, or not, and closes it. Sends once, if `gate` lets it."""
        url = httpx.URL(url)
        # Given a stream, httpx adds no header of its own: it would make all of them anew for that, several times.
        length = {} if content is None else {"Content-Length": str(len(content))}
        request = httpx.Request(
            method,
            url,
            headers={"Host": url.netloc.decode(), **self._headers, **headers, **length},
            stream=httpx.ByteStream(content or b""),
            extensions=self._extensions if gate is None else {**self._extensions, "send_gate": gate},
        )
        return await self._transport.handle_async_request(request)

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
    """The one HTTP client of a process: no redirects, no retries of its own, every timeout written out."""
    return HttpClient(
        AiohttpTransport(max_connections=max_connections, keepalive_s=keepalive),
        timeout=httpx.Timeout(connect=connect_timeout, read=read_timeout, write=read_timeout, pool=pool_timeout),
        user_agent=user_agent,
    )


class TwilioClient:
    """Twilio's 2010 API. Every method raises TwilioError and nothing else of the outside world."""

    def __init__(self, http: HttpClient, *, base_url: str, metrics: Metrics | None = None) -> None:
        self._http = http
        self._base_url = base_url
        self.metrics = metrics or Metrics()
        self.clock = TwilioClock(self.metrics)

    async def create_call(
        self, access: Credential, form: Form, *, deadline_s: float, send_before: float | None = None
    ) -> CallResource:
        """https://www.twilio.com/docs/voice/api/call-resource#create-a-call-resource

        Sends at most one POST, and none from the moment `send_before` of `elapsed` on. TwilioNotSent and TwilioAnswered prove
        that no call was created; TwilioOutcomeUnknown proves nothing.
        """
        gate = SendGate(before=math.inf if send_before is None else send_before)
        return _resource(await self._send("POST", access, _CALLS, form, deadline_s, gate=gate))

    async def check_credential(self, access: Credential, *, deadline_s: float) -> None:
        """Ask for something that changes nothing, to learn whether Twilio accepts the credential."""
        await self._send("GET", access, "Calls.json?PageSize=1", None, deadline_s)

    async def fetch_call(self, access: Credential, sid: str, *, deadline_s: float) -> CallResource:
        """https://www.twilio.com/docs/voice/api/call-resource#fetch-a-call-resource. Eventually consistent."""
        return _resource_of(sid, await self._send("GET", access, f"Calls/{sid}.json", None, deadline_s))

    async def update_call(
        self, access: Credential, sid: str, parameters: Mapping[str, Any], *, deadline_s: float
    ) -> CallResource:
        """https://www.twilio.com/docs/voice/api/call-resource#update-a-call-resource. Sends at most one POST."""
        return _resource_of(sid, await self._send("POST", access, f"Calls/{sid}.json", parameters, deadline_s))

    async def delete_call(self, access: Credential, sid: str, *, deadline_s: float) -> None:
        """https://www.twilio.com/docs/voice/api/call-resource#delete-a-call-resource. May be repeated."""
        await self._send("DELETE", access, f"Calls/{sid}.json", None, deadline_s)

    async def list_calls(
        self,
        access: Credential,
        filters: Mapping[str, str],
        *,
        deadline_s: float,
        keep: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> list[CallResource]:
        """https://www.twilio.com/docs/voice/api/call-resource#read-multiple-call-resources, all pages of it.

        `filters` are Twilio's own (`To`, `Status`, `StartTime>`); `keep` filters here. Eventually consistent.
        """

        async def get(path: str) -> Any:
            return await self._send("GET", access, path, None, deadline_s, PAGE_BYTES_LIMIT)

        return await read_call_list(get, access.account_sid, filters, keep=keep)

    @instrumented
    async def _send(
        self,
        method: str,
        access: Credential,
        path: str,
        parameters: Form | Mapping[str, Any] | None,
        deadline_s: float,
        answer_limit: int = _ANSWER_LIMIT,
        gate: SendGate | None = None,
    ) -> Any:
        url: httpx.URL | str = f"{access.base_url or self._base_url}/2010-04-01/Accounts/{access.account_sid}/{path}"
        form = parameters if isinstance(parameters, Form) else _form(parameters or {})
        content = None if parameters is None else form.content
        headers = {"Authorization": authorization(access)}
        if content is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        with ErrorTranslation(gate):
            async with asyncio.timeout(deadline_s):
                url = _parsed(url) if path == _CALLS else url
                sent_at = time.time()
                response = await self._http.send(method, url, headers=headers, content=content, gate=gate)
                self.clock.observe(access.base_url, response.headers.get("Date"), sent_at=sent_at, received_at=time.time())
                try:
                    body = await _read(response, answer_limit)
                finally:
                    await response.aclose()
        return _classify(response, body, secrets_of(access, form.parameters))


class ErrorTranslation:
    """Foreign exceptions become ours: what was proven not to be sent, by its kind or by the gate, and what may have been."""

    def __init__(self, gate: SendGate | None = None) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, TwilioError) or not isinstance(error, Exception):
            return
        expected = isinstance(error, httpx.RequestError | httpx.StreamError | httpx.InvalidURL | TimeoutError)
        if isinstance(error, _NEVER_SENT) or (self._gate is not None and self._gate.close()):
            if not expected:
                logger.error("request_not_made", exc_info=error)
            raise TwilioNotSent(_reason(error)) from error
        if expected:
            raise TwilioOutcomeUnknown(_reason(error)) from error


def _form(parameters: Mapping[str, Any]) -> Form:
    try:
        return Form.of(parameters)
    except UnicodeEncodeError as error:
        raise TwilioNotSent("not_encodable") from error


def _reason(error: Exception) -> str:
    """`ReadTimeout` → `read_timeout`; a TimeoutError is the deadline of the whole attempt."""
    name = "Deadline" if isinstance(error, TimeoutError) else type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


async def _read(response: httpx.Response, limit: int) -> bytes:
    body = bytearray()
    # What httpx puts around a stream costs more than the reading, even where there is nothing to decode.
    chunks: AsyncIterable[bytes] = response.aiter_bytes()
    if "content-encoding" not in response.headers and isinstance(response.stream, httpx.AsyncByteStream):
        chunks = response.stream
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise TwilioOutcomeUnknown("answer_too_long")
    return bytes(body)


def _classify(response: httpx.Response, body: bytes, secrets: Secrets) -> Any:
    """The JSON of a 2xx, without secrets. Raises what any other answer proves (docs/adr/0003)."""
    status = response.status_code
    document = read_json(body)
    if not 200 <= status < 300:
        raise refusal(read_answer(response, document, secrets))
    if document is None and status != httpx.codes.NO_CONTENT:
        raise TwilioOutcomeUnknown("unreadable_answer", read_answer(response, document, secrets))
    return redact_document(document, secrets) if secrets.may_be_in(body) else document


def _resource(document: Any) -> CallResource:
    resource = CallResource.read(document)
    if resource is None:
        raise TwilioOutcomeUnknown("answer_without_sid")
    return resource


def _resource_of(sid: str, document: Any) -> CallResource:
    resource = _resource(document)
    if resource.sid != sid:
        raise TwilioOutcomeUnknown("answer_of_another_call")
    return resource
