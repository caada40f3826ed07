"""Calls by the million, made inside Postgres: a database that has served for a year, or, with fewer rows, for some days.

The table grows with age, as it does in service: the traffic is the same whatever the number of rows.
"""

import time
from collections.abc import Iterator

import psycopg
from psycopg import sql

from bench.rows_questions import MADE

TENANTS = 100
EVERY_MS = 3154
"""One call in so many milliseconds: ten million a year."""
RECENT = 200_000
"""Calls whose events and deliveries are there; older ones' would lie in partitions that nothing here touches."""
DUE = 4_000
"""The newest calls: these are to be refreshed, searched for or told."""
CHUNK = 250_000

_TENANTS = """
    INSERT INTO tenant (id, name)
    SELECT 'tenant-' || lpad(n::text, 2, '0'), 'Tenant ' || n FROM generate_series(0, %(tenants)s - 1) n;
    INSERT INTO twilio_account (id, tenant_id, account_sid) SELECT md5(id)::uuid, id, 'AC' || md5(id) FROM tenant
"""

# A fifth of the calls is the largest tenant's, the smallest has a three-hundredth. Half of a tenant's calls go to ten
# addresses, the other half to one of a hundredth as many as there are calls. `age` counts calls from the newest.
_CALLS = """
    INSERT INTO call (
        id, tenant_id, account_id, account_sid, created_at, updated_at, execution, settled_by, settled_at, pending_since,
        problem, idempotency_key, fingerprint, parameters, "to", "from", sid, status, direction, to_formatted, from_formatted,
        date_created, date_updated, start_time, end_time, duration, price, price_unit, api_version, parent_call_sid, uri,
        subresource_uris, resource, refresh_at, search_at, callback_sequence, callbacks_seen,
        address_key
    )
    SELECT
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
        tenant_id, account_id, account_sid, at, at + interval '90 s', execution,
        CASE WHEN execution IN ('started', 'not_started') THEN 'response' END,
        CASE WHEN execution IN ('started', 'not_started') THEN at + interval '1 s' END,
        at,
        CASE WHEN execution = 'not_started' THEN
            '{"slug": "upstream-rejected", "detail": "Refused.", "upstream": {"status": 400, "code": 21211}}'::jsonb END,
        CASE WHEN chance_c < 0.7 THEN 'order-' || substr(hash, 5, 24) END,
        decode(hash || md5(hash), 'hex'),
        jsonb_build_object('to', callee, 'from', caller, 'url', 'https://voice.example.com/flows/' || substr(hash, 1, 8),
                           'timeout', 30),
        callee, caller,
        CASE WHEN started THEN sid END,
        CASE WHEN started THEN status END,
        CASE WHEN started THEN 'outbound-api' END,
        CASE WHEN started THEN callee END,
        CASE WHEN started THEN caller END,
        CASE WHEN started THEN at + interval '1 s' END,
        CASE WHEN started THEN at + interval '90 s' END,
        CASE WHEN started THEN at + interval '8 s' END,
        CASE WHEN ended THEN at + interval '80 s' END,
        CASE WHEN ended THEN 72 END,
        CASE WHEN ended AND age > %(due)s THEN -0.0075 END,
        CASE WHEN started THEN 'USD' END,
        CASE WHEN started THEN '2010-04-01' END,
        CASE WHEN started AND chance_c < 0.001 THEN 'CA' || md5((n / 5000)::text || tenant_id) END,
        CASE WHEN started THEN path || '.json' END,
        CASE WHEN started THEN jsonb_build_object('recordings', path || '/Recordings.json') END,
        CASE WHEN started THEN %(resource)s::jsonb || jsonb_build_object(
            'sid', sid, 'to', callee, 'from', caller, 'status', status, 'account_sid', account_sid, 'uri', path || '.json') END,
        CASE WHEN started AND age <= %(due)s THEN %(now)s - interval '1 s' * (age + 1) END,
        CASE WHEN execution = 'unknown' THEN %(now)s - interval '1 s' * (age + 1) END,
        CASE WHEN ended THEN 3 END,
        CASE WHEN ended THEN ARRAY['0', '1', '2', '3'] ELSE ARRAY[]::text[] END,
        callee
    FROM (
        SELECT *, execution = 'started' AS started,
               execution = 'started' AND status NOT IN ('queued', 'ringing', 'in-progress') AS ended,
               'CA' || md5('sid' || hash) AS sid,
               '/2010-04-01/Accounts/' || account_sid || '/Calls/CA' || md5('sid' || hash) AS path
        FROM (
            SELECT drawn.*, account.id AS account_id, account.account_sid,
                   'sip:' || CASE WHEN chance_b < 0.5 THEN 'desk-' || floor(chance_b * 20)
                                  ELSE 'user-' || floor(chance_c * greatest(%(total)s / 100, 10)) END
                       || '@pbx.' || drawn.tenant_id || '.example.com' AS callee,
                   '+1555' || lpad(floor(chance_b * 4.999)::text, 7, '0') AS caller,
                   CASE WHEN age <= %(due)s AND age %% 100 = 0 THEN 'pending'
                        WHEN age <= 20000 AND age %% 10 = 3 THEN 'unknown'
                        WHEN chance_d < 0.04 THEN 'not_started' ELSE 'started' END AS execution,
                   CASE WHEN age <= 300 THEN (ARRAY['queued', 'ringing', 'in-progress'])[1 + age %% 3]
                        WHEN chance_d < 0.82 THEN 'completed' WHEN chance_d < 0.88 THEN 'busy'
                        WHEN chance_d < 0.95 THEN 'no-answer' WHEN chance_d < 0.98 THEN 'failed' ELSE 'canceled' END AS status
            FROM (
                SELECT n, %(total)s - n AS age, md5(n::text) AS hash,
                       %(now)s - (%(total)s - n) * %(every)s * interval '1 ms' AS at,
                       'tenant-' || lpad(floor(100 * power(random(), 3))::int::text, 2, '0') AS tenant_id,
                       random() AS chance_b, random() AS chance_c, random() AS chance_d
                FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
            ) AS drawn JOIN twilio_account account USING (tenant_id)
        ) AS decided
    ) AS shown
"""

