"""A server on a raw socket that stands in for Twilio. It records each request, and the test chooses its behaviour."""

import asyncio
import atexit
import base64
import itertools
import json
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

Behaviour = Callable[["Upstream", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class ReceivedRequest:
    method: str
    path: str
    headers: dict[str, str]
    form: list[tuple[str, str]]
    body: bytes
    at: float
    """When it arrived, by `time.monotonic()`."""

    @property
    def credentials(self) -> tuple[str, str]:
        user, _, password = base64.b64decode(self.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
        return user, password


@dataclass
class Upstream:
    """A server that stands in for Twilio. Each request gets the next behaviour of `script`. The last behaviour is repeated."""

    url: str
    script: list[Behaviour]
    received: list[ReceivedRequest] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def posts(self) -> list[ReceivedRequest]:
        return [request for request in self.received if request.method == "POST"]

    async def wait_for_post(self) -> None:
        """Returns as soon as the server has received a POST, or at once if it already has."""
        while not self.posts:
            await asyncio.sleep(0.01)

    def close_connections(self) -> None:
        for connection in list(self.connections):
            connection.close()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while request := await _read_request(reader):
                self.received.append(request)
                behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                await behaviour(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.connections.discard(writer)


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, path, headers, parse_qsl(body.decode(), keep_blank_values=True), body, time.monotonic())


def call_resource(sid: str | None = None, **fields: Any) -> dict[str, Any]:
    """Returns the resource that Twilio sends for a new call, in which almost every field is null."""
    sid = sid or f"CA{next(_numbers):032x}"
    call = f"/2010-04-01/Accounts/AC{'0' * 32}/Calls/{sid}"
    return {
        "sid": sid,
        "status": "queued",
        "direction": "outbound-api",
        "api_version": "2010-04-01",
        "price": None,
        "price_unit": "USD",
        "queue_time": "0",
        "date_created": None,
        "duration": None,
        "trunk_sid": "",
        "annotation": None,
        "uri": f"{call}.json",
        "subresource_uris": {"recordings": f"{call}/Recordings.json"},
        **fields,
    }


def _rendered(
    status: int,
    document: Any = None,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> bytes:
    content = json.dumps(document).encode() if body is None else body
    lines = [f"HTTP/1.1 {status} X"]
    always = {"Date": formatdate(usegmt=True), "Content-Type": "application/json", "Content-Length": str(len(content))}
    lines += [f"{name}: {value}" for name, value in (always | (headers or {})).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def answer(
    status: int,
    document: Any = None,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Behaviour:
    async def behave(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_rendered(status, document, headers=headers, body=body))
        await writer.drain()

    return behave


def created(**fields: Any) -> Behaviour:
    """Returns a behaviour that creates a new call with its own sid for each request."""

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(201, call_resource(**fields))(upstream, reader, writer)

    return behave


def created_after_release(**fields: Any) -> Behaviour:
    """Returns a behaviour that waits until the test sets `released`, and then creates a call."""
    return after_release(created(**fields))


def after_release(then: Behaviour) -> Behaviour:
    """Returns a behaviour that waits until the test sets `released`, and then behaves like `then`."""

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.released.wait()
        await then(upstream, reader, writer)

    return behave


def after(meanwhile: Callable[[], Awaitable[object]], then: Behaviour) -> Behaviour:
    """Returns a behaviour that runs `meanwhile`, and then behaves like `then`."""

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await meanwhile()
        await then(upstream, reader, writer)

    return behave


def error(status: int, code: int, message: str = "No", *, headers: dict[str, str] | None = None) -> Behaviour:
    more_info = f"https://www.twilio.com/docs/errors/{code}"
    document = {"code": code, "message": message, "more_info": more_info, "status": status}
    return answer(status, document, headers={"Twilio-Request-Id": "RQ" + "e" * 32, **(headers or {})})


def proxy_page(status: int) -> Behaviour:
    """Returns a behaviour that responds as a proxy does: HTML, without Twilio's code or headers."""
    headers = {"Server": "nginx", "Content-Type": "text/html", "Retry-After": "0"}
    return answer(status, body=f"<html><h1>{status}</h1></html>".encode(), headers=headers)


async def hang(upstream: Upstream, _: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await upstream.released.wait()


async def reset(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends RST, as a crashed host or a firewall does."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError


async def close(_: Upstream, __: asyncio.StreamReader, ___: asyncio.StreamWriter) -> None:
    """Closes the connection without a response."""
    raise ConnectionError


async def half_an_answer(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"sid": "CA')
    await writer.drain()
    raise ConnectionError


async def half_a_chunked_answer(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"sid": \r\n')
    await writer.drain()
    raise ConnectionError


async def half_a_head(upstream: Upstream, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends part of the response's head, then nothing until the test sets `released`."""
    writer.write(b"HTTP/1.1 201 Created\r\nContent-Le")
    await upstream.released.wait()


async def half_a_body(upstream: Upstream, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends part of the response's body, then nothing until the test sets `released`."""
    writer.write(b'HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"sid": "CA')
    await upstream.released.wait()


async def dripping(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends an endless response so steadily that no read timeout ends it."""
    writer.write(b"HTTP/1.1 201 Created\r\nX: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless_head(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 201 Created\r\nX: " + b"x" * 300_000)
    await writer.drain()
    raise ConnectionError


def preceded(head: bytes, then: Behaviour) -> Behaviour:
    """Returns a behaviour that sends `head`, such as an interim response, before the response of `then`."""

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await then(upstream, reader, writer)

    return behave


def created_and_unasked(unasked: dict[str, Any], *, at_once: bool) -> Behaviour:
    """Returns a behaviour that creates a call and sends a second response that belongs to no request.

    The second response follows at once, or when the test sets `released`.
    """
    second = _rendered(201, unasked)

    async def behave(upstream: Upstream, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = _rendered(201, call_resource())
        writer.write(first + second if at_once else first)
        if not at_once:
            await upstream.released.wait()
            writer.write(second)
        await writer.drain()

    return behave


async def created_then_closed(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Creates a call, and closes the connection after a response that has no `Connection: close`."""
    writer.write(_rendered(201, call_resource()))
    await writer.drain()
    raise ConnectionError


async def not_http(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
    await writer.drain()
    raise ConnectionError


@asynccontextmanager
async def running_upstream(*script: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    upstream = Upstream("", list(script))
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0, ssl=tls)
    upstream.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        upstream.released.set()
        server.close()
        upstream.close_connections()


@cache
def refused_url() -> str:
    """Returns a URL whose port refuses connections.

    A socket of this process is bound to the port and does not listen, so no other process can listen there.
    """
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    atexit.register(bound.close)
    return f"http://127.0.0.1:{bound.getsockname()[1]}"
