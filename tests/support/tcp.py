"""Two faults of a network: data that is held back (`HoldingProxy`), and a database host that never answers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy import make_url

TIMEOUT_S = 60


@dataclass
class HoldingProxy:
    """A TCP proxy that holds back data of a client or of the server.

    If it holds back a client's data, it disconnects the client, and the data reaches the server later or never. The server's
    data is only delayed.
    """

    port: int = 0
    _marker: bytes | None = None
    _passing: int = 0
    _answer_marker: bytes | None = None
    _held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    answer_held: asyncio.Event = field(default_factory=asyncio.Event)
    answer_released: asyncio.Event = field(default_factory=asyncio.Event)

    def hold_answer(self, marker: bytes) -> None:
        """Makes the proxy hold back the server's next data that contains `marker`, until `answer_released` is set."""
        self._answer_marker = marker

    def hold(self, marker: bytes, *, passing: int = 0) -> None:
        """Makes the proxy hold back a client's data that contains `marker`, after `passing` such pieces have been forwarded."""
        self._marker, self._passing = marker, passing

    @property
    def has_held_data(self) -> bool:
        return bool(self._held)

    async def deliver_held(self) -> None:
        """Sends the data that was held back to the server, and discards the server's response."""
        while self._held:
            reader, writer, piece = self._held.pop()
            writer.write(piece)
            await asyncio.wait_for(reader.read(1024), TIMEOUT_S)
            await _end(writer)

    async def drop_held(self) -> None:
        """Discards the data that was held back, and closes the connection to the server."""
        while self._held:
            await _end(self._held.pop()[1])

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter, upstream: tuple[str, int]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        reader, writer = await asyncio.open_connection(*upstream)
        back = asyncio.create_task(self._copy_answers(reader, answers))
        held = None
        try:
            while held is None and (piece := await client.read(256 * 1024)):
                held = self._take(piece)
                if held is None:
                    writer.write(piece)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            if held is None:
                await _end(writer)
            else:
                self._held.append((reader, writer, held))
            await _end(answers)
            self._tasks.discard(task)

    def _take(self, piece: bytes) -> bytes | None:
        """Returns the piece of data if the proxy has to hold it back, and None if the proxy has to forward it."""
        if self._marker is None or self._marker not in piece:
            return None
        self._passing -= 1
        if self._passing >= 0:
            return None
        self._marker = None
        return piece

    async def _copy_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(256 * 1024):
                if self._answer_marker is not None and self._answer_marker in piece:
                    self._answer_marker = None
                    self.answer_held.set()
                    await self.answer_released.wait()
                writer.write(piece)
        writer.close()

    async def close(self) -> None:
        await self.drop_held()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def running_proxy(host: str, port: int) -> AsyncIterator[HoldingProxy]:
    proxy = HoldingProxy()
    server = await asyncio.start_server(lambda client, answers: proxy.serve(client, answers, (host, port)), "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()


@contextmanager
def silent_first_host(database_url: str) -> Iterator[str]:
    """Yields a database URL with two hosts. The first one accepts connections and never answers, the second is the given one.

    A connection waits 3 s for the first host, which is longer than /readyz waits for a check.
    """
    url = make_url(database_url)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{url.host}:{url.port}"
        options = "connect_timeout=3&target_session_attrs=read-write"
        yield f"postgresql://{url.username}:{url.password}@{hosts}/{url.database}?{options}"
