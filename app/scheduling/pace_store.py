"""SQL that sets and reads the pace (dialling limits) of accounts and queues, without SQLAlchemy.

Functions run in the caller's transaction and never commit. `subject_id` is the id of an account or of a queue.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from app.database.connection import Connection
from app.scheduling.pace import next_at_after_rate_change_sql
from app.scheduling.pace_limits import PaceLimits

PACE_LIMIT_COLUMNS_SQL: Final = "calls_per_second, burst, max_concurrent"
_WRITE_PACE: Final = f"""
    UPDATE pace SET calls_per_second = $2, burst = $3, max_concurrent = $4,
        next_at = {next_at_after_rate_change_sql("clock.at", "$2", "$3::int")},
        in_use = (SELECT count(*) FROM dial_slot WHERE account_id = $1 OR queue_id = $1)
    FROM (SELECT clock_timestamp() AS at) AS clock WHERE subject_id = $1
"""


async def find_paces(connection: Connection, subject_ids: Sequence[UUID]) -> dict[UUID, PaceLimits]:
    """Returns the dialling limits of accounts and queues, by account or queue id. Those without limits are left out."""
    statement = f"SELECT subject_id, {PACE_LIMIT_COLUMNS_SQL} FROM pace WHERE subject_id = ANY ($1)"
    return pace_limits_by_account_or_queue(await connection.fetch(statement, subject_ids))


def pace_limits_by_account_or_queue(rows: Iterable[Sequence[Any]]) -> dict[UUID, PaceLimits]:
    """Returns dialling limits by `subject_id`, the id of an account or a queue. Rows without limits are left out.

    The columns of `rows` are `subject_id` and PACE_LIMIT_COLUMNS_SQL.
    """
    paces = {subject_id: PaceLimits(*limits) for subject_id, *limits in rows}
    return {subject_id: limits for subject_id, limits in paces.items() if limits.is_limited}


async def insert_pace_if_missing(connection: Connection, subject_id: UUID) -> None:
    """Inserts a row of `pace` without limits for the account or queue, if it has no row yet.

    Does not wait for a locked row, but waits for another session that is inserting the row.
    """
    await connection.execute("INSERT INTO pace (subject_id) VALUES ($1) ON CONFLICT (subject_id) DO NOTHING", subject_id)


async def lock_pace(connection: Connection, subject_id: UUID) -> PaceLimits:
    """Returns the dialling limits of an account or a queue, and locks their row until the transaction ends.

    While the row is locked, no worker takes the right to dial a scheduled call of the account or queue. If there is no row,
    inserts one without limits, because a missing row cannot be locked.
    """
    await insert_pace_if_missing(connection, subject_id)
    statement = f"SELECT {PACE_LIMIT_COLUMNS_SQL} FROM pace WHERE subject_id = $1 FOR NO KEY UPDATE"
    return PaceLimits(*await connection.fetchrow(statement, subject_id))


async def write_pace(connection: Connection, subject_id: UUID, limits: PaceLimits) -> None:
    """Sets the dialling limits of an account or a queue. The caller must have locked their row with `lock_pace`.

    Calls that are already under way count toward a new `max_concurrent`, and calls that were dialled before toward a new rate
    and burst.
    """
    await connection.execute(_WRITE_PACE, subject_id, limits.calls_per_second, limits.burst, limits.max_concurrent)
