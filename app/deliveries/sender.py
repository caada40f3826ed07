"""Sends deliveries to URLs that tenants chose. Neither the URL nor the answer is trusted.

This module resolves the host name once, checks each address, and connects only to checked addresses. A name that resolves
differently the next time (DNS rebinding) does not get around the check.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from app import __version__
from app.deliveries.addresses import AllowList, UrlError, is_address_allowed, parse_delivery_url
from app.deliveries.lookups import HostResolver, ResolveHost, resolve_by_system
from app.security.tls import shared_tls_context

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
TOTAL_TIMEOUT_S: Final = 20.0
"""The time limit of one attempt. It includes the wait for a free connection, and requests that are sent again."""
MAX_BODY_READ_BYTES: Final = 4096
"""The part of an answer's body that is read. A longer body is cut off."""
MAX_ANSWER_BYTES: Final = 32 * 1024
"""A connection is closed if more than this is received for one request: interim answers, head, body, and what follows."""
KEEPALIVE_S: Final = 1.0
"""The time for which an idle connection is kept. It is shorter than the idle timeout of common servers.

For example, the idle timeout of gunicorn is 2 s, and that of uvicorn and Node.js is 5 s.
"""
MAX_CONNECTIONS: Final = 100
MAX_CONNECTIONS_PER_HOST: Final = 32

SendError = Literal["invalid_url", "refused_address", "resolve", "connect", "tls", "timeout", "lost"]
# The tenant of the request that is being sent. aiohttp passes nothing but the host to its resolver.
_tenant_id: ContextVar[str] = ContextVar("tenant_id")


class SendResult(NamedTuple):
    """The result of one attempt: the `status` of the receiver's answer, or an `error` if there was no answer.

    If the error is `timeout` or `lost`, the receiver may have got the request. After every other error, the receiver has not
    got the request.
    """

    status: int | None
    error: SendError | None


