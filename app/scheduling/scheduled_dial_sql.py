"""SQL that inserts rows of `scheduled_dial` (the table of waiting calls), or dial slots in their place.

A dial slot stands for one concurrent call of an account. The calls themselves are written in the same transaction.
"""

from typing import Final

from app.scheduling.dial_slots import insert_slot_sql
from app.scheduling.models import ScheduledDial

_DIAL_COLUMNS = [column.name for column in ScheduledDial.__table__.columns if column.name != "due_at"]

SCHEDULED_DIAL_COLUMN_SQL: Final = "given -> 'dial' AS dial"
"""SQL for the column `dial` of the CTE `given`, which the SQL of `insert_scheduled_dials_sql` and
`insert_slots_of_given_calls_sql` reads.

The column has a row of `scheduled_dial` (the table of waiting calls) as JSON, or null for a call that is not scheduled.
"""


def insert_scheduled_dials_sql(from_clause: str, *, due_at: str) -> str:
    """Returns CTEs that insert rows of `scheduled_dial`, the table of waiting scheduled calls.

    The statement must have a CTE `given` before them. The column `dial` of `given` (SCHEDULED_DIAL_COLUMN_SQL) has the row to
    insert as JSON, or null if the call is not scheduled. `from_clause` is SQL for the FROM clause that selects the rows of
    `given` whose calls are written. `due_at` is SQL for the column `due_at` of the new row. The SQL in `due_at` may read the
    columns of `given`, and the other columns of the new row as columns of `dial`.

    The CTEs also insert a row of `dial_turn` for each API key or workload that has none. The table `dial_turn` says in which
    order the API keys and workloads of an account take turns.
    """
    columns = ", ".join(_DIAL_COLUMNS)
    return f""", new_dial AS (
            INSERT INTO scheduled_dial ({columns}, due_at)
            SELECT {", ".join(f"dial.{name}" for name in _DIAL_COLUMNS)}, {due_at}
            FROM {from_clause}
                CROSS JOIN LATERAL jsonb_populate_record(NULL::scheduled_dial, given.dial) AS dial
            WHERE given.dial IS NOT NULL
            RETURNING account_id, caller_id
        ), new_turn AS (
            INSERT INTO dial_turn (account_id, caller_id) SELECT DISTINCT account_id, caller_id FROM new_dial
            ORDER BY account_id, caller_id ON CONFLICT DO NOTHING
        )
    """  # noqa: S608  # column names of the model


def insert_slots_of_given_calls_sql(from_clause: str) -> str:
    """Returns a CTE that inserts a dial slot for each scheduled call. The call then counts as dialled; no worker dials it.

    The CTE `given` and `from_clause` are as for `insert_scheduled_dials_sql`. In addition, `given` must have a column
    `parameters` with the call's parameters.
    """
    return f""", new_slot AS (
            {insert_slot_sql(dial="dial", granted_at="now()", parameters="given.parameters")}
            FROM {from_clause}
                CROSS JOIN LATERAL jsonb_populate_record(NULL::scheduled_dial, given.dial) AS dial
            WHERE given.dial IS NOT NULL
        )
    """
