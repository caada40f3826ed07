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
        task = asyncio.create_task(self._listen_always())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _listen_always(self) -> None:
        while True:
            try:
                await self._listen()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.info("listener_lost", error=type(error).__name__)
            finally:
                self._deaf()
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _listen(self) -> None:
        """Returns or raises when the connection is lost."""
        connection = await asyncpg.connect(self._dsn, timeout=_CONNECT_TIMEOUT_S, command_timeout=_CHECK_EVERY_S)
        try:
            lost = asyncio.Event()

            def on_lost(_: object) -> None:
                self._deaf()
                lost.set()

            connection.add_termination_listener(on_lost)
            await connection.add_listener(self._channel, lambda *_: self._on_change())
            # What changed before the first moment of listening is forgotten with everything else.
            self._on_change()
            self.hears = True
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), _CHECK_EVERY_S)
                if not lost.is_set():
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _deaf(self) -> None:
        self.hears = False
        self._on_change()
