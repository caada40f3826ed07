"""Records when each Twilio credential and each API key was last used, to about a minute. Requests do not wait for the write.

A credential is used when a request is sent with it, and an auth token also when it verifies a callback. An API key is used
when a request with it is authenticated, even if the request is then refused.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from app.database.engine import Database, Session
from app.errors import DatabaseUnavailable

FLUSH_INTERVAL_S = 60.0

UseWriter = Callable[[Session, Collection[str]], Awaitable[None]]


class LastUseRecorder:
    """Collects the credentials or keys that this process uses. Stores their time of use every minute and at shutdown."""

    def __init__(self, database: Database, write: UseWriter, *, interval_s: float = FLUSH_INTERVAL_S) -> None:
        self._database = database
        self._write = write
        self._interval_s = interval_s
        self._used: set[str] = set()

    def mark(self, reference: str) -> None:
        """Remembers that a credential (its id) or an API key (its public part) is used. Ignores an empty reference."""
        if reference:
            self._used.add(reference)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
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
        """Writes the collected uses. Keeps them for the next time if the database is unavailable."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with self._database.begin() as session:
                await self._write(session, used)
        except DatabaseUnavailable:
            self._used |= used
