"""Fills a database with millions of calls inside Postgres, as if it had served for a year or, with fewer rows, for some days.

The number of calls per day is always the same. So a table with more rows covers a longer time, as it does in service.
"""

import time

import psycopg

from app.jobs.partitions import MONTHS_AHEAD, PARTITIONED_TABLES

# A call every so many milliseconds: ten million a year.
CALL_EVERY_MS = 3154
# The newest calls: these are due to be refreshed, searched for or delivered.
DUE_CALLS = 4_000

_TENANTS_SQL = """
    INSERT INTO tenant (id, name)
    SELECT 'tenant-' || lpad(n::text, 2, '0'), 'Tenant ' || n FROM generate_series(0, 99) AS n
"""
_ACCOUNTS_SQL = "INSERT INTO twilio_account (id, tenant_id, account_sid) SELECT md5(id)::uuid, id, 'AC' || md5(id) FROM tenant"

# A fifth of the calls is the largest tenant's, the smallest has a three-hundredth. Half of a tenant's calls go to ten
# addresses, the other half to one of `rows` / 100 addresses at random. One call in a thousand has a parent. `age` counts
# calls from the newest. Columns that no statement looks at are left empty.
_CALLS_SQL = """
    INSERT INTO call (
        id, tenant_id, account_id, account_sid, created_at, pending_since, execution, idempotency_key, fingerprint, parameters,
        "to", "from", address_key, search_at, sid, status, start_time, end_time, parent_call_sid, refresh_at
    )
    SELECT
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || left(hash, 3) || '8' || right(hash, 15))::uuid,
        tenant_id, account.id, account_sid, at, at, execution, CASE WHEN c < 0.7 THEN 'order-' || left(hash, 24) END,
        decode(hash || md5(hash), 'hex'), jsonb_build_object('to', called, 'from', calling, 'url', 'https://example.com/flow'),
        called, calling, called, CASE execution WHEN 'unknown' THEN due_at END, started.*
    FROM (
        SELECT %(rows)s - n AS age, md5(n::text) AS hash, random() AS b, random() AS c, random() AS d,
               now() - (%(rows)s - n) * %(every)s * interval '1 ms' AS at,
               now() - (%(rows)s - n + 1) * interval '1 s' AS due_at,
               'tenant-' || lpad(floor(100 * power(random(), 3))::int::text, 2, '0') AS tenant_id
        FROM generate_series(1, %(rows)s::bigint) AS n
    ) AS drawn
    JOIN twilio_account AS account USING (tenant_id)
    CROSS JOIN LATERAL (SELECT
        'sip:' || CASE WHEN b < 0.5 THEN 'desk-' || floor(b * 20) ELSE 'user-' || floor(c * greatest(%(rows)s / 100, 10)) END
            || '@pbx.' || tenant_id || '.example.com' AS called,
        '+1555' || lpad(floor(b * 4.999)::text, 7, '0') AS calling,
        CASE WHEN age <= %(due)s AND age %% 100 = 0 THEN 'pending' WHEN age <= 20000 AND age %% 10 = 3 THEN 'unknown'
             WHEN d < 0.04 THEN 'not_started' ELSE 'started' END AS execution,
        CASE WHEN age <= 300 THEN (ARRAY['queued', 'ringing', 'in-progress'])[1 + age %% 3]
             WHEN d < 0.82 THEN 'completed' WHEN d < 0.88 THEN 'busy' WHEN d < 0.95 THEN 'no-answer'
             WHEN d < 0.98 THEN 'failed' ELSE 'canceled' END AS state,
        'CA' || md5('sid' || hash) AS call_sid
    ) AS decided
    LEFT JOIN LATERAL (SELECT
        call_sid, state, at + interval '8 s', CASE WHEN age > 300 THEN at + interval '80 s' END,
        CASE WHEN c < 0.001 THEN 'CA-' || tenant_id || '-' || floor(c * %(rows)s / 100) END,
        CASE WHEN age <= %(due)s THEN due_at END
        WHERE execution = 'started'
    ) AS started ON true
"""

_DELIVERIES_SQL = """
    WITH ended AS (
        INSERT INTO call_event (id, call_id, at, type, data)
        SELECT gen_random_uuid(), id, created_at + interval '80 s', 'call.status', '{"status": "completed"}'
        FROM call WHERE execution = 'started' ORDER BY id DESC LIMIT %(recent)s RETURNING id, call_id, at
    )
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position, state, next_attempt_at, attempts, delivered_at)
    SELECT id, call_id, at, tenant_id, 'completed', 3, state, CASE state WHEN 'pending' THEN at END,
           (state = 'delivered')::int, CASE state WHEN 'delivered' THEN at + interval '1 s' END
    FROM (SELECT ended.*, tenant_id,
                 CASE WHEN row_number() OVER (ORDER BY call_id DESC) <= %(due)s THEN 'pending' ELSE 'delivered' END AS state
          FROM ended JOIN call ON call.id = call_id) AS made
"""

# Creates the partitions of the months that the calls span, and of some more months, as workers create them over time.
_PARTITIONS_SQL = """
    SELECT format('CREATE TABLE IF NOT EXISTS %%1$s_%%2$s PARTITION OF %%1$s FOR VALUES FROM (%%3$L) TO (%%4$L)',
        name, to_char(month, 'YYYY_MM'), month::date, (month + interval '1 month')::date)
    FROM unnest(%s::text[]) AS name, generate_series(
        date_trunc('month', now() - %s * interval '1 ms'), now() + %s * interval '1 month', interval '1 month') AS month
"""


def load_calls(url: str, rows: int, *, recent: int = 200_000) -> None:
    """Fills a migrated, empty database with `rows` calls, and reads the indexes of the table `call` into memory.

    Only the newest `recent` started calls get an event and a delivery, because the benches read no older ones.
    """
    began = time.monotonic()
    values = {"rows": rows, "every": CALL_EVERY_MS, "due": DUE_CALLS, "recent": recent}
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # no check of foreign keys
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("TRUNCATE call CASCADE")  # rows of the same transaction need no write-ahead log
        # REINDEX makes them ready again: building an index is faster than maintaining it.
        connection.execute("UPDATE pg_index SET indisready = false WHERE indrelid = 'call'::regclass")
        for statement in (_TENANTS_SQL, _ACCOUNTS_SQL, _CALLS_SQL, "REINDEX TABLE call"):
            connection.execute(statement, values)
        for (statement,) in connection.execute(
            _PARTITIONS_SQL, [list(PARTITIONED_TABLES), rows * CALL_EVERY_MS, MONTHS_AHEAD]
        ).fetchall():
            connection.execute(statement)
        connection.execute(_DELIVERIES_SQL, values)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CREATE EXTENSION pg_prewarm; CREATE EXTENSION pg_stat_statements")
        connection.execute("SELECT pg_prewarm(indexrelid::regclass) FROM pg_index WHERE indrelid = 'call'::regclass")
    print(f"{rows:,} calls loaded in {time.monotonic() - began:,.0f} s", flush=True)
