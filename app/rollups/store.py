"""SQL that counts the figures (counts, latencies and prices of calls) of minutes and hours.

Functions run in the caller's transaction and never commit.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from asyncpg import QueryCanceledError

from app.calls.ids import lowest_call_id_at
from app.database.connection import Connection
from app.rollups.models import ALL_TENANTS, CANCELED_SQL, HAS_CALLBACK_SQL, PRICE_GIVEN_UP_SQL, callback_missing_sql
from app.rollups.periods import Period
from app.scheduling.accounts import accounts_with_rows_sql

LATENCY_BOUNDS_MS: Final = (50, 100, 150, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000)
"""The bounds of the buckets in which latencies are counted, in milliseconds.

The first bucket is below the first bound. The last bucket begins at the last bound. The other buckets are between two bounds.
"""
MAX_WAITING_CALLS_COUNTED: Final = 100_000
"""Maximum number of waiting calls that are counted for one account."""
_MAX_DELETED_ROWS: Final = 10_000

_BUCKET_COLUMNS: Final = tuple(f"bucket_{number}" for number in range(len(LATENCY_BOUNDS_MS) + 1))
_SQL_BY_CALL_FIGURE: Final = {
    **{
        name: f"count(*) FILTER (WHERE execution = '{name}')"
        for name in ("scheduled", "pending", "started", "not_started", "unknown")
    },
    "canceled": f"count(*) FILTER (WHERE {CANCELED_SQL})",
    "server_errors": "count(*) FILTER (WHERE had_server_error)",
    "callbacks": "coalesce(sum(cardinality(callbacks_seen)), 0)",
    "called_back": f"count(*) FILTER (WHERE {HAS_CALLBACK_SQL})",
    "callback_missing": "count(*) FILTER (WHERE is_callback_missing)",
    "unpriced": "count(*) FILTER (WHERE status = 'completed' AND price IS NULL)",
    "price_given_up": f"count(*) FILTER (WHERE {PRICE_GIVEN_UP_SQL})",
    **{name: f"count(*) FILTER (WHERE bucket = {number})" for number, name in enumerate(_BUCKET_COLUMNS)},
}
_STATE_BY_DELIVERY_FIGURE: Final = {"delivered": "delivered", "gave_up": "gave_up", "undelivered": "pending"}
_SUMMED_FIGURES: Final = (*_SQL_BY_CALL_FIGURE, *_STATE_BY_DELIVERY_FIGURE)
_STORED_FIGURES: Final = tuple(name for name in _SUMMED_FIGURES if name not in _BUCKET_COLUMNS)

_TENANT_OR_ALL_SQL: Final = f"CASE grouping(tenant_id) WHEN 0 THEN tenant_id ELSE '{ALL_TENANTS}' END"
# Only a creation that became unknown can have been answered with a 5xx, so few events are read.
_HAD_SERVER_ERROR_SQL: Final = """
    CASE WHEN execution = 'unknown' OR settled_by IN ('callback', 'list', 'none_found') THEN EXISTS (
        SELECT FROM call_event WHERE call_id = call.id AND at >= $1::timestamptz - interval '1 hour'
            AND type = 'call.unknown' AND data @? '$.attempts[*] ? (@.status >= 500)'
    ) ELSE false END
"""
# `pending_since` and `settled_at` are both by Postgres's clock. A problem has `upstream` only if Twilio has answered.
_LATENCY_BUCKET_SQL: Final = f"""
    CASE WHEN settled_by = 'response' AND (execution = 'started' OR problem ? 'upstream') THEN width_bucket(
        extract(epoch FROM settled_at - pending_since)::float8 * 1000, ARRAY[{", ".join(map(str, LATENCY_BOUNDS_MS))}]::float8[]
    ) END
