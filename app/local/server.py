"""A uvicorn server for commands that run several servers in one event loop."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from app.errors import CommandFailed
from app.http.server import Server

SHUTDOWN_TIMEOUT_S: Final = 60
"""The time, in seconds, in which requests that are being handled must end after `should_exit` is set."""


class StackFailed(CommandFailed):
    """A server or the worker in this process did not start, or ended unexpectedly. The log says why."""


class LocalServer(Server):
    """A uvicorn server that installs no signal handlers, because one process runs several such servers."""

    def __init__(self, name: str, config: uvicorn.Config, listeners: list[socket.socket]) -> None:
        super().__init__(config)
        self.name = name
        self.listeners = listeners

    async def run_until_exit(self) -> None:
        """Runs the server until `should_exit` is set. Raises StackFailed if it cannot start.

        Without this method, uvicorn would end the process if the server cannot start.
        """
        with contextlib.suppress(SystemExit):
            await self.serve(sockets=self.listeners)
        if not self.started:
            raise StackFailed("it did not start")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
