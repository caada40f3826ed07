"""Keeps the row by which grants notice that the database may have lost some."""

from dataclasses import dataclass

from app.database.engine import Database
from app.scheduling.guard import watch


@dataclass(frozen=True, slots=True)
class GuardWatch:
    database: Database

    async def step(self) -> bool:
        """Notes that the database has what is committed by now, or halts grants if it may have lost some. Returns false."""
        async with self.database.transaction() as connection:
            await watch(connection)
        return False
