"""SQL for a rehearsal (a simulation of scheduled calls): its clock, the settings that it copies, and the outcomes of calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from uuid_utils.compat import uuid7

from app.database.connection import Connection
from app.database.engine import Database

# With this search_path, the functions in `public` replace Postgres's own ones. So all statements and column defaults of
# Callgate read this clock. The search_path applies to sessions that begin later.
_REPLACE_CLOCK_SQL: Final = (
    "CREATE TABLE rehearsal_clock (at timestamptz NOT NULL)",
    "INSERT INTO rehearsal_clock VALUES (pg_catalog.now())",
    *(
        f"CREATE FUNCTION public.{name}() RETURNS timestamptz STABLE LANGUAGE sql "  # noqa: S608  # our own names
        "BEGIN ATOMIC SELECT at FROM public.rehearsal_clock; END"
        for name in ("clock_timestamp", "now", "statement_timestamp", "transaction_timestamp")
    ),
    # Makes the ids of redials predictable: calls due at the same time are dialled in the order of their ids.
    "CREATE SEQUENCE rehearsal_uuid",
    "CREATE FUNCTION public.gen_random_uuid() RETURNS uuid VOLATILE LANGUAGE sql AS "
    "$$ SELECT lpad(to_hex(nextval('public.rehearsal_uuid')), 32, '0')::uuid $$",
    "ALTER DATABASE callgate SET search_path = public, pg_catalog",
)

_FIND_SETTINGS_SQL = """
    SELECT tenant.id AS tenant_id, tenant.hours AS tenant_hours, account.id AS account_id, queue.id AS queue_id, queue.hours,
        queue.ring_within_s
    FROM tenant LEFT JOIN queue ON queue.tenant_id = tenant.id AND queue.name = $2
    LEFT JOIN LATERAL (SELECT id FROM twilio_account WHERE tenant_id = tenant.id ORDER BY id LIMIT 1) AS account ON true
    WHERE ($1::text IS NULL OR tenant.id = $1) AND ($2::text IS NULL OR queue.id IS NOT NULL) ORDER BY tenant.id LIMIT 2
"""
_ADD_TENANT_SQL = "INSERT INTO tenant (id, name, hours) VALUES ($1, $1, $2::jsonb)"
_ADD_QUEUE_SQL = "INSERT INTO queue (id, tenant_id, name, hours, ring_within_s) VALUES ($1, $2, $3, $4::jsonb, $5)"

_NEXT_TIME_SQL = """
    SELECT least(
        (SELECT min(due_at) FROM scheduled_dial WHERE queue_id = $2 AND due_at > $1),
        (SELECT min(ring_by) FROM scheduled_dial WHERE ring_by > $1),
        (SELECT min(ring_by) FROM dial_slot WHERE ring_by > $1),
        (SELECT min(until) FROM dial_slot WHERE until > $1 AND EXISTS (SELECT FROM scheduled_dial))
    ) AS at
"""
_FIND_OUTCOME_SQL = "SELECT execution, sid, problem ->> 'detail' AS problem FROM call WHERE id = $1"
_FIND_REDIALS_SQL = """
    SELECT id, not_before, ring_by FROM call JOIN scheduled_dial ON call_id = id WHERE redial_of = $1
"""


@dataclass(frozen=True, slots=True)
class CopiedSettings:
    """The settings that a rehearsal copies from a tenant, its oldest account and a queue.

    `tenant_hours` and `hours` are the calling hours of the tenant and of the queue, in JSON.
    """

    tenant_id: str | None = None
    tenant_hours: str | None = None
    account_id: UUID | None = None
    queue_id: UUID | None = None
    hours: str | None = None
    ring_within_s: int | None = None


@dataclass(frozen=True, slots=True)
class DialOutcome:
    """The state of a call after an attempt to dial it.

    `problem` says why the call was not started. It is None if the call was started or waits to be dialled again.
    """

    execution: str
    sid: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class WaitingRedial:
    """A redial (a new call after one that was busy or not answered) that waits to be dialled."""

    id: UUID
    not_before: datetime
    ring_by: datetime


async def find_settings(connection: Connection, tenant_id: str | None, queue: str | None) -> list[CopiedSettings]:
    """Returns the stored settings of each matching tenant (at most two), of its oldest account and of its queue.

    Returns an empty list if there is no such tenant or queue. If `tenant_id` is None, each tenant that has the queue matches.
    If `queue` is None, the settings of a queue are left out. The two must not both be None.
    """
    return [CopiedSettings(**row) for row in await connection.fetch(_FIND_SETTINGS_SQL, tenant_id, queue)]


async def replace_postgres_clock(connection: Connection) -> None:
    """Makes Postgres's time functions return the rehearsal's clock, in sessions that begin later.

    Also makes `gen_random_uuid` a counter, so that the ids of redials are predictable. Must run before the tables of Callgate
    are created.
    """
    for statement in _REPLACE_CLOCK_SQL:
        await connection.execute(statement)


async def add_tenant_and_queue(connection: Connection, copied: CopiedSettings, *, tenant_id: str, queue: str) -> UUID:
    """Inserts a tenant and its queue, with the calling hours and `ring_within_s` in `copied`. Returns the queue's id."""
    queue_id = uuid7()
    await connection.execute(_ADD_TENANT_SQL, tenant_id, copied.tenant_hours)
    await connection.execute(_ADD_QUEUE_SQL, queue_id, tenant_id, queue, copied.hours, copied.ring_within_s)
    return queue_id


async def set_clock(database: Database, at: datetime) -> None:
    await database.fetch("UPDATE rehearsal_clock SET at = $1", at)


async def next_event_time(database: Database, queue_id: UUID, after: datetime) -> datetime | None:
    """Returns the next time after `after` at which something happens to a call, or None if nothing does.

    At such a time, a call becomes due, reaches its `ring_by`, or no longer counts against the limits on concurrent calls.
    """
    rows: Sequence[Any] = await database.fetch(_NEXT_TIME_SQL, after, queue_id)
    at: datetime | None = rows[0]["at"]
    return at


async def read_dial_outcome(database: Database, call_id: UUID) -> DialOutcome:
    (row,) = await database.fetch(_FIND_OUTCOME_SQL, call_id)
    return DialOutcome(**row)


async def find_redials(database: Database, call_id: UUID) -> list[WaitingRedial]:
    """Returns the redial that waits after a call was busy or not answered, in a list; an empty list if there is no redial."""
    return [WaitingRedial(**row) for row in await database.fetch(_FIND_REDIALS_SQL, call_id)]
