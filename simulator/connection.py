"""Access to the TCP connection of a request, to close, reset or keep it in ways that ASGI does not offer.

uvicorn has no interface for this. But in both of its HTTP protocols, `receive` is a method of an object that has the
connection's `transport`. Everything else in this module uses asyncio's public interface. uvicorn only sees that the connection
is lost.
"""

import asyncio
import os
import socket
import struct
from contextlib import suppress

from starlette.types import Receive

LINGER_FOR_ZERO_SECONDS = struct.pack("ii", 1, 0)


class Connection:
    """The TCP connection on which a request arrived.

    After `close`, `reset` or `detach` no answer can be sent, and uvicorn expects none.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._transport: asyncio.Transport = receive.__self__.transport  # type: ignore[attr-defined]  # see above

    def write(self, data: bytes) -> None:
        """Sends bytes that belong to no answer, and keeps the connection open."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def close(self) -> None:
        """Closes the connection with FIN after the bytes that were already written."""
        self._transport.close()
        await self._wait_until_lost()

    async def reset(self) -> None:
        """Closes the connection with RST."""
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_FOR_ZERO_SECONDS)
        self._transport.abort()
        await self._wait_until_lost()

    async def detach(self) -> socket.socket | None:
        """Detaches the connection from the server and returns its socket, which stays open.

        The server can then stop without waiting for the socket. Returns None if the client has closed the connection.
        """
        if self._transport.is_closing():
            return None
        detached = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        detached.setblocking(False)
        self._transport.abort()
        await self._wait_until_lost()
        return detached

    async def _wait_until_lost(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def hold_open(detached: socket.socket) -> None:
    """Keeps the socket open until the client closes it or the task is cancelled."""
    with detached, suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(detached, 4096):
            pass
