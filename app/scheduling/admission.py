"""Applies an account's pace to calls that are placed at once. For scheduled calls, grants do (app.calls.creation.grants).

The account's row in `pace` is locked first, and the clock is read after that. Nothing else of the pace is read from tables: the
snapshot of a statement that waits for a lock is older than the lock, and only the locked row itself is up to date. This is why
`in_use` is a column of that row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from app.database.connection import Connection
from app.scheduling.dial_slots import until_sql
from app.scheduling.pace import next_at_sql, room_sql, wait_s_sql


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an account's pace admits no call now: its limits, and which is reached. The fields are `_REFUSAL_COLUMNS`."""

    calls_per_second: Decimal | None
    burst: int
    max_concurrent: int | None
    is_full: bool
    """Whether as many calls are under way as `max_concurrent` says."""
    wait_s: float | None
    """The seconds until the next token; None if there is one."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        return cls(*(row[each.name] for each in fields(cls)))


_REFUSAL_COLUMNS = f"""calls_per_second, burst, max_concurrent, coalesce(in_use >= max_concurrent, false) AS is_full,
    {wait_s_sql("pace.at")} AS wait_s"""

ADMISSION = f"""
    , locked AS MATERIALIZED (
        SELECT * FROM pace WHERE subject_id = ANY (ARRAY(SELECT account_id FROM given)) ORDER BY subject_id FOR UPDATE
    ), paced AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS at FROM locked
    ), judged AS MATERIALIZED (
        SELECT placed.id, placed.account_id, pace.at, pace.subject_id IS NULL OR place <= {room_sql("pace.at")} AS is_admitted
        FROM (
            SELECT id, account_id, row_number() OVER (PARTITION BY account_id ORDER BY id) AS place FROM given
            WHERE NOT EXISTS (
                SELECT FROM call WHERE call.tenant_id = given.tenant_id AND call.idempotency_key = given.idempotency_key
            )
        ) AS placed LEFT JOIN paced AS pace ON subject_id = account_id
    ), admitted AS (
        SELECT given.* FROM given JOIN judged USING (id) WHERE is_admitted
    )
"""  # noqa: S608  # constants of this package
"""CTEs that admit rows of `given`, as `admitted`: of each account the earliest. A row whose key is taken needs no token."""

ADMISSION_RESULT = f"""
    , counted AS MATERIALIZED (
        SELECT account_id, count(*) AS count FROM inserted JOIN judged USING (id) GROUP BY account_id
    ), left_over AS MATERIALIZED (
        SELECT subject_id, at, calls_per_second, burst, max_concurrent,
            {next_at_sql("pace.at", "coalesce(count, 0)")} AS next_at,
            CASE WHEN max_concurrent IS NULL THEN in_use ELSE in_use + coalesce(count, 0) END AS in_use
        FROM paced AS pace LEFT JOIN counted ON account_id = subject_id
    ), updated_pace AS (
        UPDATE pace SET next_at = left_over.next_at, in_use = left_over.in_use
        FROM left_over JOIN counted ON account_id = left_over.subject_id WHERE pace.subject_id = left_over.subject_id
    ), new_slot AS (
        INSERT INTO dial_slot (call_id, account_id, granted_at, until)
        SELECT given.id, given.account_id, pace.at, {until_sql("pace.at", "given.parameters")}
        FROM inserted JOIN given USING (id) JOIN paced AS pace ON subject_id = given.account_id WHERE max_concurrent IS NOT NULL
    )
    SELECT inserted.id, updated_at, {", ".join(f"NULL AS {each.name}" for each in fields(Refusal))} FROM inserted
    UNION ALL
    SELECT judged.id, NULL, {_REFUSAL_COLUMNS}
    FROM judged JOIN left_over AS pace ON subject_id = account_id WHERE NOT is_admitted
"""  # noqa: S608  # constants of this package
"""CTEs that take tokens and dial slots for the rows that were `inserted`, and the result: a time, or a Refusal's columns."""

_JUDGE = f"""
    WITH pace AS MATERIALIZED (SELECT pace.*, clock_timestamp() AS at FROM pace WHERE subject_id = $1)
    SELECT {room_sql("pace.at")} > 0 AS has_room, {_REFUSAL_COLUMNS} FROM pace
"""  # noqa: S608  # constants of this package
_TAKE = f"""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at), slot AS (
        INSERT INTO dial_slot (call_id, account_id, granted_at, until)
        SELECT call.id, $1, at, {until_sql("at", "parameters")}
        FROM call CROSS JOIN clock JOIN pace ON subject_id = $1 WHERE call.id = $2 AND max_concurrent IS NOT NULL
        ON CONFLICT (call_id) DO UPDATE
        SET account_id = excluded.account_id, queue_id = NULL, granted_at = excluded.granted_at, until = excluded.until
        RETURNING call_id
    )
    UPDATE pace SET next_at = {next_at_sql("clock.at", "1")}, in_use = in_use + (SELECT count(*) FROM slot)
    FROM clock WHERE subject_id = $1
"""  # noqa: S608  # constants of this package


async def admit(connection: Connection, account_id: UUID, call_id: UUID) -> Refusal | None:
    """Takes a token, and a dial slot, for one call that is dialled again. Returns a Refusal if the pace does not allow it.

    The transaction must have locked the account's row in `pace`, and freed ended slots before the call was reopened. An earlier
    attempt may have left a slot at another account; that account's count is set right when its ended slots are freed.
    """
    judged = await connection.fetchrow(_JUDGE, account_id)
    if judged is None:
        return None
    if not judged["has_room"]:
        return Refusal.of(judged)
    await connection.execute(_TAKE, account_id, call_id)
    return None
