"""Makes calls by the million inside Postgres: a database that has served for a year or, with fewer rows, for some days.

The table grows with age, as it does in service: the traffic is the same whatever the number of rows.
"""

import time

import psycopg

from bench.rows_questions import MADE

TENANTS = 100
EVERY_MS = 3154
"""One call in so many milliseconds: ten million a year."""
RECENT = 200_000
"""Calls whose events and deliveries are there; older ones' would lie in partitions that nothing here touches."""
DUE = 4_000
"""The newest calls: these are due to be refreshed, searched for or delivered."""
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
        id, tenant_id, account_id, account_sid, created_at, updated_at, pending_since, execution, settled_by, settled_at,
        problem, idempotency_key, fingerprint, parameters, "to", "from", address_key, search_at,
        sid, status, direction, to_formatted, from_formatted, date_created, date_updated, start_time, price_unit, api_version,
        parent_call_sid, uri, subresource_uris, resource, refresh_at,
        end_time, duration, price, callback_sequence, callbacks_seen
    )
    SELECT
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
        tenant_id, account.id, account_sid, at, at + interval '90 s', at, execution,
        CASE WHEN execution IN ('started', 'not_started') THEN 'response' END,
        CASE WHEN execution IN ('started', 'not_started') THEN at + interval '1 s' END,
        CASE WHEN execution = 'not_started' THEN
            '{"slug": "upstream-rejected", "detail": "Refused.", "upstream": {"status": 400, "code": 21211}}'::jsonb END,
        CASE WHEN c < 0.7 THEN 'order-' || substr(hash, 5, 24) END,
        decode(hash || md5(hash), 'hex'),
        jsonb_build_object('to', called, 'from', calling, 'url', 'https://voice.example.com/flows/' || substr(hash, 1, 8),
                           'timeout', 30),
        called, calling, called, CASE WHEN execution = 'unknown' THEN due_at END,
        started.*, ended.*,
        CASE WHEN ended.callback_sequence = 3 THEN ARRAY['0', '1', '2', '3'] ELSE ARRAY[]::text[] END
    FROM (
        SELECT %(total)s - n AS age, n, md5(n::text) AS hash,
               %(now)s - (%(total)s - n) * %(every)s * interval '1 ms' AS at,
               %(now)s - (%(total)s - n + 1) * interval '1 s' AS due_at,
               'tenant-' || lpad(floor(100 * power(random(), 3))::int::text, 2, '0') AS tenant_id,
               random() AS b, random() AS c, random() AS d
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    ) AS drawn
    JOIN twilio_account AS account USING (tenant_id)
    CROSS JOIN LATERAL (SELECT
        'sip:' || CASE WHEN b < 0.5 THEN 'desk-' || floor(b * 20) ELSE 'user-' || floor(c * greatest(%(total)s / 100, 10)) END
            || '@pbx.' || tenant_id || '.example.com' AS called,
        '+1555' || lpad(floor(b * 4.999)::text, 7, '0') AS calling,
        CASE WHEN age <= %(due)s AND age %% 100 = 0 THEN 'pending' WHEN age <= 20000 AND age %% 10 = 3 THEN 'unknown'
             WHEN d < 0.04 THEN 'not_started' ELSE 'started' END AS execution,
        CASE WHEN age <= 300 THEN (ARRAY['queued', 'ringing', 'in-progress'])[1 + age %% 3]
             WHEN d < 0.82 THEN 'completed' WHEN d < 0.88 THEN 'busy' WHEN d < 0.95 THEN 'no-answer'
             WHEN d < 0.98 THEN 'failed' ELSE 'canceled' END AS state,
        'CA' || md5('sid' || hash) AS call_sid,
        '/2010-04-01/Accounts/' || account_sid || '/Calls/CA' || md5('sid' || hash) AS path
    ) AS decided
    LEFT JOIN LATERAL (SELECT
        call_sid, state, 'outbound-api', called AS to_formatted, calling AS from_formatted,
        at + interval '1 s', at + interval '90 s', at + interval '8 s', 'USD', '2010-04-01',
        CASE WHEN c < 0.001 THEN 'CA' || md5((n / 5000)::text || tenant_id) END, path || '.json',
        jsonb_build_object('recordings', path || '/Recordings.json'),
        %(resource)s::jsonb || jsonb_build_object(
            'sid', call_sid, 'to', called, 'from', calling, 'status', state, 'account_sid', account_sid,
            'uri', path || '.json'),
        CASE WHEN age <= %(due)s THEN due_at END
        WHERE execution = 'started'
    ) AS started ON true
    LEFT JOIN LATERAL (
        SELECT at + interval '80 s', 72, CASE WHEN age > %(due)s THEN -0.0075 END, 3 AS callback_sequence
        WHERE execution = 'started' AND decided.state NOT IN ('queued', 'ringing', 'in-progress')
    ) AS ended ON true
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


# Statements that drop the indexes of `call`, constraints first, and those that make them again.
_INDEXES = """
    SELECT format('ALTER TABLE call DROP CONSTRAINT %I CASCADE', conname),
           format('ALTER TABLE call ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE conrelid = 'call'::regclass AND contype IN ('p', 'u')
    UNION ALL SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = 'call'::regclass
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u'))
"""

# The months that the rows span and three more, as workers would have made them over time.
_PARTITIONS = """
    DO $$ DECLARE month date; part text; BEGIN
        FOR month, part IN SELECT (date_trunc('month', now()) + n * interval '1 month')::date, t
            FROM generate_series(-%s, 3) AS n, unnest(ARRAY['call_event', 'delivery']) AS t
        LOOP
            EXECUTE format('CREATE TABLE IF NOT EXISTS %%I PARTITION OF %%I FOR VALUES FROM (%%L) TO (%%L)',
                part || to_char(month, '_YYYY_MM'), part, month, (month + interval '1 month')::date);
        END LOOP;
    END $$
"""


def load(url: str, rows: int, *, recent: int = RECENT) -> None:
    """Fills a migrated, empty database. Indexes are built after the rows are there, so that nothing is written twice."""
    began = time.monotonic()
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # no check of foreign keys
        connection.execute("SET maintenance_work_mem = '1GB'")
        now = connection.execute("SELECT now()").fetchone()
        assert now
        facts = {"total": rows, "now": now[0], "every": EVERY_MS, "due": DUE, "recent": recent, "resource": _RESOURCE}
        connection.execute(_TENANTS.replace("%(tenants)s", str(TENANTS)))
        indexes = connection.execute(_INDEXES).fetchall()
        for drop, _ in indexes:
            connection.execute(drop)
        connection.execute("TRUNCATE call CASCADE")  # rows of the same transaction need no write-ahead log
        for first in range(1, rows + 1, CHUNK):
            last = min(first + CHUNK - 1, rows)
            connection.execute(_CALLS, facts | {"first": first, "last": last})
            print(f"  {last:>10,} calls after {time.monotonic() - began:,.0f} s", flush=True)
        for _, create in indexes:
            connection.execute(create)
        _make_partitions(connection, rows)
        connection.execute(_EVENTS, facts)
        connection.execute(_DELIVERIES, facts)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    print(f"  ready after {time.monotonic() - began:,.0f} s", flush=True)


def freshen(url: str, rows: int) -> None:
    """Removes what an earlier run has added, makes the partitions that it dropped, and reads the indexes into memory."""
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
    connection.execute(_PARTITIONS % (rows * EVERY_MS // (30 * 86_400_000) + 1))
