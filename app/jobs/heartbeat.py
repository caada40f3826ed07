"""Writes a heartbeat to the database, which shows other processes that this worker runs."""

import contextlib
from dataclasses import dataclass, field
from uuid import UUID

from uuid_utils.compat import uuid7

from app import __version__
from app.database.engine import Database
from app.database.heartbeats import delete_heartbeat, record_heartbeat
from app.errors import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class HeartbeatWriter:
    database: Database
    worker_id: UUID = field(default_factory=uuid7)

    async def step(self) -> bool:
        """Writes a heartbeat. Returns false, so that the job pauses before the next one."""
        async with self.database.begin() as session:
            await record_heartbeat(session, self.worker_id, version=__version__)
        return False

    async def delete(self) -> None:
        """Deletes the heartbeat. If the database is unavailable, the worker counts as running for up to another minute."""
        with contextlib.suppress(DatabaseUnavailable):
            async with self.database.begin() as session:
                await delete_heartbeat(session, self.worker_id)