class DeliveryHttpClient:
    """HTTP client for deliveries. Follows no redirects, and uses neither cookies nor proxies. The caller must close it.

    An idle connection is kept for KEEPALIVE_S. If the receiver closes it while the next request is sent, that request is sent
    again on another connection, within the time limit of the attempt. The receiver may then get the request twice, as after any
    attempt whose answer is lost.
    """

    def __init__(
        self,
        allowed: AllowList,
        *,
        resolve: ResolveHost = resolve_by_system,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
    ) -> None:
        self._allowed = allowed
        self._lookups = HostResolver(resolve)
        connector = _SizeLimitedConnector(
            resolver=_AllowedAddressResolver(self._lookups, allowed, connect_timeout_s),
            ssl=tls or shared_tls_context(ssl.create_default_context),
            limit=MAX_CONNECTIONS,
            limit_per_host=MAX_CONNECTIONS_PER_HOST,
            keepalive_timeout=KEEPALIVE_S,
            use_dns_cache=False,  # with it, a tenant would also wait for the lookups of other tenants for the same name
        )
        self._timeouts = partial(aiohttp.ClientTimeout, sock_connect=connect_timeout_s, sock_read=read_timeout_s)
        self._total_timeout_s = total_timeout_s
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            trace_configs=[_reuse_tracer()],
            headers={"User-Agent": f"Callgate/{__version__}", "Accept": "*/*"},
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Aborts requests in flight. Does not wait for pending DNS lookups."""
        await self._http.close()
        self._lookups.close()

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, tenant_id: str) -> SendResult:
        """Makes one attempt to send the request.

        If the network or the receiver fails, returns a result with an `error`, and does not raise. `tenant_id` is needed
        because each tenant may have only a limited number of DNS lookups at a time.
        """
        _tenant_id.set(tenant_id)
        target = parse_delivery_url(url, self._allowed, max_length=None)
        if isinstance(target, UrlError):
            is_address = target.code in ("url_address_refused", "url_address_private")
            return SendResult(None, "refused_address" if is_address else "invalid_url")
        is_repeated, ends_at = False, asyncio.get_running_loop().time() + self._total_timeout_s
        try:
            while True:
                connection = _ConnectionReuse()
                try:
                    return await self._send_once(method, url, headers, body, connection, self._timeouts_until(ends_at))
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    # The loop ends: a failed connection is not kept, and a request on a new connection is not repeated.
                    if not connection.is_reused or isinstance(error, aiohttp.ClientConnectorError):
                        if is_repeated:
                            return SendResult(None, "lost")  # whatever the last error is, an earlier request may have arrived
                        raise
                    is_repeated = True
        except _AddressRefused:
            return SendResult(None, "lost" if is_repeated else "refused_address")
        except aiohttp.InvalidURL:
            return SendResult(None, "invalid_url")
        except aiohttp.ClientConnectorDNSError:
            return SendResult(None, "resolve")
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return SendResult(None, "tls")
        except TimeoutError:
            return SendResult(None, "timeout")
        except aiohttp.ClientConnectorError:
            return SendResult(None, "connect")
        except (aiohttp.ClientError, OSError):
            return SendResult(None, "lost")

    def _timeouts_until(self, ends_at: float) -> aiohttp.ClientTimeout:
        """Returns the timeouts of a request that must end at `ends_at`, by the event loop's clock.

        Raises TimeoutError if that time has passed.
        """
        left_s = ends_at - asyncio.get_running_loop().time()
        if left_s <= 0:  # for aiohttp, 0 means no limit
            raise TimeoutError
        return self._timeouts(total=left_s)

    async def _send_once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        connection: "_ConnectionReuse",
        timeouts: aiohttp.ClientTimeout,
    ) -> SendResult:
        """Sends the request once and returns the status of the answer. Raises the errors of aiohttp."""
        # Keep the URL as it was signed: yarl would normalize parts of it.
        async with self._http.request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=body or None,
            allow_redirects=False,
            timeout=timeouts,
            trace_request_ctx=connection,
        ) as response:
            with suppress(aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
                # Read a short answer to its end, so that the receiver can finish. Only the status counts.
                await response.content.readexactly(MAX_BODY_READ_BYTES)
            return SendResult(response.status, None)


@dataclass(slots=True)
class _ConnectionReuse:
    """Says whether a request used a connection that was kept from an earlier request."""

    is_reused: bool = False


def _reuse_tracer() -> aiohttp.TraceConfig:
    """Returns an aiohttp trace configuration that sets `_ConnectionReuse.is_reused` if a request uses a kept connection."""

    async def mark(_: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.is_reused = True

    tracer = aiohttp.TraceConfig()
    tracer.on_connection_reuseconn.append(mark)
    return tracer


class _SizeLimitedConnector(aiohttp.TCPConnector):
    """A connector of aiohttp whose connections are closed if they receive more than MAX_ANSWER_BYTES for a request."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        connection: type[ResponseHandler] = _SizeLimitedConnection
        # aiohttp has no public option for the class of its connections.
        self._factory = partial(connection, loop=self._loop)


class _SizeLimitedConnection(ResponseHandler):
    """A connection of aiohttp that is closed if it receives more than MAX_ANSWER_BYTES for one request.

    aiohttp limits the head of an answer and pauses a long body. It does not limit the number of interim answers (1xx), nor of
    further answers after the requested one, and parses all of them as they arrive. A server that sends such answers without end
    would keep the event loop busy until the request times out.
    """

    _bytes_left = MAX_ANSWER_BYTES

    def set_response_params(self, **params: Any) -> None:
        """Resets the limit of bytes. aiohttp calls this method before each request on the connection."""
        self._bytes_left = MAX_ANSWER_BYTES
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        parsed = data[: self._bytes_left]
        self._bytes_left -= len(parsed)
        super().data_received(parsed)
        if len(parsed) < len(data) and self.transport is not None:
            self.transport.abort()
            self.set_exception(aiohttp.ClientPayloadError("the answer is too long"))


class _AddressRefused(Exception):
    """Raised if the host has addresses, but none of them is allowed."""


class _AllowedAddressResolver(AbstractResolver):
    """A DNS resolver for aiohttp that returns only allowed addresses. aiohttp connects to them without another lookup."""

    def __init__(self, lookups: HostResolver, allowed: AllowList, timeout_s: float) -> None:
        self._lookups = lookups
        self._allowed = allowed
        self._timeout_s = timeout_s

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._lookups.resolve_host(_tenant_id.get(), host)
        except TimeoutError:
            raise OSError("no answer in time") from None
        except UnicodeError:
            raise OSError("the name cannot be encoded for DNS") from None
        if not addresses:
            raise OSError("no address")
        allowed = [address for address in addresses if is_address_allowed(address, host, self._allowed)]
        if not allowed:
            raise _AddressRefused
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        pass