"""
# $1 and $2: the period. $3 and $4: the ids of its calls. $5: its length in seconds. $6: whether Callgate has a public URL.
ROLL_UP_PERIOD_SQL: Final = f"""
    WITH part AS (
        SELECT tenant_id, price_unit, sum(-price) AS spent,
            {", ".join(f"{sql} AS {name}" for name, sql in _SQL_BY_CALL_FIGURE.items())}
        FROM (
            SELECT tenant_id, price_unit, price, execution, settled_by, status, callbacks_seen, refresh_at, deleted_at,
                {_LATENCY_BUCKET_SQL} AS bucket, {_HAD_SERVER_ERROR_SQL} AS had_server_error,
                {callback_missing_sql("$6")} AS is_callback_missing
            FROM call WHERE id >= $3::uuid AND id < $4::uuid
        ) AS requested GROUP BY tenant_id, price_unit
    ), money AS (
        SELECT tenant_id, jsonb_object_agg(price_unit, spent) AS spent FROM (
            SELECT {_TENANT_OR_ALL_SQL} AS tenant_id, coalesce(price_unit, '') AS price_unit, sum(spent) AS spent
            FROM part WHERE spent IS NOT NULL GROUP BY GROUPING SETS ((tenant_id, price_unit), (price_unit))
        ) AS by_currency GROUP BY tenant_id
    ), figure AS (
        SELECT tenant_id, {", ".join(_SQL_BY_CALL_FIGURE)}, 0 AS delivered, 0 AS gave_up, 0 AS undelivered FROM part
        UNION ALL
        SELECT tenant.id, {", ".join("0" for _ in _SQL_BY_CALL_FIGURE)}, written.*
        FROM tenant CROSS JOIN LATERAL (
            SELECT {", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in _STATE_BY_DELIVERY_FIGURE.values())}
            FROM delivery WHERE delivery.tenant_id = tenant.id AND at >= $1::timestamptz AND at < $2::timestamptz
            HAVING count(*) > 0
        ) AS written
        UNION ALL
        SELECT tenant_id, {", ".join("0" for _ in _SUMMED_FIGURES)} FROM rollup
        WHERE seconds = 60 AND start >= $1::timestamptz AND start < $2::timestamptz AND waiting > 0
            AND tenant_id <> '{ALL_TENANTS}'
    ), total AS (
        SELECT {_TENANT_OR_ALL_SQL} AS tenant_id, {", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _SUMMED_FIGURES)}
        FROM figure GROUP BY GROUPING SETS ((tenant_id), ())
    )
    INSERT INTO rollup (tenant_id, seconds, start, {", ".join(_STORED_FIGURES)}, latency, spent, waiting)
    SELECT total.tenant_id, $5::int, $1::timestamptz, {", ".join(_STORED_FIGURES)}, ARRAY[{", ".join(_BUCKET_COLUMNS)}],
        coalesce(money.spent, '{{}}'), (
            SELECT max(waiting) FROM rollup AS minute WHERE minute.tenant_id = total.tenant_id AND minute.seconds = 60
                AND minute.start >= $1::timestamptz AND minute.start < $2::timestamptz
        )
    FROM total LEFT JOIN money ON money.tenant_id = total.tenant_id
    ON CONFLICT (tenant_id, seconds, start) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in (*_STORED_FIGURES, "latency", "spent"))},
        waiting = greatest(rollup.waiting, excluded.waiting)
"""
_COUNT_WAITING_SQL: Final = f"""
    {accounts_with_rows_sql("scheduled_dial")}, counted AS (
        SELECT tenant_id, sum(number)::int AS number
        FROM account JOIN twilio_account ON twilio_account.id = account.account_id CROSS JOIN LATERAL (
            SELECT count(*) AS number FROM (
                SELECT FROM scheduled_dial AS dial WHERE dial.account_id = account.account_id LIMIT {MAX_WAITING_CALLS_COUNTED}
            ) AS own
        ) AS waiting GROUP BY tenant_id
    )
    INSERT INTO rollup (tenant_id, seconds, start, waiting)
    SELECT {_TENANT_OR_ALL_SQL}, 60, $1::timestamptz, coalesce(sum(number), 0)
    FROM counted GROUP BY GROUPING SETS ((tenant_id), ())
    ON CONFLICT (tenant_id, seconds, start) DO UPDATE SET waiting = excluded.waiting
