"""Tests how connections of the transport for small requests begin and end. A truncated body is never taken for a whole one."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from app.twilio.direct_transport import DirectTransport
from tests.support.certificates import write_self_signed_certificate

GUARD_S = 60
TIMEOUT = {"connect": GUARD_S, "read": GUARD_S, "write": GUARD_S, "pool": GUARD_S}
WITHOUT_LENGTH = b"HTTP/1.1 200 OK\r\n\r\n{}"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]
Scenario = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Scenario], None]


class ResolvesFinalDots(asyncio.SelectorEventLoop):
    """An event loop that resolves `127.0.0.1.` (with a final dot), as name servers resolve names with a final dot."""

    async def getaddrinfo(self, host: Any, port: Any, **arguments: Any) -> Any:
        return await super().getaddrinfo(host.rstrip("."), port, **arguments)


class Server:
    """A server that answers with `respond` and counts its open connections."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.url = ""
        self.open = 0
        self.asked = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await self.respond(writer)
                self.asked.set()
        self.open -= 1
        writer.transport.abort()


@asynccontextmanager
async def serving(respond: Respond, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(respond)
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls) as listening:
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        async with asyncio.timeout(GUARD_S):
            while server.open:
                await asyncio.sleep(0.01)


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    certificate = write_self_signed_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_scenario(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(scenario())

    return run_scenario


def new_transport(keepalive_s: float = GUARD_S) -> DirectTransport:
    return DirectTransport(max_connections=1, keepalive_s=keepalive_s)


async def ask(transport: DirectTransport, url: str, read: float = GUARD_S) -> bytes:
    response = await transport.handle_async_request(_request(url, read))
    try:
        return await response.aread()
    finally:
        await response.aclose()


def _request(url: str, read: float = GUARD_S) -> httpx.Request:
    return httpx.Request("GET", url, extensions={"timeout": TIMEOUT | {"read": read}})


def sends(data: bytes) -> Respond:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return respond


def test_a_body_without_a_length_is_not_whole_if_the_transport_was_closed(run: Run) -> None:
    async def scenario() -> None:
        transport = new_transport()
        async with serving(sends(WITHOUT_LENGTH)) as server:
            response = await transport.handle_async_request(_request(server.url))
            await transport.aclose()
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
            await response.aclose()

    run(scenario)


def test_a_body_without_a_length_is_not_whole_if_tls_did_not_end(tls: ssl.SSLContext) -> None:
    # Only with uvloop, which the image uses: asyncio does not tell the two ends apart.
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(WITHOUT_LENGTH)
        writer.transport.abort()

    async def scenario() -> None:
        transport = new_transport()
        async with serving(cut, tls) as server:
            with pytest.raises(httpx.RemoteProtocolError):
                await ask(transport, server.url)
        await transport.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_a_body_without_a_length_ends_with_its_tls(run: Run, tls: ssl.SSLContext) -> None:
    async def close(writer: asyncio.StreamWriter) -> None:
        writer.write(WITHOUT_LENGTH)
        writer.close()

    async def scenario() -> None:
        transport = new_transport()
        async with serving(close, tls) as server:
            assert await ask(transport, server.url) == b"{}"
        await transport.aclose()

    run(scenario)


def test_a_request_that_waits_when_the_transport_is_closed_is_not_sent(run: Run) -> None:
    async def scenario() -> None:
        transport, served = new_transport(), asyncio.Event()

        async def wait(_: asyncio.StreamWriter) -> None:
            server.asked.set()
            await served.wait()

        async with serving(wait) as server:
            first, second = (asyncio.create_task(ask(transport, server.url)) for _ in range(2))
            await server.asked.wait()
            await transport.aclose()
            with pytest.raises(httpx.RemoteProtocolError):
                await first
            with pytest.raises(httpx.ConnectError):
                await second
            served.set()

    run(scenario)


def test_an_idle_connection_is_closed_without_waiting_for_the_server(run: Run, tls: ssl.SSLContext) -> None:
    """The client sends no close_notify, because it would then keep the socket open until the server's close_notify arrives."""
    after_the_request = bytearray(b"no end")

    def serve(listener: socket.socket) -> None:
        encrypted = tls.wrap_socket(listener.accept()[0], server_side=True)
        encrypted.settimeout(GUARD_S)
        encrypted.recv(65536)
        encrypted.sendall(WHOLE)
        with socket.socket(fileno=encrypted.detach()) as connection:
            connection.settimeout(GUARD_S)
            del after_the_request[:]
            while piece := connection.recv(65536):
                after_the_request.extend(piece)

    async def scenario() -> None:
        transport = new_transport(keepalive_s=0.1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(asyncio.to_thread(serve, listener))
            assert await ask(transport, f"https://127.0.0.1:{listener.getsockname()[1]}") == b"{}"
            await serving
        assert after_the_request == b""
        await transport.aclose()

    run(scenario)


def test_a_response_that_arrived_while_the_process_was_stopped_is_in_time(run: Run) -> None:
    sent, connections = threading.Event(), []

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connections.append(connection)
            connection.settimeout(GUARD_S)
            for _ in range(3):
                connection.recv(65536)
                connection.sendall(WHOLE)
                sent.set()

    def stop_until_the_response_is_late() -> None:
        assert sent.wait(GUARD_S)
        time.sleep(0.3)

    async def scenario() -> None:
        transport = new_transport()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(asyncio.to_thread(serve, listener))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert await ask(transport, url) == b"{}"
            sent.clear()
            late = asyncio.create_task(ask(transport, url, read=0.2))
            asyncio.get_running_loop().call_soon(stop_until_the_response_is_late)
            assert await late == b"{}"
            assert await ask(transport, url) == b"{}"
            await serving
        assert len(connections) == 1
        await transport.aclose()

    run(scenario)


def test_a_request_while_the_loop_shuts_down_is_not_sent() -> None:
    # Only asyncio resolves names in the loop's executor, which no longer takes work.
    async def scenario() -> None:
        transport = new_transport()
        await asyncio.get_running_loop().shutdown_default_executor()
        with pytest.raises(httpx.ConnectError):
            await ask(transport, "http://localhost:1/")
        await transport.aclose()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(scenario())


def test_the_certificate_of_a_name_with_a_final_dot_names_it_without_the_dot(tls: ssl.SSLContext) -> None:
    async def scenario() -> None:
        transport = new_transport()
        async with serving(sends(WHOLE), tls) as server:
            assert await ask(transport, server.url.replace("127.0.0.1", "127.0.0.1.")) == b"{}"
            await transport.aclose()

    with asyncio.Runner(loop_factory=ResolvesFinalDots) as runner:
        runner.run(scenario())
