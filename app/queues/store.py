"""SQL for queues, without SQLAlchemy. Functions run in the caller's transaction and never commit."""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import QueryCanceledError
from uuid_utils.compat import uuid7

from app.database.connection import Connection
from app.scheduling.hours import CallingHours, parse_calling_hours
from app.scheduling.pace_limits import DEFAULT_BURST, PaceLimits

QUEUE_COLUMNS: Final = f"""queue.id, queue.tenant_id, queue.name, queue.created_at, queue.updated_at, queue.paused, queue.hours,
    queue.ring_within_s, pace.calls_per_second, coalesce(pace.burst, {DEFAULT_BURST}), pace.max_concurrent"""
QUEUE_TABLES: Final = "queue LEFT JOIN pace ON pace.subject_id = queue.id"
# Less than `lock_timeout`. Counts are for people, so they must not load the database.
_COUNT_TIMEOUT: Final = "1500ms"


@dataclass(frozen=True, slots=True)
class QueueRow:
    id: UUID
    tenant_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    paused: bool
    hours: CallingHours | None
    """The hours in which calls of the queue may ring. If the value is None, the tenant's hours apply, if it has any."""
    ring_within_s: int | None
    pace: PaceLimits

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> "QueueRow":
        id_, tenant_id, name, created_at, updated_at, paused, hours, ring_within_s, *limits = row
        read = None if hours is None else parse_calling_hours(json.loads(hours))
        return cls(id_, tenant_id, name, created_at, updated_at, paused, read, ring_within_s, PaceLimits(*limits))


@dataclass(frozen=True, slots=True)
class WaitingCallsSummary:
    """The number of a queue's waiting calls, their earliest and latest `not_before`, and their latest `ring_by`.

    The times are None if no call waits.
    """

    number: int
    first_not_before: datetime | None
    last_not_before: datetime | None
    last_ring_by: datetime | None


@dataclass(frozen=True, slots=True)
class CallCounts:
    """The numbers of a queue's calls by `execution` (Callgate's state of a call), by Twilio's status, and by problem.

    A problem is the error for which a call was not started. The keys of `problem` are names such as `canceled-before-dial`.
    """

    execution: dict[str, int]
    status: dict[str, int]
    problem: dict[str, int]
    started_in_last_minute: int = 0


async def insert_queue(connection: Connection, *, tenant_id: str, name: str) -> bool:
    """Inserts a queue without limits, and returns True. Returns False if the tenant already has a queue of this name."""
    statement = """INSERT INTO queue (id, tenant_id, name) VALUES ($1, $2, $3)
        ON CONFLICT (tenant_id, name) DO NOTHING RETURNING id"""
    return await connection.fetchrow(statement, uuid7(), tenant_id, name) is not None


async def get_queue(connection: Connection, *, tenant_id: str, name: str) -> QueueRow | None:
    statement = f"SELECT {QUEUE_COLUMNS} FROM {QUEUE_TABLES} WHERE queue.tenant_id = $1 AND queue.name = $2"
    row = await connection.fetchrow(statement, tenant_id, name)
    return None if row is None else QueueRow.from_row(row)


async def lock_queue(connection: Connection, *, tenant_id: str, name: str) -> QueueRow | None:
    """Returns the queue, and locks its row until the transaction ends. Returns None if the tenant has no queue of this name."""
    statement = f"""SELECT {QUEUE_COLUMNS} FROM {QUEUE_TABLES} WHERE queue.tenant_id = $1 AND queue.name = $2
        FOR NO KEY UPDATE OF queue"""
    row = await connection.fetchrow(statement, tenant_id, name)
    return None if row is None else QueueRow.from_row(row)


async def update_queue(
    connection: Connection, queue_id: UUID, *, paused: bool, hours: CallingHours | None, ring_within_s: int | None
) -> None:
    statement = """UPDATE queue SET paused = $2, hours = $3::jsonb, ring_within_s = $4, updated_at = now() WHERE id = $1"""
    stored = None if hours is None else json.dumps(hours.to_json())
    await connection.execute(statement, queue_id, paused, stored, ring_within_s)


async def list_queues(connection: Connection, tenant_id: str, *, after: str | None, limit: int | None) -> list[QueueRow]:
    """Returns the tenant's queues, sorted by name. With `after`, returns only queues whose names come after this one."""
    statement = f"""SELECT {QUEUE_COLUMNS} FROM {QUEUE_TABLES} WHERE queue.tenant_id = $1
        AND ($2::text IS NULL OR queue.name > $2) ORDER BY queue.name LIMIT $3"""
    return [QueueRow.from_row(row) for row in await connection.fetch(statement, tenant_id, after, limit)]


async def list_waiting_calls(connection: Connection, queue_id: UUID, *, limit: int) -> list[UUID]:
    """Returns the ids of at most `limit` waiting calls of the queue, in no particular order."""
    rows = await connection.fetch("SELECT call_id FROM scheduled_dial WHERE queue_id = $1 LIMIT $2", queue_id, limit)
    return [row["call_id"] for row in rows]


async def count_waiting(connection: Connection, queue_id: UUID) -> WaitingCallsSummary | None:
    """Counts the waiting calls of the queue. Returns None if that takes longer than _COUNT_TIMEOUT."""
    statement = """SELECT count(*), min(not_before), max(not_before), max(ring_by) FROM scheduled_dial WHERE queue_id = $1"""
    rows = await _fetch_within_time_limit(connection, statement, queue_id)
    return None if rows is None else WaitingCallsSummary(*rows[0])


async def count_calls(connection: Connection, queue_id: UUID) -> CallCounts | None:
    """Counts all calls of the queue. Returns None if that takes longer than _COUNT_TIMEOUT."""
    statement = """SELECT execution, status, problem ->> 'slug', count(*),
            count(*) FILTER (WHERE execution = 'started' AND settled_at > now() - interval '1 minute')
        FROM call WHERE queue_id = $1 GROUP BY 1, 2, 3"""
    rows = await _fetch_within_time_limit(connection, statement, queue_id)
    if rows is None:
        return None
    counts = CallCounts({}, {}, {}, started_in_last_minute=sum(row[-1] for row in rows))
    for *values, number, _ in rows:
        for count, value in zip((counts.execution, counts.status, counts.problem), values, strict=True):
            if value is not None:
                count[value] = count.get(value, 0) + number
    return counts


async def _fetch_within_time_limit(connection: Connection, statement: str, *arguments: object) -> list[Any] | None:
    """Returns the rows of a statement, or None if the statement takes longer than _COUNT_TIMEOUT.

    If the statement succeeds, the same time limit applies to all later statements of the transaction.
    """
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = '{_COUNT_TIMEOUT}'")
            rows: list[Any] = await connection.fetch(statement, *arguments)
    except QueryCanceledError:
        return None
    return rows
