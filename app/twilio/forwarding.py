"""Forwards requests for subresources of calls and for media of recordings to Twilio (docs/adr/0017).

Unlike app/twilio/client.py, which parses Twilio's answers, this module streams answers to reads, up to a size limit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from app.observability import Metrics
from app.security.redaction import SecretRedactor
from app.twilio.call_uris import account_uri
from app.twilio.client import HttpClient
from app.twilio.error_translation import ErrorTranslation
from app.twilio.errors import ANSWER_TOO_LONG, TwilioOutcomeUnknown
from app.twilio.instrumentation import instrumented
from app.twilio.refusals import error_for_answer, read_error_answer
from app.twilio.response_body import decoded_chunks
from app.twilio.schemas import Credential, OnCredentialUse, parse_storable_json
from app.twilio.secrets import authorization_header, redact_document, secrets_of_fields
from app.twilio.subresources import RECORDINGS, SubresourceOperation

# For JSON that is read as a whole. A page of 1000 recordings takes 1 MB, one of 1000 calls with the longest SIP addresses 7 MB.
MAX_JSON_BYTES = 8 * 1024 * 1024
# For JSON that is streamed. A page has at most 1000 events, each with up to 64 KiB of TwiML, which are longer as JSON.
MAX_STREAMED_JSON_BYTES = 256 * 1024 * 1024
# A recording lasts at most 24 hours: 2.8 GB as a WAV file with two channels.
MAX_MEDIA_BYTES = 4 * 1024 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
# Media players need these to seek, and caches to revalidate.
_MEDIA_HEADERS = ("content-type", "content-length", "content-range", "accept-ranges", "etag", "last-modified")

QueryPairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """Twilio's answer. `chunks` is its body: reading it raises TwilioOutcomeUnknown if the body breaks off or is too long."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class TwilioChangeResponse:
    """Twilio's answer to a change that succeeded. `document` is None if the answer has no JSON, as after a deletion (204)."""

    status: int
    document: dict[str, Any] | None


