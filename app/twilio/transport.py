"""The wire below httpx: a transport on aiohttp, and httpx's own pool as the way back.

"Never sent" and "sent, then lost" are told apart by where an error comes from, not by its name: what `_Connector.connect`
raises came before the first byte of the request, everything else may have come after it (docs/adr/0011).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, NoReturn
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import yarl
from aiohttp.abc import AbstractStreamWriter
from aiohttp.tracing import Trace

TransportName = Literal["aiohttp", "httpx"]

# Shorter than any server's: a connection that the server is closing at this moment takes the request with it.
_KEEPALIVE_S = 5.0
# Goes out with the head, in one piece which aiohttp does not wait for: there is nothing to time.
_WRITTEN_AT_ONCE = 32 * 1024
_AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def make_transport(name: TransportName, *, max_connections: int) -> httpx.AsyncBaseTransport:
    """Called in a running event loop. Proxies and certificates are taken from the environment, as httpx does."""
    if name == "httpx":
        return HttpxTransport(max_connections=max_connections)
    return AiohttpTransport(max_connections=max_connections)


class HttpxTransport(httpx.AsyncBaseTransport):
    """httpx's pool, behind a whole client: of the two it is the client that knows of proxies."""

    def __init__(self, *, max_connections: int) -> None:
        limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=_KEEPALIVE_S
        )
        self._client = httpx.AsyncClient(limits=limits, follow_redirects=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._client.send(request, stream=True)

    async def aclose(self) -> None:
        await self._client.aclose()


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends a request at most once, whatever its method: no second try, no redirects, no cookies; answers as they come.

    The timeouts are the request's own, as httpx has them: `pool` for a free connection; `connect` for name, TCP, proxy and TLS
    together; `write` for each piece of the body; `read` for each silence of the server.
    """

    def __init__(self, *, max_connections: int) -> None:
        tls = httpx.create_ssl_context()
        tls.set_alpn_protocols(["http/1.1"])
        self._room = asyncio.Semaphore(max_connections)
        self._proxies = getproxies()
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, ssl=tls, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTOMATIC_HEADERS,
            auto_decompress=False,
            middlewares=(_once,),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions.get("timeout", {})
        arguments = self._arguments(request, timeout)
        await self._enter(timeout.get("pool"))
        try:
            response = await self._session.request(**arguments)
        except BaseException:
            self._room.release()
            raise
        stream: httpx.AsyncByteStream = _Answer(response, self._room)
        if response.content.is_eof() and response.content.exception() is None:
            whole = httpx.ByteStream(response.content.read_nowait())  # it came with the head
            await stream.aclose()
            stream = whole
        return httpx.Response(response.status, headers=response.raw_headers, stream=stream)

    async def aclose(self) -> None:
        await self._session.close()

    async def _enter(self, seconds: float | None) -> None:
        if not self._room.locked():
            await self._room.acquire()  # at once
            return
        try:
            async with asyncio.timeout(seconds):
                await self._room.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("no free connection in time") from error

    def _arguments(self, request: httpx.Request, timeout: Mapping[str, float | None]) -> dict[str, Any]:
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
            # aiohttp says "chunked" by itself, and takes it ill when it is told.
            "headers": [header for header in headers if header[0].lower() != "transfer-encoding"],
            "data": _body(request.stream, timeout.get("write")),
            "proxy": self._proxy(url) if self._proxies else None,
            "timeout": aiohttp.ClientTimeout(connect=timeout.get("connect"), sock_read=timeout.get("read")),
            "allow_redirects": False,
        }

    def _proxy(self, url: yarl.URL) -> str | None:
        if proxy_bypass(f"{url.raw_host}:{url.port}"):
            return None
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy and not proxy.startswith(("http://", "https://")):
            if "://" in proxy:
                raise httpx.UnsupportedProtocol("a proxy that is neither http:// nor https://")
            return f"http://{proxy}"
        return proxy or None


class _Connector(aiohttp.TCPConnector):
    """Where "never sent" ends: all that goes wrong in here is said in httpx's words for it."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own signature
    ) -> aiohttp.connector.Connection:
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                protocol = connection.protocol
                # What came while nobody had asked is nobody's answer, least of all the next request's.
                if protocol is not None and not protocol.should_close:
                    return connection
                connection.close()
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except aiohttp.ClientHttpProxyError as error:
            raise httpx.ProxyError(str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise httpx.ConnectError(str(error)) from error


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Translates before aiohttp's session looks: it repeats GET, PUT and DELETE by itself when a kept connection is lost."""
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        _raise_sent(error)


def _raise_sent(error: Exception) -> NoReturn:
    """The connection was made, so the request may have gone out."""
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


def _body(stream: Any, timeout: float | None) -> "bytes | _Content | None":
    if isinstance(stream, httpx.ByteStream):
        content = b"".join(stream)
        if len(content) <= _WRITTEN_AT_ONCE:
            return content or None
    return _Content(stream, timeout)


class _Content(aiohttp.Payload):
    """The request's body, piece by piece, each with the write timeout that aiohttp does not have."""

    def __init__(self, stream: Any, timeout: float | None) -> None:
        super().__init__(stream)
        self._timeout = timeout

    async def write(self, writer: AbstractStreamWriter) -> None:
        async for piece in self._value:
            async with asyncio.timeout(self._timeout):
                await writer.write(piece)
                await writer.drain()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a body is read once, by the connection")


class _Answer(httpx.AsyncByteStream):
    """The response's body. Closed before its end, it takes its connection with it."""

    def __init__(self, response: aiohttp.ClientResponse, room: asyncio.Semaphore) -> None:
        self._response = response
        self._room: asyncio.Semaphore | None = room

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            await self.aclose()
            _raise_sent(error)

    async def aclose(self) -> None:
        self._response.close()
        if self._room is not None:
            self._room.release()
            self._room = None
