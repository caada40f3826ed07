"""Hear of changes that any process makes, by Postgres's LISTEN and NOTIFY. Knows no table."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

logger = structlog.stdlib.get_logger(__name__)

_CONNECT_TIMEOUT_S = 5.0
# A connection that was cut without a word shows only when it is used.
_CHECK_EVERY_S = 5.0
_AGAIN_AFTER_S = 1.0
_STOP_PATIENCE_S = 2.0


class Listener:
    """`on_change` is called for each notification, and whenever some may have been missed.

    `hears` is false from the moment at which the connection is known to be lost until it is back.
    """

    def __init__(self, database_url: str, *, channel: str, on_change: Callable[[], None]) -> None:
        self._dsn = database_url.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._channel = channel
        self._on_change = on_change
        self.hears = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Never fails: while Postgres is away nothing is heard."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._listen_until(stop))
        try:
            yield
        finally:
            stop.set()
            # Not cancelled at once: asyncpg leaves a socket behind when it is while connecting.
            await asyncio.wait([task], timeout=_STOP_PATIENCE_S)
            task.cancel()
            await asyncio.wait([task])

    async def _listen_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._listen(stop)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.info("listener_lost", error=type(error).__name__)
            finally:
                self._deaf()
            await _pause(stop, seconds=_AGAIN_AFTER_S)

    async def _listen(self, stop: asyncio.Event) -> None:
        """Returns when told to stop; raises when the connection is lost."""
        connection = await asyncpg.connect(self._dsn, timeout=_CONNECT_TIMEOUT_S, command_timeout=_CHECK_EVERY_S)
        try:
            connection.add_termination_listener(lambda _: self._deaf())
            await connection.add_listener(self._channel, lambda *_: self._on_change())
            # What changed before the first moment of listening is forgotten with everything else.
            self._on_change()
            self.hears = True
            while not stop.is_set():
                await connection.execute("SELECT 1")
                await _pause(stop, seconds=_CHECK_EVERY_S)
        finally:
            self._deaf()  # before the good-bye, which a connection that is cut does not answer
            await connection.close(timeout=_CHECK_EVERY_S)

    def _deaf(self) -> None:
        self.hears = False
        self._on_change()


async def _pause(event: asyncio.Event, *, seconds: float) -> None:
    """Until the event is set, but no longer than this."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