"""
_RECORD_EMPTY_PERIODS_SQL: Final = f"""
    INSERT INTO rollup (tenant_id, seconds, start, latency)
    SELECT '{ALL_TENANTS}', seconds, start, array_fill(0, ARRAY[{len(_BUCKET_COLUMNS)}])
    FROM unnest($1::int[], $2::timestamptz[]) AS period (seconds, start)
    ON CONFLICT (tenant_id, seconds, start) DO UPDATE SET latency = excluded.latency WHERE rollup.latency IS NULL
"""
_LOCK_PROGRESS_SQL: Final = """
    SELECT rolled_until, date_trunc('minute', clock_timestamp()) AS now FROM rollup_progress WHERE id = 1
    FOR UPDATE SKIP LOCKED
"""
_DELETE_EXPIRED_SQL: Final = f"""
    DELETE FROM rollup WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM rollup WHERE seconds = $1 AND start < $2::timestamptz - $3::interval LIMIT {_MAX_DELETED_ROWS}
    ))
"""


@dataclass(frozen=True, slots=True)
class LockedProgress:
    """The time up to which figures are counted, from the locked row of RollupProgress, and the time now, in whole minutes."""

    rolled_until: datetime
    """All figures that were due by this time are counted."""
    now: datetime
    """The time at which the row was read, by Postgres's clock, cut to the minute."""


async def lock_rollup_progress(connection: Connection, *, first_span: timedelta) -> LockedProgress | None:
    """Locks the row of RollupProgress until the transaction ends, and returns it; None if another worker has locked the row.

    If there is no row, first inserts one with the time `first_span` ago, so that counting begins there.
    """
    await connection.execute(
        """INSERT INTO rollup_progress (rolled_until) SELECT date_trunc('minute', clock_timestamp()) - $1::interval
        WHERE NOT EXISTS (SELECT FROM rollup_progress) ON CONFLICT DO NOTHING""",
        first_span,
    )
    row = await connection.fetchrow(_LOCK_PROGRESS_SQL)
    return None if row is None else LockedProgress(**row)


async def record_rollup_progress(connection: Connection, rolled_until: datetime) -> None:
    await connection.execute("UPDATE rollup_progress SET rolled_until = $1 WHERE id = 1", rolled_until)


async def first_request_time(connection: Connection) -> datetime | None:
    """Returns when the oldest call was requested; None if there is no call."""
    first: datetime | None = await connection.fetchval("SELECT created_at FROM call ORDER BY id LIMIT 1")
    return first


async def record_empty_periods(connection: Connection, periods: Sequence[Period]) -> None:
    """Stores figures of 0, for all tenants together, for periods in which no call was requested. Keeps existing figures."""
    lengths = [period.length // timedelta(seconds=1) for period in periods]
    await connection.execute(_RECORD_EMPTY_PERIODS_SQL, lengths, [period.start for period in periods])


async def roll_up(connection: Connection, period: Period, *, has_public_url: bool) -> bool:
    """Counts and stores the figures of a period, for each tenant and for all tenants together.

    `has_public_url` says whether Twilio can send callbacks to Callgate. Returns False, and stores nothing, if the statement
    times out.
    """
    ids = lowest_call_id_at(period.start), lowest_call_id_at(period.end)
    seconds = period.length // timedelta(seconds=1)
    try:
        async with connection.transaction():
            await connection.execute(ROLL_UP_PERIOD_SQL, period.start, period.end, *ids, seconds, has_public_url)
    except QueryCanceledError:
        return False
    return True


async def record_waiting_call_count(connection: Connection, minute: datetime) -> None:
    """Counts the scheduled calls that wait now, for each tenant and for all tenants together.

    Stores the numbers among the figures of `minute`.
    """
    await connection.execute(_COUNT_WAITING_SQL, minute)


async def delete_expired_figures(
    connection: Connection, *, now: datetime, kept_for: Sequence[tuple[timedelta, timedelta]]
) -> None:
    """Deletes old figures, at most _MAX_DELETED_ROWS rows for each length of period.

    `kept_for` has a pair for each length of period: the length, and how long the figures of such periods are kept.
    """
    for length, kept in kept_for:
        await connection.execute(_DELETE_EXPIRED_SQL, length // timedelta(seconds=1), now, kept)