_RESOURCE = """{"date_created": "Tue, 24 Nov 2026 12:00:01 +0000", "date_updated": "Tue, 24 Nov 2026 12:01:30 +0000",
    "start_time": "Tue, 24 Nov 2026 12:00:08 +0000", "end_time": "Tue, 24 Nov 2026 12:01:20 +0000", "duration": "72",
    "price": "-0.00750", "price_unit": "USD", "direction": "outbound-api", "api_version": "2010-04-01", "parent_call_sid": null,
    "answered_by": null, "queue_time": "0"}"""

_EVENTS = """
    INSERT INTO call_event (id, call_id, at, type, data)
    SELECT gen_random_uuid(), id, created_at + after * interval '1 s', type, data
    FROM (SELECT id, created_at FROM call ORDER BY id DESC LIMIT %(recent)s) AS recent CROSS JOIN (VALUES
        (0, 'call.pending', '{"attempt": 1}'::jsonb), (1, 'call.started', '{"attempts": [{"answer": 201, "ms": 180}]}'),
        (8, 'call.status', '{"status": "in-progress"}'), (80, 'call.status', '{"status": "completed"}')
    ) AS events (after, type, data)
"""

_DELIVERIES = """
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields, state, next_attempt_at,
                          attempts, delivered_at)
    SELECT gen_random_uuid(), id, created_at + interval '81 s', tenant_id, 'completed', 3, 'msg_' || id,
           'https://hooks.example.com/calls', 'POST', jsonb_build_object('CallSid', sid, 'CallStatus', status, 'Duration', '2'),
           CASE WHEN due THEN 'pending' ELSE 'delivered' END, CASE WHEN due THEN created_at + interval '81 s' END,
           CASE WHEN due THEN 0 ELSE 1 END, CASE WHEN NOT due THEN created_at + interval '82 s' END
    FROM (SELECT *, row_number() OVER (ORDER BY id DESC) <= %(due)s AS due FROM call
          WHERE execution = 'started' ORDER BY id DESC LIMIT %(recent)s) AS recent
"""


