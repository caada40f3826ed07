"""Receives notifications of changes that any process makes, with Postgres's LISTEN and NOTIFY.

Does not import the table models.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

from app.database.connection import SESSION_SETTINGS, Connection, Connector
from app.errors import DatabaseUnavailable

logger = structlog.stdlib.get_logger(__name__)

# A lost connection may show only when a statement is sent.
_CONNECTION_CHECK_INTERVAL_S = 5.0
_RECONNECT_DELAY_S = 1.0
_POOLER_CHECK_INTERVAL_S = 300.0
_STOP_TIMEOUT_S = 2.0


class Listener:
    """Calls `on_change` for each notification of a channel, and whenever notifications may have been missed.

    `connected` is false while there is no connection that receives notifications: before the first connection, after
    a connection is known to be lost, and always behind a pooler.
    """

    def __init__(self, database_url: str, *, channel: str, on_change: Callable[[], None]) -> None:
        """Parses the URL; does not connect yet. Raises DatabaseURLError if the URL is invalid."""
        self._connector = Connector(database_url, SESSION_SETTINGS, statement_timeout_s=_CONNECTION_CHECK_INTERVAL_S)
        self._channel = channel
        self._on_change = on_change
        self.connected = False

    @asynccontextmanager
    async def listening_in_background(self) -> AsyncIterator[None]:
        """Listens in the background inside the block. While Postgres is unavailable, retries and raises nothing."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._listen_until(stop))
        try:
            yield
        finally:
            stop.set()
            # Not cancelled at once: asyncpg leaks a socket if it is cancelled while connecting.
            await asyncio.wait([task], timeout=_STOP_TIMEOUT_S)
            task.cancel()
            await asyncio.wait([task])

    async def _listen_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._listen(stop)
            except Exception as error:
                # Any error is survivable: without notifications, each request reads from the database.
                reason = error.reason if isinstance(error, DatabaseUnavailable) else None
                logger.info("listener_lost", error=type(error).__name__, reason=reason)
            finally:
                self._on_disconnect()
            await _wait_until_set(stop, seconds=_RECONNECT_DELAY_S)

    async def _listen(self, stop: asyncio.Event) -> None:
        """Connects, and listens until `stop` is set. Raises if connecting fails or the connection is lost.

        A pooler does not support LISTEN. If there is a pooler, this method waits for _POOLER_CHECK_INTERVAL_S, or until `stop`
        is set, and returns.
        """
        connection = await self._connector.connect()
        try:
            if connection.is_pooled:
                # A pooler drops LISTEN. `connected` stays false, so nothing is cached.
                await _wait_until_set(stop, seconds=_POOLER_CHECK_INTERVAL_S)
                return
            connection.add_termination_listener(lambda _: self._on_disconnect())
            await connection.add_listener(self._channel, lambda *_: self._on_change())
            # Changes made before LISTEN took effect were not notified.
            self._on_change()
            self.connected = True
            while not stop.is_set():
                await connection.execute("SELECT 1")
                await _wait_until_set(stop, seconds=_CONNECTION_CHECK_INTERVAL_S)
        finally:
            self._on_disconnect()  # before closing, which waits for a lost connection
            await _close(connection)

    def _on_disconnect(self) -> None:
        self.connected = False
        self._on_change()


async def _wait_until_set(event: asyncio.Event, *, seconds: float) -> None:
    """Waits until the event is set, but not longer than `seconds`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def _close(connection: Connection) -> None:
    """Closes the connection. Ignores the errors of a connection that no longer answers."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        await connection.close(timeout=_CONNECTION_CHECK_INTERVAL_S)
