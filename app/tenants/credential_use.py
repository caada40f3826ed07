"""Records when each Twilio credential was last used, to about a minute. Requests do not wait for the write.

A credential is used when a request is sent with it, and an auth token also when it verifies a callback.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from app.database.engine import Database
from app.errors import DatabaseUnavailable
from app.tenants import repository
from app.twilio.schemas import Credential

FLUSH_EVERY_S = 60.0


class CredentialUse:
    """Collects the credentials that this process uses, and writes them once a minute and when it ends."""

    def __init__(self, database: Database, *, every_s: float = FLUSH_EVERY_S) -> None:
        self._database = database
        self._every_s = every_s
        self._used: set[str] = set()

    def mark(self, credential: Credential) -> None:
        if credential.reference:
            self._used.add(credential.reference)

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
            await asyncio.sleep(self._every_s)
            await self._flush()

    async def _flush(self) -> None:
        """Writes the collected credentials. Keeps them for the next time if the database is unavailable."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with self._database.begin() as session:
                await repository.mark_used(session, [UUID(reference) for reference in used])
        except DatabaseUnavailable:
            self._used |= used
