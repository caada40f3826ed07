"""A minimal HTTP client, because a larger one would take processor time from the measured service."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping


def raw_request(path: str, headers: Mapping[str, str], body: bytes = b"", *, method: str = "POST") -> bytes:
    """Returns the bytes of an HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def raw_creation_request(key: str) -> bytes:
    """Returns the bytes of a `POST /v1/calls` that creates an example call with this API key."""
    call = {"to": "sip:kate@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return raw_request("/v1/calls", headers, json.dumps(call).encode())


class Connection:
    """An HTTP connection to a port of 127.0.0.1. It carries one request at a time, and the first request opens it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a request. Returns the status and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join([chunk async for chunk in _chunks(reader)])
        else:
            body = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


class ConnectionPool:
    """A pool of connections to one port. A request takes the idle connection that was used last, or opens a new one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else Connection(self._port)
        answer = await connection.ask(request)
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
