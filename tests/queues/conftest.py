"""Fixtures that write scheduled calls of a queue directly into the database."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from tests.support.gateway import BASIC_CALL, Gateway, Tenant

_CALL = """INSERT INTO call (id, tenant_id, account_id, account_sid, created_at, pending_since, execution, fingerprint,
        parameters, "to", "from", queue_id, sid, status, problem)
    SELECT $1, $2, account.id, account.account_sid, now(), now(), $3, '', '{}', $4, $5, $6, $7, $8, $9::jsonb
    FROM twilio_account AS account WHERE account.tenant_id = $2 LIMIT 1"""
_DIAL = """INSERT INTO scheduled_dial
        (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
    SELECT $1, $2, account.id, $3, $1, 1, now() + $4, now() + $5, now() + $6
    FROM twilio_account AS account WHERE account.tenant_id = $2 LIMIT 1"""

_MANY_CALLS = """INSERT INTO call (id, tenant_id, account_id, account_sid, created_at, pending_since, execution, fingerprint,
        parameters, "to", "from", queue_id)
    SELECT new.id, $2, account.id, account.account_sid, now(), now(), 'scheduled', '', '{}', $4, $5, $3
    FROM twilio_account AS account, unnest($1::uuid[]) AS new (id) WHERE account.tenant_id = $2"""
_MANY_DIALS = """INSERT INTO scheduled_dial
        (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
    SELECT new.id, $2, account.id, $3, $3, 1, now(), now() + interval '1 hour', now()
    FROM twilio_account AS account, unnest($1::uuid[]) AS new (id) WHERE account.tenant_id = $2"""


@dataclass
class QueuedCalls:
    """Writes the rows of calls in one queue."""

    gateway: Gateway
    tenant: Tenant
    name: str

    async def queue_id(self) -> UUID:
        (row,) = await self.gateway.database.fetch(
            "SELECT id FROM queue WHERE tenant_id = $1 AND name = $2", self.tenant.id, self.name
        )
        found: UUID = row["id"]
        return found

    async def account_id(self) -> UUID:
        (row,) = await self.gateway.database.fetch("SELECT id FROM twilio_account WHERE tenant_id = $1", self.tenant.id)
        found: UUID = row["id"]
        return found

    async def ended(self, execution: str, *, status: str | None = None, problem: str | None = None) -> None:
        """Adds a call that does not wait any more. `execution` is its outcome, such as `started`."""
        sid = f"CA{uuid7().hex}" if execution == "started" else None
        await self._add(uuid7(), execution, sid, status, f'{{"slug": "{problem}"}}' if problem else None)

    async def waiting(self, *, not_before_s: float = -1, ring_by_s: float = 900, due_s: float | None = None) -> UUID:
        """Adds a waiting call and returns its id. All times are seconds from now."""
        call_id = uuid7()
        await self._add(call_id, "scheduled", None, None, None)
        times = [timedelta(seconds=each) for each in (not_before_s, ring_by_s, not_before_s if due_s is None else due_s)]
        await self.gateway.database.fetch(_DIAL, call_id, self.tenant.id, await self.queue_id(), *times)
        return call_id

    async def waiting_many(self, number: int) -> None:
        """Adds `number` waiting calls in two statements."""
        ids = [uuid7() for _ in range(number)]
        queue_id = await self.queue_id()
        await self.gateway.database.fetch(_MANY_CALLS, ids, self.tenant.id, queue_id, BASIC_CALL["to"], BASIC_CALL["from"])
        await self.gateway.database.fetch(_MANY_DIALS, ids, self.tenant.id, queue_id)

    async def _add(self, call_id: UUID, execution: str, *columns: Any) -> None:
        address = (BASIC_CALL["to"], BASIC_CALL["from"])
        queue_id = await self.queue_id()
        await self.gateway.database.fetch(_CALL, call_id, self.tenant.id, execution, *address, queue_id, *columns)

    async def due_in(self, call_id: UUID) -> float:
        """Returns the seconds until the waiting call is due."""
        (row,) = await self.gateway.database.fetch("SELECT due_at - now() FROM scheduled_dial WHERE call_id = $1", call_id)
        left: timedelta = row[0]
        return left.total_seconds()

    async def set_pace(self, subject_id: UUID, *, in_use: int = 0, next_at: datetime | None = None, **limits: Any) -> None:
        """Sets the limits of an account or a queue, the number of its calls in progress, and the time of its next token."""
        statement = """INSERT INTO pace (subject_id, calls_per_second, burst, max_concurrent, in_use, next_at)
            VALUES ($1, $2::float8, 2, $3, $4, coalesce($5::timestamptz, '-infinity'))
            ON CONFLICT (subject_id) DO UPDATE SET calls_per_second = $2::float8, max_concurrent = $3, in_use = $4,
                next_at = coalesce($5::timestamptz, '-infinity')"""
        calls_per_second, max_concurrent = limits.get("calls_per_second"), limits.get("max_concurrent")
        await self.gateway.database.fetch(statement, subject_id, calls_per_second, max_concurrent, in_use, next_at)
