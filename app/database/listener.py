"""Hear of changes that any process makes, by Postgres's LISTEN and NOTIFY. Knows no table."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

from app.database.connection import SESSION, Connection, Connector
from app.errors import DatabaseUnavailable

logger = structlog.stdlib.get_logger(__name__)

# A connection that was cut without a word shows only when it is used.
_CHECK_EVERY_S = 5.0
_AGAIN_AFTER_S = 1.0
_POOLED_AGAIN_AFTER_S = 300.0
_STOP_PATIENCE_S = 2.0


class Listener:
    """`on_change` is called for each notification, and whenever some may have been missed.

    `connected` is false from the moment at which the connection is known to be lost until it is back.
    """

    def __init__(self, database_url: str, *, channel: str, on_change: Callable[[], None]) -> None:
        """Raises DatabaseURLError."""
        self._connector = Connector(database_url, SESSION, statement_timeout_s=_CHECK_EVERY_S)
        self._channel = channel
        self._on_change = on_change
        self.connected = False

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
            except Exception as error:
                # Whatever it is: until it is over, each request reads what it needs.
                reason = error.reason if isinstance(error, DatabaseUnavailable) else None
                logger.info("listener_lost", error=type(error).__name__, reason=reason)
            finally:
                self._on_disconnect()
            await _pause(stop, seconds=_AGAIN_AFTER_S)

    async def _listen(self, stop: asyncio.Event) -> None:
        """Returns when told to stop; raises when the connection is lost."""
        connection = await self._connector.connect()
        try:
            if connection.is_pooled:
                # What this session listens for, a pooler forgets. Nothing is remembered, so nothing has to be heard.
                await _pause(stop, seconds=_POOLED_AGAIN_AFTER_S)
                return
            connection.add_termination_listener(lambda _: self._on_disconnect())
            await connection.add_listener(self._channel, lambda *_: self._on_change())
            # What changed before the first moment of listening is forgotten with everything else.
            self._on_change()
            self.connected = True
            while not stop.is_set():
                await connection.execute("SELECT 1")
                await _pause(stop, seconds=_CHECK_EVERY_S)
        finally:
            self._on_disconnect()  # before the good-bye, which a connection that is cut does not answer
            await _close(connection)

    def _on_disconnect(self) -> None:
        self.connected = False
        self._on_change()


async def _pause(event: asyncio.Event, *, seconds: float) -> None:
    """Until the event is set, but no longer than this."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def _close(connection: Connection) -> None:
    """Also when it does not answer any more."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        await connection.close(timeout=_CHECK_EVERY_S)
