"""`callgate queues halt`: stops all grants until `callgate queues release`. A grant is the right to dial a scheduled call."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.database.pool import Pool
from app.scheduling.grant_halts import granting_transactions, halt_grants

# Longer than `idle_in_transaction_session_timeout`, after which Postgres ends an idle transaction.
_MAX_WAIT_S = 15.0
_CHECK_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class HaltResult:
    since: datetime
    was_halted: bool
    """Whether grants were already halted, so that nothing was changed."""
    is_complete: bool
    """Whether no call is granted from now on. The value is False if a transaction is still open that may be granting a call."""


@dataclass(frozen=True, slots=True)
class GrantHalt:
    database: Pool
    max_wait_s: float = _MAX_WAIT_S

    async def run(self, actor: Actor) -> HaltResult:
        """Halts all grants (rights to dial scheduled calls). Then waits for transactions that may be granting calls.

        `is_complete` of the result is False if one of these transactions is still open after `max_wait_s`.
        """
        async with self.database.transaction() as connection:
            halted = await halt_grants(connection)
            if not halted.was_halted:
                await record_audit_event(connection, actor, action="grants.halt", tenant_id=None, subject=halted.server)
        return HaltResult(halted.since, halted.was_halted, await self._wait_for_transactions())

    async def _wait_for_transactions(self) -> bool:
        """Waits for the transactions that are open now and may be granting calls.

        Returns True when all of them have ended, and False after `max_wait_s`.
        """
        before = await granting_transactions(self.database)
        try:
            async with asyncio.timeout(self.max_wait_s):
                while before & await granting_transactions(self.database):  # noqa: ASYNC110  # Postgres has no event for it
                    await asyncio.sleep(_CHECK_INTERVAL_S)
        except TimeoutError:
            return False
        return True
