"""Updates the row that shows whether the database may have lost grants."""

from dataclasses import dataclass, field

from app.database.engine import Database
from app.scheduling.grant_counters import GrantCounters
from app.scheduling.guard import watch


@dataclass(frozen=True, slots=True)
class GuardWatch:
    database: Database
    counters: GrantCounters = field(default_factory=GrantCounters)

    async def step(self) -> bool:
        """Moves the row's `seen_at` to now, or halts grants if the database may have lost some. Returns false.

        Raises OSError if the folder of the counts cannot be read.
        """
        await self.counters.load()
        async with self.database.transaction() as connection:
            await watch(connection, self.counters.known())
        await self.counters.save()
        await self.counters.keep()
        return False
