"""An httpx transport for small requests without a proxy. It passes all other requests on to `AiohttpTransport`.

A general client such as aiohttp takes more CPU time for each request: `python -m bench.transport` measures it (docs/adr/0039).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Final
from urllib.request import getproxies

import aiohappyeyeballs
import httpx

from app.security.tls import shared_tls_context
from app.twilio.connection import HttpConnection
from app.twilio.name_lookup import NameLookup
from app.twilio.transport import AiohttpTransport, acquire_connection_slot

_MAX_BODY_BYTES = 32 * 1024
_NEXT_ADDRESS_DELAY_S = 0.25
"""If an address has not answered after this time, the host's next address is tried as well (RFC 8305)."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_Origin = tuple[str, str, int]


class DirectTransport(httpx.AsyncBaseTransport):
    """A transport that takes less CPU time than `AiohttpTransport`.

    Leaves HEAD requests and large, streamed and proxied requests to that transport. Sends each request at most once, with the
    same timeouts and errors as `AiohttpTransport`.
    """

    def __init__(self, *, max_connections: int, keepalive_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or shared_tls_context(httpx.create_ssl_context)
        self._fallback = AiohttpTransport(max_connections=max_connections, keepalive_s=keepalive_s, tls=self._tls)
        self._has_proxies = not getproxies().keys() <= {"no"}
        self._names = NameLookup()
        self._slots = asyncio.Semaphore(max_connections)
        self._keepalive_s = keepalive_s
        self._idle: dict[_Origin, deque[HttpConnection]] = {}
        self._in_use: set[HttpConnection] = set()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = b"".join(request.stream) if isinstance(request.stream, httpx.ByteStream) else None
        if self._has_proxies or content is None or len(content) > _MAX_BODY_BYTES or request.method == "HEAD":
            return await self._fallback.handle_async_request(request)
        origin, head = _origin(request.url), _request_head(request, len(content))
        timeout = request.extensions.get("timeout", {})
        await acquire_connection_slot(self._slots, timeout.get("pool"))
        connection = None
        try:
            connection = self._take_idle_connection(origin) or await self._connect(origin, timeout.get("connect"))
            self._in_use.add(connection)
            if self._is_closed:
                raise httpx.ConnectError("the transport is closed")
            gate = request.extensions.get("send_gate")
            status = await connection.send(head + content, gate=gate, read_timeout_s=timeout.get("read"))
        except BaseException:
            self._release_connection(origin, connection)
            raise
        stream: httpx.AsyncByteStream
        if connection.is_complete:
            stream = httpx.ByteStream(connection.take_body())
            self._release_connection(origin, connection)
        else:
            stream = _BodyStream(self, origin, connection)
        return httpx.Response(status, headers=connection.headers, stream=stream)

    async def aclose(self) -> None:
        self._is_closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for connection in (*self._in_use, *(each for idle in self._idle.values() for each in idle)):
            connection.transport.abort()
        self._idle.clear()
        await self._fallback.aclose()

    def _take_idle_connection(self, origin: _Origin) -> HttpConnection | None:
        """Returns the usable idle connection to `origin` that was used last; None if there is none.

        Closes the connections that it finds unusable.
        """
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if not connection.is_unusable():
                return connection
            connection.transport.abort()
        return None

    async def _connect(self, origin: _Origin, timeout_s: float | None) -> HttpConnection:
        """Opens a connection. Raises ConnectError or ConnectTimeout for every failure, because nothing was sent."""
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        tls = self._tls if scheme == "https" else None
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._names.look_up_addresses(host, port)
                socket = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_DELAY_S)
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(loop, is_tls=tls is not None),
                    sock=socket,
                    ssl=tls,
                    server_hostname=host.rstrip(".") if tls else None,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        # ssl.SSLError is an OSError, a host that cannot be encoded a ValueError, and a loop that ends raises RuntimeError.
        except (OSError, ValueError, RuntimeError) as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    def _release_connection(self, origin: _Origin, connection: HttpConnection | None) -> None:
        """Ends a request: frees its place among `max_connections`. Keeps the connection if it can be reused, else closes it."""
        self._slots.release()
        if connection is None:
            return
        self._in_use.discard(connection)
        if self._is_closed or not connection.is_reusable:
            connection.transport.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, deque()).append(connection)
        if self._idle_timer is None:
            self._idle_timer = loop.call_later(self._keepalive_s, self._close_idle_connections)

    def _close_idle_connections(self) -> None:
        """Closes the connections that have not been used for `keepalive_s`."""
        loop = asyncio.get_running_loop()
        now, self._idle_timer = loop.time(), None
        for origin, idle in list(self._idle.items()):
            while idle and now - idle[0].idle_since >= self._keepalive_s:
                idle.popleft().transport.abort()  # `close` would wait for the server's close_notify, up to 30 s
            if not idle:
                del self._idle[origin]
        if self._idle:
            first = min(idle[0].idle_since for idle in self._idle.values())
            self._idle_timer = loop.call_later(first + self._keepalive_s - now, self._close_idle_connections)


class _BodyStream(httpx.AsyncByteStream):
    """The body of a response that has not arrived completely. Closing the stream before its end closes the connection."""

    def __init__(self, transport: DirectTransport, origin: _Origin, connection: HttpConnection) -> None:
        self._transport = transport
        self._origin = origin
        self._connection: HttpConnection | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._connection is None:
            return
        try:
            async for chunk in self._connection.stream_body():
                yield chunk
        except httpx.TransportError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport._release_connection(self._origin, connection)


def _origin(url: httpx.URL) -> _Origin:
    if url.scheme not in _DEFAULT_PORTS or not url.raw_host:
        raise httpx.UnsupportedProtocol("neither http:// nor https://")
    port = _DEFAULT_PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port < 2**16:  # the resolver would take port 65616 for port 80
        raise httpx.UnsupportedProtocol("a port that does not exist")
    return url.scheme, url.raw_host.decode("ascii"), port


def _request_head(request: httpx.Request, length: int) -> bytes:
    fields = request.headers.raw
    if (length or request.method == "POST") and "content-length" not in request.headers:
        fields = [*fields, (b"Content-Length", b"%d" % length)]
    head = b"".join([b"%b: %b\r\n" % field for field in fields])
    if head.count(b"\n") != len(fields) or head.count(b"\r") != len(fields):
        raise httpx.UnsupportedProtocol("a header that cannot be sent")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("ascii"), request.url.raw_path, head)
