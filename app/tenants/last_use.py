"""Records when each Twilio credential and each API key was last used, exact to about a minute.

A credential is used when a request is sent with it. An auth token is also used when a callback is verified with it. An API key
is used when a request with it is authenticated, even if the request is then refused. Requests do not wait until a use is
stored.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import structlog

from app.database.engine import Database, Session
from app.errors import DatabaseUnavailable

logger = structlog.stdlib.get_logger(__name__)

FLUSH_INTERVAL_S = 60.0

LastUseWriter = Callable[[Session, Collection[str]], Awaitable[None]]


class LastUseRecorder:
    """Collects which credentials or API keys this process uses. Stores the time of their use every minute and at shutdown."""

    def __init__(self, database: Database, write: LastUseWriter, *, interval_s: float = FLUSH_INTERVAL_S) -> None:
        self._database = database
        self._write = write
        self._interval_s = interval_s
        self._used: set[str] = set()

    def mark_used(self, reference: str) -> None:
        """Remembers that a credential or an API key is used now. `reference` is the credential's id or the key's public part.

        Does nothing if `reference` is empty.
        """
        if reference:
            self._used.add(reference)

    @contextlib.asynccontextmanager
    async def flushing_in_background(self) -> AsyncIterator[None]:
        """Stores the times of use at intervals, in a background task, until the block ends, and once more at its end."""
        flushing = asyncio.create_task(self._flush_repeatedly())
        try:
            yield
        finally:
            flushing.cancel()
            await asyncio.wait([flushing])
            await self._flush()

    async def _flush_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._flush()

    async def _flush(self) -> None:
        """Writes the collected uses to the database. If the write fails or is cancelled, keeps them for the next write."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with self._database.begin() as session:
                await self._write(session, used)
        except BaseException as error:
            self._used |= used
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, DatabaseUnavailable):  # which app.database has logged
                logger.exception("last_use_not_stored")
