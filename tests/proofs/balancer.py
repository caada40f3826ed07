"""A small TCP balancer: one address for several processes, some of which may be dead."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_CHUNK = 65536


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Balancer:
    """Distributes connections to the ports in turn. Skips a port that does not accept the connection."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._turn = itertools.count()

    def withdraw(self, port: int) -> None:
        """Sends no new connections to the port. Open connections stay, as for a Kubernetes pod that terminates."""
        self._ports.remove(port)

    def admit(self, port: int) -> None:
        self._ports.append(port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Runs the balancer, and yields its URL."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(self._turn)
        for offset in range(len(self._ports)):
            port = self._ports[(first + offset) % len(self._ports)]
            with contextlib.suppress(OSError):
                upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))
                return
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()
