"""The TCP connection under a request: what may happen to it in the wild, and no ASGI server lets one do.

uvicorn has no interface for it. Under both of its HTTP protocols `receive` is a method of an object that has the connection's
`transport`; from there on everything is asyncio's public interface, so uvicorn sees connections that were lost, as it
does every day.
"""

import asyncio
import os
import socket
import struct
from contextlib import suppress

from starlette.types import Receive

LINGER_ZERO = struct.pack("ii", 1, 0)


class Connection:
    """Once `close`, `reset` or `take` has been awaited, an answer can no longer be sent, and uvicorn does not expect any."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._transport: asyncio.Transport = receive.__self__.transport  # type: ignore[attr-defined]  # see above

    def write(self, data: bytes) -> None:
        """Bytes that belong to no answer; the connection goes on."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def close(self) -> None:
        """FIN, after what was already sent."""
        self._transport.close()
        await self._lost()

    async def reset(self) -> None:
        """RST."""
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._transport.abort()
        await self._lost()

    async def take(self) -> socket.socket | None:
        """The client's connection, which stays open and silent; None if the client is gone.

        The server no longer knows of it, so it can stop without waiting for the client.
        """
        if self._transport.is_closing():
            return None
        taken = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        taken.setblocking(False)
        self._transport.abort()
        await self._lost()
        return taken

    async def _lost(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def hold(taken: socket.socket) -> None:
    """Until the client hangs up, or for ever."""
    with taken, suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(taken, 4096):
            pass
