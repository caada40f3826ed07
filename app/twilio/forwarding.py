"""Forward a request about a call's subresource, or for a recording's media, as docs/adr/0017 has it.

Unlike `client`, which reads what it needs, this passes Twilio's answers on: each piece as it arrives, up to a limit.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from app.observability import Metrics
from app.security.redaction import Secrets
from app.twilio.client import ErrorTranslation, HttpClient
from app.twilio.errors import TwilioOutcomeUnknown
from app.twilio.instrumentation import instrumented
from app.twilio.refusals import read_answer, refusal
from app.twilio.schemas import Credential, read_json
from app.twilio.secrets import authorization, redact_document, secrets_of_fields
from app.twilio.subresources import RECORDINGS, Operation

# A page of 1000 recordings has about 1 MB, one of 1000 events can have more.
JSON_LIMIT = 4 * 1024 * 1024
# A recording ends after 24 hours: 2.8 GB as WAV of two channels.
MEDIA_LIMIT = 4 * 1024 * 1024 * 1024
_REFUSAL_LIMIT = 64 * 1024
# What a player needs to seek and a cache to ask again.
_MEDIA_HEADERS = ("content-type", "content-length", "content-range", "accept-ranges", "etag", "last-modified")

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer whose body is still to come. Iterating raises TwilioOutcomeUnknown when it breaks off or is too long."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Done:
    """What Twilio answered to a change that it made; no document for a 204."""

    status: int
    document: dict[str, Any] | None


class Forwarding:
    """Every method raises TwilioError and nothing else of the outside world."""

    def __init__(self, http: HttpClient, *, base_url: str, metrics: Metrics) -> None:
        self._http = http
        self._base_url = base_url
        self.metrics = metrics

    @asynccontextmanager
    async def read(
        self,
        access: Credential,
        operation: Operation,
        call_sid: str | None,
        sid: str | None,
        query: Fields,
        *,
        deadline_s: float,
    ) -> AsyncIterator[Opened]:
        """A list, or one; a recording also without its call. The deadline is that of the answer's beginning."""
        path = _path(operation, call_sid, sid)
        async with self._json(access, f"{path}?{urlencode(query)}" if query else path, query, deadline_s) as opened:
            yield opened

    @asynccontextmanager
    async def calls(self, access: Credential, query: Fields, *, deadline_s: float) -> AsyncIterator[Opened]:
        """One page of the account's calls. The deadline is that of the answer's beginning."""
        async with self._json(access, f"Calls.json?{urlencode(query)}", query, deadline_s) as opened:
            yield opened

    async def change(
        self, access: Credential, operation: Operation, call_sid: str, sid: str | None, form: Fields, *, deadline_s: float
    ) -> Done:
        """Sends at most one request. TwilioNotSent and TwilioAnswered prove that nothing was changed."""
        path = _path(operation, call_sid, sid)
        content = urlencode(form).encode() if operation.method == "POST" else None
        secrets = secrets_of_fields(access, form)
        async with self._opened(access, operation.method, path, deadline_s, secrets, content=content) as response:
            body = await _whole(response, JSON_LIMIT, deadline_s)
        document = read_json(body) if body else None
        if operation.action != "delete" and not isinstance(document, dict):
            raise TwilioOutcomeUnknown("unreadable_answer", read_answer(response, None, secrets))
        return Done(response.status_code, redact_document(document, secrets))

    @asynccontextmanager
    async def media(
        self,
        access: Credential,
        recording_sid: str,
        suffix: str,
        query: Fields,
        wanted: Mapping[str, str],
        *,
        deadline_s: float,
    ) -> AsyncIterator[Opened]:
        """https://www.twilio.com/docs/voice/api/recording#fetch-a-recording-media-file; `wanted` are headers (`Range`)."""
        path = f"{RECORDINGS.segment}/{quote(recording_sid, safe='')}{suffix}"
        url, secrets = f"{path}?{urlencode(query)}" if query else path, secrets_of_fields(access, query)
        async with self._opened(access, "GET", url, deadline_s, secrets, headers={"Accept": "*/*", **wanted}) as response:
            headers = {name: response.headers[name] for name in _MEDIA_HEADERS if name in response.headers}
            if "content-encoding" in response.headers:
                headers.pop("content-length", None)
            if int(headers.get("content-length", 0)) > MEDIA_LIMIT:  # h11 has seen to it that it is a number
                raise TwilioOutcomeUnknown("answer_too_long")
            yield Opened(response.status_code, headers, _chunks(response, MEDIA_LIMIT))

    @asynccontextmanager
    async def _json(self, access: Credential, path: str, query: Fields, deadline_s: float) -> AsyncIterator[Opened]:
        secrets = secrets_of_fields(access, query)
        async with self._opened(access, "GET", path, deadline_s, secrets) as response:
            chunks = secrets.out_of_stream(_chunks(response, JSON_LIMIT))
            yield Opened(response.status_code, {"content-type": "application/json"}, chunks)

    @asynccontextmanager
    async def _opened(
        self,
        access: Credential,
        method: str,
        path: str,
        deadline_s: float,
        secrets: Secrets,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        response: httpx.Response = await self._send(method, access, path, deadline_s, secrets, content, headers or {})
        try:
            yield response
        finally:
            await response.aclose()

    @instrumented
    async def _send(
        self,
        method: str,
        access: Credential,
        path: str,
        deadline_s: float,
        secrets: Secrets,
        content: bytes | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        """A 2xx whose body was not read yet."""
        url = f"{access.base_url or self._base_url}/2010-04-01/Accounts/{access.account_sid}/{path}"
        form = {"Content-Type": "application/x-www-form-urlencoded"} if content is not None else {}
        with ErrorTranslation():
            async with asyncio.timeout(deadline_s):
                response = await self._http.send(
                    method, url, headers={"Authorization": authorization(access), **form, **headers}, content=content
                )
        if response.is_success:
            return response
        try:
            body = await _whole(response, _REFUSAL_LIMIT, deadline_s)
        finally:
            await response.aclose()
        raise refusal(read_answer(response, read_json(body), secrets))


def _path(operation: Operation, call_sid: str | None, sid: str | None) -> str:
    below = "" if call_sid is None else f"Calls/{call_sid}/"
    one = "" if sid is None else f"/{quote(sid, safe='')}"
    return f"{below}{operation.subresource.segment}{one}.json"


async def _whole(response: httpx.Response, limit: int, deadline_s: float) -> bytes:
    with ErrorTranslation():
        async with asyncio.timeout(deadline_s):
            return b"".join([chunk async for chunk in _chunks(response, limit)])


async def _chunks(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    length = 0
    with ErrorTranslation():
        async for chunk in response.aiter_bytes():
            length += len(chunk)
            if length > limit:
                raise TwilioOutcomeUnknown("answer_too_long")
            yield chunk
