"""A raw HTTP connection that sends any bytes and parses the responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_S = 60


@dataclass(frozen=True)
class RawResponse:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def slug(self) -> str:
        """Returns the slug of the problem, the end of its `type`. Fails if the response is not a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        return str(self.problem["type"]).removeprefix("urn:callgate:problem:")

    @property
    def problem(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes, pause_s: float = 0.01) -> None:
        """Sends each piece separately. The network may still join or split them."""
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause_s)
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, *, content: bool = True) -> RawResponse:
        async with asyncio.timeout(TIMEOUT_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
            body = await self._content(headers) if content else b""
            return RawResponse(int(lines[0].split(" ")[1]), headers, body)

    async def _content(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", "0")))
        pieces = []
        while size := int(await self.reader.readline(), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
        await self.reader.readline()
        return b"".join(pieces)

    async def end(self) -> bytes:
        """Returns the bytes that arrive until the server closes the connection; empty if the connection is reset."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def raw_connection(url: str) -> AsyncIterator[Connection]:
    asked = httpx.URL(url)
    reader, writer = await asyncio.open_connection(asked.host, asked.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def request_head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: callgate", *lines, "", ""]).encode()
