"""SQL that writes rows of `scheduled_dial`, as a part of a statement that writes their calls."""

from typing import Final

from app.scheduling.models import ScheduledDial

_COLUMNS = [column.name for column in ScheduledDial.__table__.columns if column.name != "due_at"]

GIVEN_DIAL: Final = "given -> 'dial' AS dial"
"""The column of `given` that `insert_dials` reads: the row as JSON, or null."""


def insert_dials(*, of: str, due_at: str) -> str:
    """Returns the parts of a statement that insert the rows in `given.dial` of the calls that the part `of` has written.

    `due_at` is SQL for the column. Callers that have no turn yet get one.
    """
    columns = ", ".join(_COLUMNS)
    return f""", new_dial AS (
            INSERT INTO scheduled_dial ({columns}, due_at)
            SELECT {", ".join(f"dial.{name}" for name in _COLUMNS)}, {due_at}
            FROM given JOIN {of} USING (id) CROSS JOIN LATERAL jsonb_populate_record(NULL::scheduled_dial, given.dial) AS dial
            WHERE given.dial IS NOT NULL
            RETURNING account_id, caller_id
        ), new_turn AS (
            INSERT INTO dial_turn (account_id, caller_id) SELECT DISTINCT account_id, caller_id FROM new_dial
            ORDER BY account_id, caller_id ON CONFLICT DO NOTHING
        )
    """  # noqa: S608  # column names of the model
