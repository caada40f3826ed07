"""`callgate queues halt`: stops all grants until `callgate queues release`. A grant is a right to dial a call."""

from dataclasses import dataclass
from datetime import datetime

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.database.pool import Pool
from app.database.writers import MAX_WAIT_FOR_WRITERS_S, wait_for_writers
from app.scheduling.grant_halts import halt_grants


@dataclass(frozen=True, slots=True)
class HaltResult:
    """The result of `callgate queues halt`, which halts all grants (rights to dial scheduled calls)."""

    since: datetime
    """When the halt began. If `was_halted` is true, this is the beginning of the earlier halt."""
    was_halted: bool
    """Whether grants were already halted. If so, the earlier halt and its reason stay. A release that is running fails."""
    is_complete: bool
    """Whether no worker takes a grant from now on. The value is False if a transaction is still open that may take one."""


@dataclass(frozen=True, slots=True)
class GrantHaltCommand:
    database: Pool
    max_wait_s: float = MAX_WAIT_FOR_WRITERS_S

    async def run(self, actor: Actor) -> HaltResult:
        """Halts all grants (rights to dial scheduled calls). Then waits for transactions that may still be taking grants.

        `is_complete` of the result is False if one of these transactions is still open after `max_wait_s` seconds. Writes an
        audit event even if grants are halted already, because a `callgate queues release` that is running then fails.
        """
        async with self.database.transaction() as connection:
            halted = await halt_grants(connection)
            await record_audit_event(connection, actor, action="grants.halt", tenant_id=None, subject=halted.server)
        # A transaction that takes grants locks a row of `pace` before it reads whether grants are halted.
        is_complete = await wait_for_writers(self.database, "pace", max_wait_s=self.max_wait_s)
        return HaltResult(halted.since, halted.was_halted, is_complete)
