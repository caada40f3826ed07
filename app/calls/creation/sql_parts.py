"""Builds parts of the SQL statements that write many calls at once, and the JSON rows that they read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_json
from uuid_utils import uuid7

from app.calls.store import insert_deliveries_sql


def json_seconds_as_interval_sql(name: str, *, json_value: str = "given") -> str:
    """Returns SQL that converts a number of seconds in a JSON object to an interval.

    `json_value` is SQL for the object, and `name` is the member with the number.
    """
    return f"make_interval(secs => ({json_value} ->> '{name}')::float8)"


def quoted_columns_sql(columns: Sequence[str], prefix: str = "") -> str:
    """Returns the column names in double quotes, each after `prefix`, joined by commas."""
    return ", ".join(f'{prefix}"{column}"' for column in columns)


def json_rows_sql(*extra_columns: str) -> str:
    """Returns SQL that reads the JSON array $1 as rows with the columns of `call`, of one event, and `extra_columns` (SQL)."""
    event = ("(given ->> 'event_id')::uuid AS event_id", "given ->> 'event' AS event", "given -> 'data' AS data")
    return f"""SELECT {", ".join(("wanted.*", *event, *extra_columns))}
        FROM jsonb_array_elements($1::jsonb) AS given, jsonb_populate_record(NULL::call, given) AS wanted"""  # noqa: S608  # own names


def rows_with_event_ids_as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a JSON array, the parameter $1 of `json_rows_sql`. Gives each row a new UUIDv7 `event_id`."""
    return to_json([{**row, "event_id": str(uuid7())} for row in rows]).decode()


def new_deliveries_sql(from_clause: str) -> str:
    """Returns SQL of a CTE that inserts a delivery (webhook request to a tenant) for each row that has one.

    `from_clause` is SQL that names the rows. Their column `delivery` has the delivery as JSON, or null. The SQL begins with a
    comma, to be appended to a WITH clause.
    """
    source = (
        f"{from_clause} CROSS JOIN LATERAL jsonb_populate_record(NULL::delivery, delivery) AS new WHERE delivery IS NOT NULL"
    )
    return f", new_delivery AS ({insert_deliveries_sql(source)})"


DELIVERY_COLUMN_SQL: Final = "given -> 'delivery' AS delivery"
"""An extra column for `json_rows_sql`: the delivery of a row as JSON, or null."""
