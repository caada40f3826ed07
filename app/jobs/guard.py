"""Halts grants of scheduled calls if the database may have lost some, for example because it was restored."""

from dataclasses import dataclass, field

from app.database.engine import Database
from app.scheduling.grant_counters import GrantCounters
from app.scheduling.guard import halt_if_grants_lost


@dataclass(frozen=True, slots=True)
class GuardWatch:
    """Halts grants of scheduled calls if the database may have lost some (app.scheduling.guard)."""

    database: Database
    counters: GrantCounters = field(default_factory=GrantCounters)

    async def step(self) -> bool:
        """Halts grants if some may be lost. Otherwise records that none was lost until now. Returns false.

        Raises OSError if the folder with the counts of grants cannot be read.
        """
        await self.counters.load()
        async with self.database.transaction() as connection:
            await halt_if_grants_lost(connection, self.counters.known_counts())
        await self.counters.save()
        await self.counters.touch_and_prune()
        return False
