"""`callgate queues halt`: stops all grants until `callgate queues release`."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from app.audit.events import Actor
from app.audit.store import record
from app.database.pool import Pool
from app.scheduling.guard import grants_under_way, halt_grants

# Longer than a transaction without statements may last.
_PATIENCE_S = 15.0
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Halt:
    """`was_halted`: nothing was changed. `is_certain`: no call is granted from now on.

    Without `is_certain`, a transaction is still open that may be granting one.
    """

    since: datetime
    was_halted: bool
    is_certain: bool


@dataclass(frozen=True, slots=True)
class GrantHalt:
    database: Pool
    patience_s: float = _PATIENCE_S

    async def run(self, actor: Actor) -> Halt:
        """Halts grants, and waits for those that are being made. A grant may have read that it is allowed before the halt."""
        async with self.database.transaction() as connection:
            halted = await halt_grants(connection)
            if not halted.was_halted:
                await record(connection, actor, action="grants.halt", tenant_id=None, subject=halted.server)
        return Halt(halted.since, halted.was_halted, await self._wait())

    async def _wait(self) -> bool:
        """Returns whether all transactions have ended that may have read before the halt that they may grant."""
        before = await grants_under_way(self.database)
        try:
            async with asyncio.timeout(self.patience_s):
                while before & await grants_under_way(self.database):  # noqa: ASYNC110  # Postgres has no event for it
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            return False
        return True
