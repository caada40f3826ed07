"""Shuts down the API in two steps: first closes the connections of clients, then stops the server."""

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.repeated_signals import call_after_signal_window

logger = structlog.stdlib.get_logger(__name__)


class GracefulShutdown:
    """ASGI middleware that keeps serving for `linger_s` after SIGTERM, and then stops the server.

    During this time each connection is closed after its next response. Load balancers stop using this process, and clients with
    open connections reconnect elsewhere. If the server stopped at once, a request that arrives while its connection is being
    closed would be lost, and the client could not know whether it was processed.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.linger_s = seconds
        self._is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._install_sigterm_handler()

        async def send_and_close(message: Message) -> None:
            if self._is_stopping and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, send_and_close)

    def _install_sigterm_handler(self) -> None:
        """Installs a SIGTERM handler that runs the server's own handler `linger_s` after the first SIGTERM.

        For about a second, further SIGTERMs are ignored as repetitions. A later one runs the server's handler at once.
        """
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return

        def handle_sigterm(number: int, frame: FrameType | None) -> None:
            if not self._is_stopping:
                self._is_stopping = True
                loop.call_soon_threadsafe(self._stop_after_linger, loop, partial(stop, number, frame))
                loop.call_soon_threadsafe(call_after_signal_window, loop, partial(signal.signal, signal.SIGTERM, stop))

        signal.signal(signal.SIGTERM, handle_sigterm)

    def _stop_after_linger(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
        logger.info("leaving", seconds=self.linger_s)
        loop.call_later(self.linger_s, stop)
