"""SQL of a rehearsal: its clock, the settings that it copies, and what happens to calls at Twilio."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from uuid_utils.compat import uuid7

from app.database.connection import Connection
from app.database.engine import Database

# Functions in `public` come before Postgres's own ones, so that every statement and every default of a column of Callgate reads
# this clock. Only sessions that begin after this have the path.
_MAKE_CLOCK: Final = (
    "CREATE TABLE rehearsal_clock (at timestamptz NOT NULL)",
    "INSERT INTO rehearsal_clock VALUES (pg_catalog.now())",
    *(
        f"CREATE FUNCTION public.{name}() RETURNS timestamptz STABLE LANGUAGE sql "  # noqa: S608  # our own names
        "BEGIN ATOMIC SELECT at FROM public.rehearsal_clock; END"
        for name in ("clock_timestamp", "now", "statement_timestamp", "transaction_timestamp")
    ),
    "ALTER DATABASE callgate SET search_path = public, pg_catalog",
)

_SETTINGS = """
    SELECT tenant.id AS tenant_id, tenant.hours AS tenant_hours, account.id AS account_id, queue.id AS queue_id, queue.hours,
        queue.ring_within_s
    FROM tenant LEFT JOIN queue ON queue.tenant_id = tenant.id AND queue.name = $2
    LEFT JOIN LATERAL (SELECT id FROM twilio_account WHERE tenant_id = tenant.id ORDER BY id LIMIT 1) AS account ON true
    WHERE ($1::text IS NULL OR tenant.id = $1) AND ($2::text IS NULL OR queue.id IS NOT NULL) ORDER BY tenant.id LIMIT 2
"""
_ADD_TENANT = "INSERT INTO tenant (id, name, hours) VALUES ($1, $1, $2::jsonb)"
_ADD_ACCOUNT = "INSERT INTO twilio_account (id, tenant_id, account_sid) VALUES ($1, $2, $3)"
_ADD_QUEUE = "INSERT INTO queue (id, tenant_id, name, hours, ring_within_s) VALUES ($1, $2, $3, $4::jsonb, $5)"

_NEXT_TIME = """
    SELECT least(
        (SELECT due_at FROM scheduled_dial WHERE queue_id = $1 AND due_at > $2 ORDER BY due_at LIMIT 1),
        (SELECT ring_by FROM scheduled_dial ORDER BY ring_by LIMIT 1)
    ) AS at
"""
# A status that frees the slot.
_END = "UPDATE call SET status = 'completed' WHERE id = ANY ($1::uuid[])"


@dataclass(frozen=True, slots=True)
class CopiedSettings:
    """What a rehearsal needs of a tenant, its first account and a queue. Hours are JSON, as stored."""

    tenant_id: str | None = None
    tenant_hours: str | None = None
    account_id: UUID | None = None
    queue_id: UUID | None = None
    hours: str | None = None
    ring_within_s: int | None = None


async def find_settings(connection: Connection, tenant_id: str | None, queue: str | None) -> list[CopiedSettings]:
    """Returns the settings of the tenant and its queue of this name; without a tenant, of up to two that have such a queue."""
    return [CopiedSettings(**row) for row in await connection.fetch(_SETTINGS, tenant_id, queue)]


async def make_clock(connection: Connection) -> None:
    """Makes the rehearsal's clock that of a database without a schema."""
    for statement in _MAKE_CLOCK:
        await connection.execute(statement)


async def add_queue(
    connection: Connection, copied: CopiedSettings, *, tenant_id: str, account_id: UUID, account_sid: str, queue: str
) -> UUID:
    """Inserts a tenant with an account and a queue, and returns the queue's id."""
    queue_id = uuid7()
    await connection.execute(_ADD_TENANT, tenant_id, copied.tenant_hours)
    await connection.execute(_ADD_ACCOUNT, account_id, tenant_id, account_sid)
    await connection.execute(_ADD_QUEUE, queue_id, tenant_id, queue, copied.hours, copied.ring_within_s)
    return queue_id


async def set_clock(database: Database, at: datetime) -> None:
    await database.fetch("UPDATE rehearsal_clock SET at = $1", at)


async def next_time(database: Database, queue_id: UUID, after: datetime) -> datetime | None:
    """Returns when the next call is due or passes its `ring_by`; None if none waits."""
    rows: Sequence[Any] = await database.fetch(_NEXT_TIME, queue_id, after)
    at: datetime | None = rows[0]["at"]
    return at


async def complete_calls(database: Database, call_ids: Sequence[UUID]) -> None:
    """Lets calls end that were granted, so that others may be dialled."""
    await database.fetch(_END, call_ids)
