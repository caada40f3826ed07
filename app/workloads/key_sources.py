"""Reads key sets: from a file, from the URL of a key set, or from the URL that an issuer's discovery document names."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from app import __version__
from app.setting_values import is_https_or_loopback_url
from app.settings import Settings
from app.twilio.client import HttpClient
from app.twilio.response_body import BodyTooLong, read_response_body
from app.twilio.transport import AiohttpTransport
from app.workloads.key_set import JwkSetSource, JwkSetUnreadable

OPENID_DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
URL_READ_INTERVAL_S: Final = 300.0
URL_MIN_READ_INTERVAL_S: Final = 5.0
FILE_READ_INTERVAL_S: Final = 5.0
FILE_MIN_READ_INTERVAL_S: Final = 1.0
READ_TIMEOUT_S: Final = 5.0
_MAX_CONTENT_BYTES = 256 * 1024


def jwk_set_source(settings: Settings, *, issuer: str) -> JwkSetSource:
    """Returns the source of the key set that CALLGATE_WORKLOAD_KEYS names. The default is the issuer's discovery document."""
    location = settings.workload_keys or issuer.rstrip("/") + OPENID_DISCOVERY_PATH
    if not location.startswith(("http://", "https://")):
        return JwkSetSource(location, partial(_read_file, Path(location)), FILE_READ_INTERVAL_S, FILE_MIN_READ_INTERVAL_S)
    reader = _HttpReader(settings.workload_keys_ca_file, settings.workload_keys_token_file)
    read: Callable[[], Awaitable[bytes]] = partial(reader.get, location, with_token=True)
    if location.endswith(OPENID_DISCOVERY_PATH):
        read = partial(_read_discovered_key_set, reader, location, issuer)
    return JwkSetSource(location, partial(_read_within_timeout, read), URL_READ_INTERVAL_S, URL_MIN_READ_INTERVAL_S)


async def _read_file(path: Path) -> bytes:
    return await asyncio.to_thread(_read_bytes, path, "file")


def _read_bytes(path: Path, file_kind: str) -> bytes:
    """Returns the content of a file. Raises JwkSetUnreadable if the file is missing, not readable or too long.

    If the file is missing or not readable, the error's reason begins with `file_kind`, which names the kind of file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONTENT_BYTES + 1)
    except FileNotFoundError:
        raise JwkSetUnreadable(f"{file_kind}_missing") from None
    except OSError:
        raise JwkSetUnreadable(f"{file_kind}_not_readable") from None
    if len(content) > _MAX_CONTENT_BYTES:
        raise JwkSetUnreadable("too_long")
    return content


async def _read_within_timeout(read: Callable[[], Awaitable[bytes]]) -> bytes:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            return await read()
    except TimeoutError:
        raise JwkSetUnreadable("timeout") from None


async def _read_discovered_key_set(reader: "_HttpReader", url: str, issuer: str) -> bytes:
    """Reads the issuer's discovery document at `url`, and returns the key set at the address (`jwks_uri`) that it contains.

    Raises JwkSetUnreadable if the document or the key set cannot be read, if the document is of another issuer, or if the
    address is neither HTTPS nor on this machine.
    https://openid.net/specs/openid-connect-discovery-1_0.html
    """
    try:
        document = json.loads(await reader.get(url, with_token=True))
    except (ValueError, RecursionError):
        raise JwkSetUnreadable("discovery_not_json") from None
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise JwkSetUnreadable("discovery_of_another_issuer")
    keys_url = document.get("jwks_uri")
    if not isinstance(keys_url, str) or not is_https_or_loopback_url(keys_url):
        raise JwkSetUnreadable("discovery_without_https_key_set")
    return await reader.get(keys_url, with_token=_origin(keys_url) == _origin(url))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


@dataclass(frozen=True, slots=True)
class _HttpReader:
    """Sends GET requests. Trusts the certificates in `ca_file` or, if it is None, those of the system.

    Reads `ca_file` and `token_file` for each request, because Kubernetes renews them.
    """

    ca_file: Path | None
    token_file: Path | None

    async def get(self, url: str, *, with_token: bool) -> bytes:
        """Returns the body of the response. Raises JwkSetUnreadable unless the status is 200. Does not follow redirects.

        If `with_token` is true, sends the token in `token_file` as a bearer token.
        """
        tls = await asyncio.to_thread(self._tls_context)
        headers = {}
        if with_token and self.token_file:
            token = await asyncio.to_thread(_read_bytes, self.token_file, "token_file")
            headers["Authorization"] = f"Bearer {token.decode('ascii', 'replace').strip()}"
        transport = AiohttpTransport(max_connections=1, keepalive_s=READ_TIMEOUT_S, tls=tls)
        timeout = httpx.Timeout(READ_TIMEOUT_S)
        try:
            async with HttpClient(transport, timeout=timeout, user_agent=f"callgate/{__version__}") as client:
                return await _read_body(await client.send("GET", url, headers=headers, content=None))
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise JwkSetUnreadable(_failure_reason(error)) from None

    def _tls_context(self) -> ssl.SSLContext | None:
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError:  # ssl.SSLError is one
            raise JwkSetUnreadable("ca_file_not_readable") from None


async def _read_body(response: httpx.Response) -> bytes:
    try:
        if response.status_code != httpx.codes.OK:
            raise JwkSetUnreadable(f"status_{response.status_code}")
        return await read_response_body(response, limit=_MAX_CONTENT_BYTES)
    except BodyTooLong:
        raise JwkSetUnreadable("too_long") from None
    finally:
        await response.aclose()


def _failure_reason(error: Exception) -> str:
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "certificate_not_trusted" if isinstance(cause, ssl.SSLCertVerificationError) else "tls"
        cause = cause.__cause__
    return "no_connection" if isinstance(error, httpx.ConnectError | httpx.ProxyError) else "no_answer"
