"""Tests that a kept connection is reused only if no data has arrived on it, not even data that is unread in the kernel."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from app.settings import Settings
from app.twilio.direct_transport import DirectTransport
from app.twilio.transport import AiohttpTransport
from tests.support.certificates import write_self_signed_certificate

GOOD = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
STRAY = b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}"
TIMEOUT = {"connect": 5, "read": 5, "write": 5, "pool": 5}

Loop = Callable[[], asyncio.AbstractEventLoop]
Kind = Callable[..., httpx.AsyncBaseTransport]
KINDS = (AiohttpTransport, DirectTransport)


@dataclass
class ServerInThread:
    """A server that answers each request and then calls `afterwards` with its first connection."""

    url: str
    afterwards: Callable[[socket.socket], None]
    requests: list[int] = field(default_factory=list)
    """For each request, the number of the connection on which it arrived."""
    go: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    pause_before_end_s: float = 0
    """The time between the end that the client sent and the end that the server sends."""

    def run_afterwards(self) -> None:
        """Runs `afterwards` and blocks until it has ended. The client's event loop can read nothing in this time."""
        self.go.set()
        assert self.done.wait(10)

    def serve(self, number: int, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while _read_request(connection):
                self.requests.append(number)
                connection.sendall(GOOD)
                if number == 1 and not self.done.is_set():
                    self.go.wait(10)
                    self.afterwards(connection)
                    self.done.set()
            time.sleep(self.pause_before_end_s)


def _read_request(connection: socket.socket) -> bool:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        if not piece:
            return False
        head += piece
    _, found, length = head.lower().partition(b"content-length: ")
    return not found or bool(connection.recv(int(length.split(b"\r\n")[0])))


@contextmanager
def serving(
    afterwards: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None, *, pause_before_end_s: float = 0
) -> Iterator[ServerInThread]:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(8) as threads:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        server = ServerInThread(url, afterwards, pause_before_end_s=pause_before_end_s)

        def accept() -> None:
            with suppress(OSError):
                for number in range(1, 8):
                    connection, _ = listener.accept()
                    connection.settimeout(10)
                    threads.submit(server.serve, number, tls.wrap_socket(connection, server_side=True) if tls else connection)

        threads.submit(accept)
        try:
            yield server
        finally:
            server.go.set()
            listener.shutdown(socket.SHUT_RDWR)


def _closes(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def _resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def _answers_again(connection: socket.socket) -> None:
    connection.sendall(STRAY)


def _answers_in_part(connection: socket.socket) -> None:
    connection.sendall(STRAY[:3])


EVENTS = (_closes, _resets, _answers_again, _answers_in_part)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    factory: Loop = request.param
    return factory


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext | None:
    if request.param == "http":
        return None
    certificate = write_self_signed_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def run(
    loop: Loop,
    scenario: Callable[[httpx.AsyncBaseTransport], Any],
    kind: Kind,
    *,
    keepalive_s: float = 60,
) -> None:
    async def with_transport() -> None:
        transport = kind(max_connections=4, keepalive_s=keepalive_s)
        try:
            await scenario(transport)
        finally:
            await transport.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(with_transport())


async def status_of(transport: httpx.AsyncBaseTransport, method: str, url: str) -> int:
    content = b"a=1" if method == "POST" else None
    response = await transport.handle_async_request(
        httpx.Request(method, url, content=content, extensions={"timeout": TIMEOUT})
    )
    await response.aread()
    await response.aclose()
    return response.status_code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("event", EVENTS)
def test_a_connection_with_unread_bytes_is_not_used_again(
    loop: Loop, tls: ssl.SSLContext | None, method: str, event: Callable[[socket.socket], None], kind: Kind
) -> None:
    async def scenario(transport: httpx.AsyncBaseTransport) -> None:
        assert await status_of(transport, method, server.url) == 201
        server.run_afterwards()
        assert await status_of(transport, method, server.url) == 201

    with serving(event, tls) as server:
        run(loop, scenario, kind)
    assert server.requests == [1, 2]


@pytest.mark.parametrize("event", EVENTS)
def test_data_between_the_choice_of_a_connection_and_the_first_byte_stops_the_request(
    loop: Loop, tls: ssl.SSLContext | None, event: Callable[[socket.socket], None]
) -> None:
    async def scenario(transport: httpx.AsyncBaseTransport) -> None:
        assert await status_of(transport, "POST", server.url) == 201
        asyncio.get_running_loop().call_soon(server.run_afterwards)  # before the task that writes gets its turn
        with pytest.raises(httpx.ConnectError):
            await status_of(transport, "POST", server.url)
        assert await status_of(transport, "POST", server.url) == 201

    with serving(event, tls) as server:
        run(loop, scenario, AiohttpTransport)  # DirectTransport runs nothing else between the choice and the first byte
    assert server.requests == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("keepalive_s", "pause_s", "requests"), [(60, 0, [1, 1, 1]), (0.1, 0.2, [1, 2])])
def test_a_connection_without_data_is_used_again_unless_it_was_idle_too_long(
    loop: Loop, tls: ssl.SSLContext | None, kind: Kind, keepalive_s: float, pause_s: float, requests: list[int]
) -> None:
    async def scenario(transport: httpx.AsyncBaseTransport) -> None:
        for _ in requests:
            assert await status_of(transport, "POST", server.url) == 201
            await asyncio.sleep(pause_s)

    with serving(lambda _: None, tls) as server:
        server.go.set()
        run(loop, scenario, kind, keepalive_s=keepalive_s)
    assert server.requests == requests


@pytest.mark.parametrize("kind", KINDS)
def test_closing_waits_for_idle_connections_that_the_server_has_not_ended_yet(
    loop: Loop, tls: ssl.SSLContext | None, kind: Kind
) -> None:
    """Fails through the warnings of an event loop that is closed before its connections are."""

    async def scenario(transport: httpx.AsyncBaseTransport) -> None:
        assert await status_of(transport, "POST", server.url) == 201
        await asyncio.sleep(0.2)

    with serving(lambda _: None, tls, pause_before_end_s=0.5) as server:
        server.go.set()
        run(loop, scenario, kind, keepalive_s=0.1)
    assert server.requests == [1]


def test_idle_connections_are_closed_long_before_a_server_closes_them() -> None:
    assert Settings().twilio_keepalive <= 2
