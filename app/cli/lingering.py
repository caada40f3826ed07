"""Leave in good manners: a stopping API first lets go of its clients, and only then stops to listen."""

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = structlog.stdlib.get_logger(__name__)


class GracefulShutdown:
    """For `seconds` after SIGTERM it still serves, and closes each connection after its answer; then the server is told.

    Meanwhile balancers notice that this process goes, and clients that keep connections open make new ones elsewhere. Without
    it a request that comes at the moment of closing is lost, and its sender cannot know whether it was read.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds
        self._leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._answer_sigterm()

        async def send_and_close(message: Message) -> None:
            if self._leaving and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, send_and_close)

    def _answer_sigterm(self) -> None:
        """In place of the server, which has set its own handler by now and gets the signal later; a second one at once."""
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return

        def leave(number: int, frame: FrameType | None) -> None:
            if self._leaving:
                stop(number, frame)
            else:
                self._leaving = True
                loop.call_soon_threadsafe(self._stop_later, loop, partial(stop, number, frame))

        signal.signal(signal.SIGTERM, leave)

    def _stop_later(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
        logger.info("leaving", seconds=self.seconds)
        loop.call_later(self.seconds, stop)
