"""Parts of the statements that write many calls: how their rows are read, and what is written with them."""

from collections.abc import Sequence
from typing import Final

from app.calls.store import insert_deliveries_from


def interval(name: str, *, of: str = "given") -> str:
    """Returns SQL for the interval that the JSON `of` has in seconds under this name."""
    return f"make_interval(secs => ({of} ->> '{name}')::float8)"


def quoted(columns: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{column}"' for column in columns)


def given_rows(*more: str) -> str:
    """Returns SQL that reads the rows in $1: the columns of `call`, those of the event, and `more`."""
    event = ("(given ->> 'event_id')::uuid AS event_id", "given ->> 'event' AS event", "given -> 'data' AS data")
    return f"""SELECT {", ".join(("wanted.*", *event, *more))}
        FROM jsonb_array_elements($1::jsonb) AS given, jsonb_populate_record(NULL::call, given) AS wanted"""  # noqa: S608  # own names


def new_deliveries(written: str) -> str:
    """Returns a part of a WITH clause that inserts the deliveries of the given rows which were written."""
    source = f"{written} CROSS JOIN LATERAL jsonb_populate_record(NULL::delivery, delivery) AS new WHERE delivery IS NOT NULL"
    return f", new_delivery AS ({insert_deliveries_from(source)})"


GIVEN_DELIVERY: Final = "given -> 'delivery' AS delivery"
