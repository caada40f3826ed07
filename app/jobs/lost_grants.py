"""Stops the dialling of scheduled calls if the database may have lost grants, for example because it was restored.

A grant is a worker's right to dial one scheduled call.
"""

from dataclasses import dataclass, field

from app.database.engine import Database
from app.scheduling.grant_counters import KnownGrantCounts
from app.scheduling.grant_halts import halt_if_grants_lost


@dataclass(frozen=True, slots=True)
class LostGrantWatch:
    """Stops workers from taking grants (rights to dial scheduled calls) if the database may have lost earlier ones."""

    database: Database
    counters: KnownGrantCounts = field(default_factory=KnownGrantCounts)

    async def step(self) -> bool:
        """Halts all grants (rights to dial calls) if the database may have lost some, for example because it was restored.

        Otherwise stores the current time in the database as `seen_at`: no grant from before this time is lost. Always returns
        False, so that the job pauses before the next step. Raises OSError if files in the folder with the grant counts cannot
        be read or changed.
        """
        await self.counters.load()
        async with self.database.transaction() as connection:
            await halt_if_grants_lost(connection, self.counters.known_counts())
        await self.counters.save()
        await self.counters.touch_and_prune_files()
        return False
