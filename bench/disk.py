"""Measures the bytes that a call takes on disk, with all its rows and their indexes.

Few calls leave pages half empty, and many take long to place. So the calls of a run are copied inside Postgres, with new ids
and times, until there are enough; then the growth is divided by the number of copies. A copy has no dead rows. A database in
service has some: autovacuum leaves up to a fifth of a table.
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql

# A UUIDv7 begins with its time in milliseconds, by which rows and index entries are ordered.
_SHIFT_UUID = """
    CASE substr({column}::text, 15, 1) WHEN '7' THEN (
        lpad(to_hex(('x' || replace(left({column}::text, 13), '-', ''))::bit(48)::bigint + {shift_ms}), 12, '0')
        || substr(replace({column}::text, '-', ''), 13))::uuid
    ELSE md5({column}::text || {shift_ms})::uuid END
"""
_RENAMED = ("sid", "idempotency_key", "webhook_id")
_SIZES = """
    SELECT coalesce(pg_partition_root(oid), oid)::regclass::text, sum(pg_total_relation_size(oid))::bigint
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace GROUP BY 1
"""
_COLUMNS = """
    SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''
"""
_TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
        AND (relname = 'call' OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'call_id'))
"""


@dataclass(frozen=True)
class Disk:
    """Bytes per call by table, indexes included."""

    calls: int
    copied: dict[str, float]
    """The bytes of a copy, in which every row was written once."""
    left: dict[str, float]
    """The bytes that the run left: with dead rows, and with the pages that a table has from the beginning."""

    def rows(self) -> list[list[str]]:
        """Returns the rows of the result's table, the largest table first, with the sums at the end."""
        largest = sorted(self.copied, key=lambda table: -self.copied[table])
        shown = [[f"`{name}`", self.copied[name], self.left[name]] for name in largest if self.copied[name]]
        shown.append(["all", sum(self.copied.values()), sum(self.left.values())])
        return [[str(name), *(f"{size:,.0f}" for size in sizes)] for name, *sizes in shown]


def measure(url: str, calls: int) -> Disk:
    """Copies the calls of the database until there are at least so many, and returns what a copy takes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no check of foreign keys
        tables = [name for (name,) in connection.execute(_TABLES)]
        left = _sizes(connection)
        for table in tables:
            connection.execute(f"CREATE TEMP TABLE original_{table} AS SELECT * FROM {table}")  # noqa: S608 - from the catalog
        found = connection.execute("SELECT count(*), max(created_at) - min(created_at) FROM original_call").fetchone()
        assert found
        originals, span = found
        shift_ms = int(span.total_seconds() * 1000) + 1
        copies = -(-calls // originals)
        connection.execute("VACUUM FULL")
        before = _sizes(connection)
        inserts = [sql.SQL(_insert(connection, table)) for table in tables]
        for number in range(1, copies + 1):
            for insert in inserts:
                connection.execute(insert.format(shift_ms=number * shift_ms))
        connection.execute("VACUUM ANALYZE")
        after = _sizes(connection)
    return Disk(
        calls=copies * originals,
        copied={table: (after[table] - before[table]) / (copies * originals) for table in tables},
        left={table: left[table] / originals for table in tables},
    )


def _sizes(connection: psycopg.Connection) -> dict[str, int]:
    """Returns the bytes of each table, with those of its partitions."""
    return dict(connection.execute(_SIZES).fetchall())


def _insert(connection: psycopg.Connection, table: str) -> str:
    columns = connection.execute(_COLUMNS, [table]).fetchall()
    names = ", ".join(f'"{name}"' for name, _ in columns)
    values = ", ".join(_copied(name, kind) for name, kind in columns)
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM original_{table}"  # noqa: S608 - names from the catalog


def _copied(name: str, kind: str) -> str:
    """Returns the expression of a copy's column; `{shift_ms}` is left in it."""
    column = f'"{name}"'
    if kind == "uuid" and name in ("id", "call_id"):
        return _SHIFT_UUID.replace("{column}", column)
    if kind == "timestamp with time zone":
        return f"{column} + {{shift_ms}} * interval '1 ms'"
    if name in _RENAMED:
        return f"left({column}, 2) || md5({column} || {{shift_ms}})"
    return column
