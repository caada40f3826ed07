"""SQL of setting and reading the pace of accounts and queues, on asyncpg alone.

Functions run in the caller's transaction and never commit. `subject_id` is the id of an account or of a queue.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from app.database.connection import Connection
from app.scheduling.pace import next_at_for_rate_sql
from app.scheduling.pace_limits import PaceLimits

COLUMNS: Final = "calls_per_second, burst, max_concurrent"
_WRITE: Final = f"""
    UPDATE pace SET calls_per_second = $2, burst = $3, max_concurrent = $4, next_at = {next_at_for_rate_sql("clock.at", "$2")},
        in_use = (SELECT count(*) FROM dial_slot WHERE account_id = $1 OR queue_id = $1)
    FROM (SELECT clock_timestamp() AS at) AS clock WHERE subject_id = $1
"""


async def find_paces(connection: Connection, subject_ids: Sequence[UUID]) -> dict[UUID, PaceLimits]:
    """Returns the limits of those subjects that have any."""
    statement = f"SELECT subject_id, {COLUMNS} FROM pace WHERE subject_id = ANY ($1)"
    return paces_of(await connection.fetch(statement, subject_ids))


def paces_of(rows: Iterable[Sequence[Any]]) -> dict[UUID, PaceLimits]:
    """Returns the limits in rows of `subject_id` and COLUMNS, by subject, without those that limit nothing."""
    paces = {subject_id: PaceLimits(*limits) for subject_id, *limits in rows}
    return {subject_id: limits for subject_id, limits in paces.items() if limits.is_limited}


async def lock_pace(connection: Connection, subject_id: UUID) -> PaceLimits:
    """Locks the subject's row until the transaction ends, so that no grant of it begins, and returns the limits.

    Inserts a row without limits if there is none, because only a row can be locked.
    """
    await connection.execute("INSERT INTO pace (subject_id) VALUES ($1) ON CONFLICT (subject_id) DO NOTHING", subject_id)
    statement = f"SELECT {COLUMNS} FROM pace WHERE subject_id = $1 FOR NO KEY UPDATE"
    return PaceLimits(*await connection.fetchrow(statement, subject_id))


async def write_pace(connection: Connection, subject_id: UUID, limits: PaceLimits) -> None:
    """Sets the limits of a subject that `lock_pace` has locked.

    Calls that were granted before count as concurrent calls. A higher pace applies at once to the wait that a lower one left
    behind.
    """
    await connection.execute(_WRITE, subject_id, limits.calls_per_second, limits.burst, limits.max_concurrent)