class RequestForwarder:
    """Forwards requests for lists of calls, subresources of calls and media of recordings to Twilio.

    Methods raise TwilioError for every failure of the network or of Twilio.
    """

    def __init__(self, http: HttpClient, *, base_url: str, metrics: Metrics, on_use: OnCredentialUse | None = None) -> None:
        self._http = http
        self._base_url = base_url
        self._on_use = on_use
        self.metrics = metrics

    @asynccontextmanager
    async def stream_subresource(
        self,
        credential: Credential,
        operation: SubresourceOperation,
        call_sid: str | None,
        sid: str | None,
        query: QueryPairs,
        *,
        deadline_s: float,
        max_bytes: int,
    ) -> AsyncIterator[StreamedResponse]:
        """Yields Twilio's answer for one item of a subresource or, if `sid` is None, for a page of the list of items.

        `call_sid` is None for a recording whose call is not known. The head of the answer must arrive within `deadline_s`
        seconds. Reading the body raises TwilioOutcomeUnknown if the body has more than `max_bytes`.
        """
        path = _subresource_path(operation, call_sid, sid)
        url = f"{path}?{urlencode(query)}" if query else path
        async with self._stream_json(credential, url, query, deadline_s, max_bytes=max_bytes) as response:
            yield response

    @asynccontextmanager
    async def list_calls(
        self, credential: Credential, query: QueryPairs, *, deadline_s: float
    ) -> AsyncIterator[StreamedResponse]:
        """Yields Twilio's answer: a page of the account's calls. The answer's head must arrive within `deadline_s` seconds."""
        url = f"Calls.json?{urlencode(query)}"
        async with self._stream_json(credential, url, query, deadline_s, max_bytes=MAX_JSON_BYTES) as response:
            yield response

    async def change_subresource(
        self,
        credential: Credential,
        operation: SubresourceOperation,
        call_sid: str,
        sid: str | None,
        form: QueryPairs,
        *,
        deadline_s: float,
    ) -> TwilioChangeResponse:
        """Creates, updates or deletes an item of a subresource with at most one request.

        TwilioNotSent and TwilioNotProcessed prove that nothing was changed.
        """
        path = _subresource_path(operation, call_sid, sid)
        content = urlencode(form).encode() if operation.method == "POST" else None
        secrets = secrets_of_fields(credential, form)

        async def read(response: httpx.Response) -> TwilioChangeResponse:
            body = await _read_all(response, MAX_JSON_BYTES, deadline_s)
            document = parse_storable_json(body) if body else None
            if operation.action != "delete" and not isinstance(document, dict):
                raise TwilioOutcomeUnknown("unreadable_answer", read_error_answer(response, None, secrets))
            return TwilioChangeResponse(response.status_code, redact_document(document, secrets))

        answer: TwilioChangeResponse = await self._send(
            operation.method, credential, path, deadline_s, secrets, content, {}, read
        )
        return answer

    @asynccontextmanager
    async def stream_recording_media(
        self,
        credential: Credential,
        recording_sid: str,
        suffix: str,
        query: QueryPairs,
        request_headers: Mapping[str, str],
        *,
        deadline_s: float,
    ) -> AsyncIterator[StreamedResponse]:
        """Yields Twilio's answer with the audio of a recording. `suffix` is `.mp3` or `.wav`.

        https://www.twilio.com/docs/voice/api/recording#fetch-a-recording-media-file
        """
        path = f"{RECORDINGS.segment}/{quote(recording_sid, safe='')}{suffix}"
        url, secrets = f"{path}?{urlencode(query)}" if query else path, secrets_of_fields(credential, query)
        async with self._open_response(
            credential, url, deadline_s, secrets, headers={"Accept": "*/*", **request_headers}
        ) as response:
            headers = {name: response.headers[name] for name in _MEDIA_HEADERS if name in response.headers}
            if "content-encoding" in response.headers:
                headers.pop("content-length", None)
            if int(headers.get("content-length", 0)) > MAX_MEDIA_BYTES:  # llhttp guarantees a number
                raise TwilioOutcomeUnknown(ANSWER_TOO_LONG)
            yield StreamedResponse(response.status_code, headers, _limited_body_chunks(response, MAX_MEDIA_BYTES))

    @asynccontextmanager
    async def _stream_json(
        self, credential: Credential, path: str, query: QueryPairs, deadline_s: float, *, max_bytes: int
    ) -> AsyncIterator[StreamedResponse]:
        """Yields Twilio's answer to a GET. The body is JSON, and secrets are removed from it while it is read."""
        secrets = secrets_of_fields(credential, query)
        async with self._open_response(credential, path, deadline_s, secrets) as response:
            chunks = secrets.redact_stream(_limited_body_chunks(response, max_bytes))
            yield StreamedResponse(response.status_code, {"content-type": "application/json"}, chunks)

    @asynccontextmanager
    async def _open_response(
        self,
        credential: Credential,
        path: str,
        deadline_s: float,
        secrets: SecretRedactor,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        response: httpx.Response = await self._send("GET", credential, path, deadline_s, secrets, None, headers or {})
        try:
            yield response
        finally:
            await response.aclose()

    @instrumented
    async def _send(
        self,
        method: str,
        credential: Credential,
        path: str,
        deadline_s: float,
        secrets: SecretRedactor,
        content: bytes | None,
        headers: Mapping[str, str],
        read: Callable[[httpx.Response], Awaitable[Any]] | None = None,
    ) -> Any:
        """Sends one request. Returns `await read(response)` for a 2xx response or, without `read`, the unread response.

        Raises TwilioError for an answer with any other status.
        """
        url = f"{credential.base_url or self._base_url}{account_uri(credential.account_sid)}/{path}"
        if self._on_use:
            self._on_use(credential)
        form = {"Content-Type": "application/x-www-form-urlencoded"} if content is not None else {}
        with ErrorTranslation():
            async with asyncio.timeout(deadline_s):
                response = await self._http.send(
                    method, url, headers={"Authorization": authorization_header(credential), **form, **headers}, content=content
                )
        if response.is_success and read is None:
            return response
        try:
            if response.is_success and read is not None:
                return await read(response)
            body = await _read_all(response, _MAX_ERROR_BYTES, deadline_s)
        finally:
            await response.aclose()
        raise error_for_answer(read_error_answer(response, parse_storable_json(body), secrets))


def _subresource_path(operation: SubresourceOperation, call_sid: str | None, sid: str | None) -> str:
    below = "" if call_sid is None else f"Calls/{call_sid}/"
    one = "" if sid is None else f"/{quote(sid, safe='')}"
    return f"{below}{operation.subresource.segment}{one}.json"


async def _read_all(response: httpx.Response, limit: int, deadline_s: float) -> bytes:
    with ErrorTranslation():
        async with asyncio.timeout(deadline_s):
            return b"".join([chunk async for chunk in _limited_body_chunks(response, limit)])


async def _limited_body_chunks(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    length = 0
    with ErrorTranslation():
        async for chunk in decoded_chunks(response):
            length += len(chunk)
            if length > limit:
                raise TwilioOutcomeUnknown(ANSWER_TOO_LONG)
            yield chunk