def load(url: str, rows: int, *, recent: int = RECENT) -> None:
    """Fill a migrated, empty database. Indexes are built when the rows are there, and nothing is written twice."""
    began = time.monotonic()
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # no look at the other table for each row
        connection.execute("SET maintenance_work_mem = '1GB'")
        now = connection.execute("SELECT now()").fetchone()
        assert now
        connection.execute(_TENANTS.replace("%(tenants)s", str(TENANTS)))
        rebuild = list(_without_indexes(connection))
        connection.execute("TRUNCATE call CASCADE")  # in the transaction of the rows, which spares their write-ahead log
        facts = {"total": rows, "now": now[0], "every": EVERY_MS, "due": DUE, "recent": recent, "resource": _RESOURCE}
        for first in range(1, rows + 1, CHUNK):
            last = min(first + CHUNK - 1, rows)
            connection.execute(_CALLS, facts | {"first": first, "last": last})
            print(f"  {last:>10,} calls after {time.monotonic() - began:,.0f} s", flush=True)
        for statement in rebuild:
            connection.execute(statement)
        print(f"  indexes after {time.monotonic() - began:,.0f} s", flush=True)
        _make_partitions(connection, rows)
        connection.execute(_EVENTS, facts)
        connection.execute(_DELIVERIES, facts)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    print(f"  ready after {time.monotonic() - began:,.0f} s", flush=True)


def _without_indexes(connection: psycopg.Connection) -> Iterator[sql.SQL | sql.Composed]:
    """Drop the indexes of `call`, and give what makes them again."""
    constraints = connection.execute("""
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'call'::regclass AND contype IN ('p', 'u') ORDER BY contype
    """).fetchall()
    indexes = connection.execute("""
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indrelid = 'call'::regclass
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u'))
    """).fetchall()
    for name, definition in constraints:
        connection.execute(sql.SQL("ALTER TABLE call DROP CONSTRAINT {} CASCADE").format(sql.Identifier(name)))
        yield sql.SQL("ALTER TABLE call ADD CONSTRAINT {} {}").format(sql.Identifier(name), sql.SQL(definition))
    for name, definition in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        yield sql.SQL(definition)


def freshen(url: str, rows: int) -> None:
    """As it was loaded, and with its indexes in memory: what an earlier run has made is taken away, what it dropped is made."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM call WHERE idempotency_key LIKE %s AND id > (SELECT id FROM call ORDER BY id DESC OFFSET %s LIMIT 1)",
            [f"{MADE}%", min(rows // 2, 500_000)],
        )
        _make_partitions(connection, rows)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        connection.execute("SELECT pg_prewarm(indexrelid::regclass) FROM pg_index WHERE indrelid = 'call'::regclass")


def _make_partitions(connection: psycopg.Connection, rows: int) -> None:
    """The months that the rows span and three more, as workers would have made them by and by."""
    months = rows * EVERY_MS // (30 * 86_400_000) + 1
    for table in ("call_event", "delivery"):
        connection.execute(f"""
            DO $$ DECLARE first date := date_trunc('month', now())::date; BEGIN
                FOR n IN {-months}..3 LOOP
                    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)',
                        to_char(first + n * interval '1 month', '"{table}_"YYYY_MM'),
                        first + n * interval '1 month', first + (n + 1) * interval '1 month');
                END LOOP;
            END $$
        """)
