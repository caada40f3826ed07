"""Tests the transport for small requests: it never takes a truncated response for a whole one, or other data for a response."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from app.twilio.direct_transport import DirectTransport

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
LOST = (httpx.ReadError, httpx.RemoteProtocolError)
TIMEOUT = {"connect": 60, "read": 60, "write": 60, "pool": 60}
RESPONSES = {
    "with its length": b"HTTP/1.1 201 Created\r\nContent-Length: 7\r\nX-A: 1\r\n\r\n" + b'{"a":1}',
    "in chunks": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n3\r\n"
    + b'{"a\r\n4\r\n":1}\r\n0\r\n\r\n',
    "in chunks, with a trailer": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n"
    b'7\r\n{"a":1}\r\n0\r\nX-A: 2\r\nX-B: 3\r\n\r\n',
    "after interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-A: 0\r\nLink: </>\r\n\r\n"
    b'HTTP/1.1 201 Created\r\nContent-Length: 7\r\nX-A: 1\r\n\r\n{"a":1}',
    "after an impossible status with a body": b"HTTP/1.1 099 No\r\nContent-Length: 3\r\n\r\nabc"
    b'HTTP/1.1 201 Created\r\nContent-Length: 7\r\nX-A: 1\r\n\r\n{"a":1}',
}
UNREADABLE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a change of the protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n{}",
    "a length and chunks": b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    "a length that is no number": b"HTTP/1.1 201 Created\r\nContent-Length: two\r\n\r\n{}",
    "a chunk without a size": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n{}",
    "an endless head": b"HTTP/1.1 201 Created\r\n" + b"X-A: 1\r\n" * 10_000,
    "interim responses without an end": b"HTTP/1.1 102 Processing\r\n\r\n" * 3_000,
    "an endless trailer": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-A: " + b"x" * 1_000_000,
}

Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server that answers each request with `respond`, and then closes the connection unless `keeps` is true."""

    def __init__(self, respond: Respond, *, keeps: bool) -> None:
        self.respond = respond
        self.keeps = keeps
        self.url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await self.respond(reader, writer)
                if not self.keeps:
                    writer.close()
                    return


@asynccontextmanager
async def serving(respond: Respond, *, keeps: bool = True) -> AsyncIterator[tuple[Server, DirectTransport]]:
    server = Server(respond, keeps=keeps)
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        transport = DirectTransport(max_connections=2, keepalive_s=60)
        try:
            yield server, transport
        finally:
            await transport.aclose()
            for writer in server.writers:
                writer.transport.abort()
            await asyncio.sleep(0)


async def ask(transport: DirectTransport, url: str, method: str = "GET") -> httpx.Response:
    request = httpx.Request(method, url, extensions={"timeout": TIMEOUT})
    response = await transport.handle_async_request(request)
    try:
        await response.aread()
    finally:
        await response.aclose()
    return response


def sends(data: bytes) -> Respond:
    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return respond


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
async def test_a_response_is_the_same_however_its_bytes_arrive(response: bytes) -> None:
    async def byte_by_byte(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(len(response)):
            writer.write(response[number : number + 1])
            await writer.drain()
            await asyncio.sleep(0)

    for respond in (sends(response), byte_by_byte):
        async with serving(respond) as (server, transport):
            for _ in range(3):
                answered = await ask(transport, server.url)
                assert (answered.status_code, answered.content, answered.headers["X-A"]) == (201, b'{"a":1}', "1")
                assert "X-B" not in answered.headers
                assert "Link" not in answered.headers
            assert server.connections == 1


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
async def test_a_response_that_is_cut_anywhere_is_lost_and_never_counts_as_not_sent(response: bytes) -> None:
    for end in range(len(response)):
        async with serving(sends(response[:end]), keeps=False) as (server, transport):
            with pytest.raises(LOST):
                await ask(transport, server.url)
            assert len(server.requests) == 1


@pytest.mark.parametrize("response", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_response_that_is_not_http_is_lost(response: bytes) -> None:
    async with serving(sends(response)) as (server, transport):
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(transport, server.url)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 201 Created\r\n\r\n{}",
        b"HTTP/1.0 201 Created\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ],
    ids=["ended by the connection", "HTTP/1.0", "Connection: close"],
)
async def test_a_connection_that_ends_with_its_response_is_not_used_again(response: bytes) -> None:
    async with serving(sends(response), keeps=False) as (server, transport):
        for number in (1, 2):
            assert (await ask(transport, server.url)).content == b"{}"
            assert server.connections == number


@pytest.mark.parametrize("more", [RESPONSES["with its length"], b"\r\n", b"x", b"\x00"])
async def test_data_after_a_response_are_never_taken_for_the_next_one(more: bytes) -> None:
    async with serving(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + more)) as (server, transport):
        for number in (1, 2):
            assert (await ask(transport, server.url)).status_code == 200
            # An empty line says nothing, and llhttp skips it.
            assert server.connections == (1 if more == b"\r\n" else number)


async def test_a_response_without_a_body_ends_with_its_head() -> None:
    async with serving(sends(b"HTTP/1.1 204 No Content\r\n\r\n")) as (server, transport):
        for _ in range(2):
            assert (await ask(transport, server.url, "DELETE")).content == b""
        assert server.connections == 1


async def test_a_body_that_nobody_reads_is_not_fetched() -> None:
    total, piece = 64 * 1024 * 1024, b"x" * 65536
    sent = 0

    async def send_much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with serving(send_much) as (server, transport):
        request = httpx.Request("GET", server.url, extensions={"timeout": TIMEOUT})
        response = await transport.handle_async_request(request)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < total
        assert len(await response.aread()) == total
        await response.aclose()


@pytest.mark.parametrize("value", ["a\r\nX-B: 2", "a\nb", "a\rb"])
async def test_a_header_that_could_begin_another_line_is_not_sent(value: str) -> None:
    async with serving(sends(RESPONSES["with its length"])) as (server, transport):
        request = httpx.Request("GET", server.url, headers={"X-A": value}, extensions={"timeout": TIMEOUT})
        with pytest.raises(NOT_SENT):
            await transport.handle_async_request(request)
        assert server.requests == []


@pytest.mark.parametrize("port", [0, 65_536, 1_000_000])
async def test_a_port_that_does_not_exist_is_not_taken_for_another(port: int) -> None:
    """The resolver would use only the last 16 bits of such a port, and 0 would mean the default port of the scheme."""
    async with serving(sends(RESPONSES["with its length"])) as (server, transport):
        listening = httpx.URL(server.url).port
        assert listening
        with pytest.raises(httpx.UnsupportedProtocol):
            await ask(transport, f"http://127.0.0.1:{listening + port if port == 65_536 else port}")
        assert server.connections == 0
