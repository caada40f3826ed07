"""An httpx transport on top of aiohttp.

The source of an error tells whether a request may have been sent. Errors of `_Connector.connect` come before the first byte of
the request, and so does the error in `_RequestBody.reason_not_written`. Any other error may come after it (docs/adr/0011).
"""

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, NoReturn
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import aiohttp
import httpx
import yarl
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from app.security.tls import shared_tls_context
from app.setting_values import is_loopback_host
from app.twilio.send_gate import SendGate, TooLate

# aiohttp writes a body up to this size together with the head and does not wait for it, so it needs no write timeout.
_MAX_BUFFERED_BODY_BYTES = 32 * 1024
_HEADERS_AIOHTTP_ADDS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends each request at most once, whatever its method: no retries, no redirects, no cookies. Streams the answer.

    Uses the timeouts of the request: `pool` for a free connection; `connect` for DNS, TCP, proxy and TLS together; `write` for
    each chunk of the body; `read` for each wait for data.

    Needs a running event loop. Takes proxies and, without `tls`, certificates from the environment, as httpx does. Requests to
    this machine get no proxy.
    """

    def __init__(self, *, max_connections: int, keepalive_s: float, tls: ssl.SSLContext | None = None) -> None:
        tls = tls or shared_tls_context(httpx.create_ssl_context)
        tls.set_alpn_protocols(["http/1.1"])
        self._slots = asyncio.Semaphore(max_connections)
        self._proxies = getproxies()
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, ssl=tls, keepalive_timeout=keepalive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_HEADERS_AIOHTTP_ADDS,
            auto_decompress=False,
            middlewares=(_send_without_retry,),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions.get("timeout", {})
        arguments = self._request_arguments(request, timeout)
        await acquire_connection_slot(self._slots, timeout.get("pool"))
        try:
            response = await self._session.request(**arguments)
        except BaseException:
            self._slots.release()
            raise
        stream: httpx.AsyncByteStream = _ResponseStream(response, self._slots)
        if response.content.is_eof() and response.content.exception() is None:
            body = httpx.ByteStream(response.content.read_nowait())  # it arrived with the head
            await stream.aclose()
            stream = body
        return httpx.Response(response.status, headers=response.raw_headers, stream=stream)

    async def aclose(self) -> None:
        await self._session.close()

    def _request_arguments(self, request: httpx.Request, timeout: Mapping[str, float | None]) -> dict[str, Any]:
        try:
            url = yarl.URL(str(request.url), encoded=True)
            headers = [(name.decode("ascii"), value.decode()) for name, value in request.headers.raw]
        except ValueError as error:
            raise httpx.UnsupportedProtocol("a URL or a header that cannot be sent") from error
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise httpx.UnsupportedProtocol("neither http:// nor https://")
        return {
            "method": request.method,
            "url": url,
            # aiohttp sets the header itself, and raises if the caller does too.
            "headers": [header for header in headers if header[0].lower() != "transfer-encoding"],
            "data": _request_body(request.stream, timeout.get("write"), request.extensions.get("send_gate")),
            "proxy": self._proxy(url) if self._proxies else None,
            "timeout": aiohttp.ClientTimeout(connect=timeout.get("connect"), sock_read=timeout.get("read")),
            "allow_redirects": False,
        }

    def _proxy(self, url: yarl.URL) -> str | None:
        if is_loopback_host(url.raw_host or "") or proxy_bypass(f"{url.raw_host}:{url.port}"):
            return None
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy and not proxy.startswith(("http://", "https://")):
            if "://" in proxy:
                raise httpx.UnsupportedProtocol("a proxy that is neither http:// nor https://")
            return f"http://{proxy}"
        return proxy or None


async def acquire_connection_slot(slots: asyncio.Semaphore, timeout_s: float | None) -> None:
    """Acquires the semaphore that limits the connections. Raises PoolTimeout if this takes longer than `timeout_s`."""
    if not slots.locked():
        await slots.acquire()  # does not wait
        return
    try:
        async with asyncio.timeout(timeout_s):
            await slots.acquire()
    except TimeoutError as error:
        raise httpx.PoolTimeout("no free connection in time") from error


class _Connector(aiohttp.TCPConnector):
    """A connector of aiohttp. Its httpx.ConnectTimeout, ProxyError and ConnectError prove that nothing was sent."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        # aiohttp does not wait for connections that it closed when idle. A loop that ends before they do logs a traceback.
        closing = [closed for protocol in self._used if (closed := protocol.closed) is not None]
        if closing:
            await asyncio.wait(closing, timeout=1)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own signature
    ) -> Connection:
        try:
            return await self._connect(req, traces, timeout)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except aiohttp.ClientHttpProxyError as error:
            raise httpx.ProxyError(str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise httpx.ConnectError(str(error)) from error

    async def _connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        """Returns a connection without unread data, because such data would be taken for the answer to the request."""
        while True:
            connection = await super().connect(req, traces, timeout)
            is_reused = connection.protocol in self._used
            # A new TLS connection may hold unread session tickets, which are not data of the application.
            is_unusable = partial(_is_unusable, connection, ignore_socket=not is_reused and req.is_ssl())
            if not is_unusable():
                if connection.protocol is not None:
                    self._used.add(connection.protocol)
                if isinstance(req.body, _RequestBody):
                    req.body.is_connection_unusable = is_unusable
                return connection
            connection.close()
            if not is_reused:
                raise aiohttp.ClientConnectionError("the server closed a new connection or sent data before the request")


def _is_unusable(connection: Connection, *, ignore_socket: bool) -> bool:
    """Returns whether the server closed the connection or sent data since its last answer.

    If `ignore_socket` is true, ignores unread data in the socket, because it may be TLS session tickets.
    """
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or protocol.should_close:
        return True
    tls, socket = transport.get_extra_info("ssl_object"), transport.get_extra_info("socket")
    if tls is not None and tls.pending():
        return True
    if socket is None or socket.fileno() < 0:
        return True
    readable = select.poll()  # instead of MSG_PEEK, which uvloop's sockets do not support
    readable.register(socket.fileno(), select.POLLIN)
    return not ignore_socket and bool(readable.poll(0))


async def _send_without_retry(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Sends a request. Turns aiohttp's errors into httpx's: after one of its own, aiohttp would repeat a GET, PUT or DELETE."""
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(request.body, _RequestBody) and request.body.reason_not_written:
            raise request.body.reason_not_written from error
        _raise_possibly_sent(error)


def _raise_possibly_sent(error: Exception) -> NoReturn:
    """Raises the httpx error for a failure after the connection was made, when the request may have been sent."""
    match error:
        case aiohttp.SocketTimeoutError():
            raise httpx.ReadTimeout(str(error)) from error
        case TimeoutError():
            raise httpx.WriteTimeout(str(error)) from error
        case aiohttp.ClientConnectionResetError():
            raise httpx.WriteError(str(error)) from error
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            raise httpx.RemoteProtocolError(str(error)) from error
        case ValueError():
            raise httpx.LocalProtocolError(str(error)) from error
        case _:
            raise httpx.ReadError(str(error)) from error


def _request_body(stream: Any, timeout: float | None, gate: SendGate | None) -> "_RequestBody | None":
    content = b"".join(stream) if isinstance(stream, httpx.ByteStream) else None
    if content == b"":
        return None
    body: _RequestBody
    body = (
        _BufferedBody(content)
        if content is not None and len(content) <= _MAX_BUFFERED_BODY_BYTES
        else _StreamedBody(stream, timeout, size=None if content is None else len(content))
    )
    body.gate = gate
    return body


class _RequestBody(aiohttp.Payload):
    """The body of a request. Checks the connection and the deadline directly before the first write, which also sends the head.

    The check is needed because aiohttp runs the event loop between `connect` and the first write.
    """

    is_connection_unusable: Callable[[], bool] | None = None
    gate: SendGate | None = None
    reason_not_written: httpx.TransportError | None = None
    """The error to raise because nothing was written; None if the first write was allowed."""

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if writer.output_size == 0:
            if self.is_connection_unusable is not None and self.is_connection_unusable():
                self.reason_not_written = httpx.ConnectError("the server closed the connection or sent data before the request")
            elif self.gate is not None and not self.gate.try_enter():
                self.reason_not_written = TooLate("the deadline to send the request has passed")
            if self.reason_not_written:
                raise ConnectionAbortedError
        await self.write(writer)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a request body can only be written to a connection")


class _BufferedBody(_RequestBody):
    """A body in memory, written in one piece."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await writer.write(self._value)


class _StreamedBody(_RequestBody):
    """A streamed body, written chunk by chunk with a write timeout, which aiohttp lacks."""

    def __init__(self, stream: Any, timeout: float | None, *, size: int | None) -> None:
        super().__init__(stream)
        self._timeout = timeout
        self._size = size

    async def write(self, writer: AbstractStreamWriter) -> None:
        async for chunk in self._value:
            async with asyncio.timeout(self._timeout):
                await writer.write(chunk)
                await writer.drain()


class _ResponseStream(httpx.AsyncByteStream):
    """The body of a response. Closing it before its end closes the connection too."""

    def __init__(self, response: aiohttp.ClientResponse, slots: asyncio.Semaphore) -> None:
        self._response = response
        self._slots: asyncio.Semaphore | None = slots

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            await self.aclose()
            _raise_possibly_sent(error)

    async def aclose(self) -> None:
        self._response.close()
        if self._slots is not None:
            self._slots.release()
            self._slots = None
