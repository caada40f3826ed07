"""Measures the bytes that a call takes on disk, with all its rows and their indexes.

Few calls would leave the database's pages half empty, and many calls would take long to place. So the calls of a run are copied
inside Postgres, with new ids and times, until there are enough calls. The growth of the tables is then divided by the number of
copies. The copies have no dead rows. A database in service has some, because autovacuum leaves up to a fifth of a table.
"""

from collections import defaultdict
from dataclasses import dataclass

import psycopg
from psycopg import sql

# A UUIDv7 begins with its time in milliseconds, by which rows and index entries are ordered.
_SHIFT_UUID_SQL = """
    CASE substr({column}::text, 15, 1) WHEN '7' THEN (
        lpad(to_hex(('x' || replace(left({column}::text, 13), '-', ''))::bit(48)::bigint + {shift_ms}), 12, '0')
        || substr(replace({column}::text, '-', ''), 13))::uuid
    ELSE md5({column}::text || {shift_ms})::uuid END
"""
_UNIQUE_COLUMNS = ("sid", "idempotency_key", "webhook_id")
_SIZES_SQL = """
    WITH stored AS (
        SELECT oid, reltoastrelid AS toast FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    ), part AS (
        SELECT oid, 'rows' AS part, pg_table_size(oid) - coalesce(pg_total_relation_size(nullif(toast, 0)), 0) AS bytes
        FROM stored
        UNION ALL SELECT oid, 'long values', pg_total_relation_size(toast) FROM stored WHERE toast <> 0
        UNION ALL SELECT indrelid, coalesce(pg_partition_root(indexrelid), indexrelid)::regclass::text,
            pg_total_relation_size(indexrelid) FROM pg_index JOIN stored ON stored.oid = indrelid
    )
    SELECT coalesce(pg_partition_root(oid), oid)::regclass::text, part, sum(bytes)::bigint FROM part GROUP BY 1, 2
"""
_COLUMNS_SQL = """
    SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''
"""
_TABLES_SQL = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
        AND (relname = 'call' OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'call_id'))
"""


@dataclass(frozen=True)
class DiskUsage:
    """The bytes that a call takes on disk, by table."""

    calls: int
    """The number of copied calls."""
    copied: dict[str, dict[str, float]]
    """The bytes of one copied call, by table and part (its rows, or an index). Every row was written only once."""
    before_copying: dict[str, dict[str, float]]
    """The bytes per call before the copying, by table and part. They include dead rows, and the first pages of each table."""
    columns: dict[str, dict[str, float]]
    """The bytes of one call's values, by table and column. The headers of rows and pages are not included."""

    @property
    def total(self) -> float:
        return sum(sum(parts.values()) for parts in self.copied.values())

    def rows(self) -> list[list[str]]:
        """Returns the rows of the result: each table with its parts below it, the largest first, and the total at the end."""
        shown: list[tuple[str, float, float]] = []
        for table, parts in sorted(self.copied.items(), key=lambda item: -sum(item[1].values())):
            if not (whole := sum(parts.values())):
                continue
            left = self.before_copying[table]
            shown.append((f"`{table}`", whole, sum(left.values())))
            largest = sorted((part for part in parts if parts[part]), key=lambda part: -parts[part])
            shown += [(f"– {part}", parts[part], left[part]) for part in largest]
        shown.append(("all", self.total, sum(sum(parts.values()) for parts in self.before_copying.values())))
        return [[name, *(f"{size:,.0f}" for size in sizes)] for name, *sizes in shown]

    def column_rows(self) -> list[list[str]]:
        """Returns the name and the bytes of each column that takes at least 1 % of all bytes, the largest first."""
        all_ = [(table, column, size) for table, columns in self.columns.items() for column, size in columns.items()]
        all_.sort(key=lambda each: -each[2])
        return [[f"`{table}.{column}`", f"{size:,.0f}"] for table, column, size in all_ if size >= self.total / 100]


def measure(url: str, calls: int) -> DiskUsage:
    """Copies the calls of the database until there are at least `calls` copies. Returns the bytes that one copy takes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no check of foreign keys
        tables = [name for (name,) in connection.execute(_TABLES_SQL)]
        left = _sizes(connection)
        for table in tables:
            connection.execute(f"CREATE TEMP TABLE original_{table} AS SELECT * FROM {table}")  # noqa: S608 - from the catalog
        found = connection.execute("SELECT count(*), max(created_at) - min(created_at) FROM original_call").fetchone()
        assert found
        originals, span = found
        shift_ms = int(span.total_seconds() * 1000) + 1
        copies = -(-calls // originals)
        # Only these tables: VACUUM FULL of the catalogs that all databases share would keep every new connection waiting.
        named = sql.SQL(", ").join(map(sql.Identifier, tables))
        connection.execute(sql.SQL("VACUUM FULL {}").format(named))
        before = _sizes(connection)
        inserts = [sql.SQL(_copy_statement(connection, table)) for table in tables]
        for number in range(1, copies + 1):
            for insert in inserts:
                connection.execute(insert.format(shift_ms=number * shift_ms))
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(named))
        after = _sizes(connection)
        columns = {table: _column_sizes(connection, table, originals * (copies + 1)) for table in tables}
    copied = {
        table: {part: (size - before[table].get(part, 0)) / (copies * originals) for part, size in after[table].items()}
        for table in tables
    }
    return DiskUsage(
        calls=copies * originals,
        copied=copied,
        before_copying={table: {part: left[table].get(part, 0) / originals for part in copied[table]} for table in tables},
        columns=columns,
    )


def _sizes(connection: psycopg.Connection) -> dict[str, dict[str, int]]:
    """Returns the bytes of each table by part, such as rows or an index. A table includes its partitions."""
    sizes: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for table, part, size in connection.execute(_SIZES_SQL):
        sizes[table][part] = size
    return sizes


def _column_sizes(connection: psycopg.Connection, table: str, calls: int) -> dict[str, float]:
    names = [name for name, _ in connection.execute(_COLUMNS_SQL, [table])]
    sums = ", ".join(f'coalesce(sum(pg_column_size("{name}")), 0)::float8 / {calls}' for name in names)
    sizes = connection.execute(f"SELECT {sums} FROM {table}").fetchone()  # noqa: S608 - names from the catalog
    assert sizes
    return dict(zip(names, sizes, strict=True))


def _copy_statement(connection: psycopg.Connection, table: str) -> str:
    columns = connection.execute(_COLUMNS_SQL, [table]).fetchall()
    names = ", ".join(f'"{name}"' for name, _ in columns)
    values = ", ".join(_copy_expression(name, kind) for name, kind in columns)
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM original_{table}"  # noqa: S608 - names from the catalog


def _copy_expression(name: str, kind: str) -> str:
    """Returns the SQL expression for a column of a copied row. `{shift_ms}` in the expression is replaced later."""
    column = f'"{name}"'
    if kind == "uuid" and name in ("id", "call_id"):
        return _SHIFT_UUID_SQL.replace("{column}", column)
    if kind == "timestamp with time zone":
        return f"{column} + {{shift_ms}} * interval '1 ms'"
    if name in _UNIQUE_COLUMNS:
        return f"left({column}, 2) || md5({column} || {{shift_ms}})"
    return column
