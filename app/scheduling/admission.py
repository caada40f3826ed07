"""Applies an account's pace (dialling limits) to calls that are not scheduled.

For scheduled calls, app.calls.creation.grants does this. If `calls_per_second` is set, a call takes a token of a token bucket.
If `max_concurrent` is set, a call takes a dial slot (a row that stands for one call under way). The account's row in `pace` is
locked before the clock is read. The number of slots in use is a column of this row (`in_use`), because a statement sees the
current version of a row that it has locked, but may see old versions of all other rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from app.database.connection import Connection
from app.scheduling.dial_slots import latest_call_end_sql
from app.scheduling.pace import allowed_call_count_sql, next_at_after_calls_sql, seconds_until_allowed_sql


@dataclass(frozen=True, slots=True)
class PaceRefusal:
    """The reason why a call may not be dialled now: the dialling limits of its account, and which of them is reached.

    The fields have the names of the columns in `_REFUSAL_COLUMNS`.
    """

    calls_per_second: Decimal | None
    burst: int
    max_concurrent: int | None
    is_full: bool
    """Whether the number of calls under way has reached `max_concurrent`."""
    wait_s: float | None
    """Seconds until `calls_per_second` allows a call. The value is None if a call is allowed now or this limit is not set."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(*(row[each.name] for each in fields(cls)))


_REFUSAL_COLUMNS = f"""calls_per_second, burst, max_concurrent, coalesce(in_use >= max_concurrent, false) AS is_full,
    {seconds_until_allowed_sql("pace.at")} AS wait_s"""

SELECT_ADMITTED_CALLS_CTES_SQL = f"""
    , locked AS MATERIALIZED (
        SELECT * FROM pace WHERE subject_id = ANY (ARRAY(SELECT account_id FROM given)) ORDER BY subject_id
        FOR UPDATE SKIP LOCKED
    ), paced AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS at FROM locked
    ), judged AS MATERIALIZED (
        SELECT placed.id, placed.account_id, pace.at,
            CASE WHEN pace.subject_id IS NOT NULL THEN place <= {allowed_call_count_sql("pace.at")}
                ELSE NOT EXISTS (SELECT FROM pace AS skipped WHERE skipped.subject_id = account_id) END AS is_admitted
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
"""SQL for CTEs that select, from the calls to create, those that the limits of their accounts allow now.

The CTE `given` has the calls to create, and the CTE `admitted` the allowed ones: the earliest calls of each account. A call
whose idempotency key already belongs to a stored call is left out, and does not count toward the limits. If another session has
locked an account's row in `pace`, no call of this account is admitted, so that the calls of other accounts do not wait.
"""

COUNT_ADMITTED_CALLS_SQL = f"""
    , counted AS MATERIALIZED (
        SELECT account_id, count(*) AS count FROM inserted JOIN judged USING (id) GROUP BY account_id
    ), left_over AS MATERIALIZED (
        SELECT subject_id, at, calls_per_second, burst, max_concurrent,
            {next_at_after_calls_sql("pace.at", "coalesce(count, 0)")} AS next_at,
            CASE WHEN max_concurrent IS NULL THEN in_use ELSE in_use + coalesce(count, 0) END AS in_use
        FROM paced AS pace LEFT JOIN counted ON account_id = subject_id
    ), updated_pace AS (
        UPDATE pace SET next_at = left_over.next_at, in_use = left_over.in_use
        FROM left_over JOIN counted ON account_id = left_over.subject_id WHERE pace.subject_id = left_over.subject_id
    ), new_slot AS (
        INSERT INTO dial_slot (call_id, account_id, granted_at, until)
        SELECT given.id, given.account_id, pace.at, {latest_call_end_sql("pace.at", "given.parameters")}
        FROM inserted JOIN given USING (id) JOIN paced AS pace ON subject_id = given.account_id WHERE max_concurrent IS NOT NULL
    )
    SELECT inserted.id, updated_at, false AS is_locked, {", ".join(f"NULL AS {each.name}" for each in fields(PaceRefusal))}
    FROM inserted
    UNION ALL
    SELECT judged.id, NULL, subject_id IS NULL, {_REFUSAL_COLUMNS}
    FROM judged LEFT JOIN left_over AS pace ON subject_id = account_id WHERE NOT is_admitted
"""  # noqa: S608  # constants of this package
"""SQL for CTEs that count each call in the CTE `inserted` toward the limits of its account, and for the final SELECT.

The SELECT returns a row for each inserted call, with `updated_at`, and a row for each refused call, with the columns of a
PaceRefusal. `is_locked` is true for a call that was not judged, because another session has locked the row of its account.
"""

_CHECK_LIMITS = f"""
    WITH pace AS MATERIALIZED (SELECT pace.*, clock_timestamp() AS at FROM pace WHERE subject_id = $1)
    SELECT {allowed_call_count_sql("pace.at")} > 0 AS has_room, {_REFUSAL_COLUMNS} FROM pace
"""  # noqa: S608  # constants of this package
_TAKE_TOKEN_AND_SLOT = f"""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at), slot AS (
        INSERT INTO dial_slot (call_id, account_id, granted_at, until)
        SELECT call.id, $1, at, {latest_call_end_sql("at", "parameters")}
        FROM call CROSS JOIN clock JOIN pace ON subject_id = $1 WHERE call.id = $2 AND max_concurrent IS NOT NULL
        ON CONFLICT (call_id) DO UPDATE
        SET account_id = excluded.account_id, queue_id = NULL, granted_at = excluded.granted_at, until = excluded.until
        RETURNING call_id
    )
    UPDATE pace SET next_at = {next_at_after_calls_sql("clock.at", "1")}, in_use = in_use + (SELECT count(*) FROM slot)
    FROM clock WHERE subject_id = $1
"""  # noqa: S608  # constants of this package


async def admit_reopened_call(connection: Connection, account_id: UUID, call_id: UUID) -> PaceRefusal | None:
    """Counts a reopened call toward the account's dialling limits, and returns None if they allow the call.

    A call is reopened to be dialled again after an earlier attempt did not start it. An allowed call takes a token if the call
    rate is limited, and a dial slot if the number of concurrent calls is limited. If a limit is reached, takes nothing and
    returns the refusal.

    Before this, the caller must do three things in the same transaction, in this order: lock the account's row in `pace`, free
    the slots of ended calls, and reopen the call. If the earlier attempt left a slot at another account, the slot moves to this
    account. The other account's `in_use` (its number of slots) is only corrected when its slots are freed the next time.
    """
    judged = await connection.fetchrow(_CHECK_LIMITS, account_id)
    if judged is None:
        return None
    if not judged["has_room"]:
        return PaceRefusal.from_row(judged)
    await connection.execute(_TAKE_TOKEN_AND_SLOT, account_id, call_id)
    return None
