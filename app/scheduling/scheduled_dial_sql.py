"""SQL that inserts rows of `scheduled_dial` (the table of waiting calls), or dial slots in their place.

The statement that has this SQL writes the calls themselves, too.
"""

from typing import Final

from app.scheduling.dial_slots import insert_slot_sql
from app.scheduling.models import ScheduledDial

_DIAL_COLUMNS = [column.name for column in ScheduledDial.__table__.columns if column.name != "due_at"]

SCHEDULED_DIAL_COLUMN_SQL: Final = "given -> 'dial' AS dial"
"""SQL for the column `dial` of the CTE `given`, which the SQL of `insert_scheduled_dials_sql` and `insert_slots_sql` reads.

The column has a row of `scheduled_dial` (the table of waiting calls) as JSON, or null for a call that is not scheduled.
"""


def insert_scheduled_dials_sql(from_clause: str, *, due_at: str) -> str:
    """Returns CTEs that insert rows of `scheduled_dial`, the table of waiting scheduled calls.

    `from_clause` is SQL that joins the CTE `given` with the calls that were written. Its column `dial`
    (SCHEDULED_DIAL_COLUMN_SQL) is a call's row of `scheduled_dial` as JSON, or null if the call is not scheduled. `due_at` is
    SQL for the row's `due_at`. Callers (API keys or workloads) without a row in `dial_turn` get one: this table says in which
    order the callers of an account take turns.
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


def insert_slots_sql(from_clause: str) -> str:
    """Returns a CTE that inserts a dial slot for each scheduled call. The call then counts as dialled; no worker dials it.

    `from_clause` is as for `insert_scheduled_dials_sql`. The CTE `given` also has the calls' parameters.
    """
    return f""", new_slot AS (
            {insert_slot_sql(dial="dial", granted_at="now()", parameters="given.parameters")}
            FROM {from_clause}
                CROSS JOIN LATERAL jsonb_populate_record(NULL::scheduled_dial, given.dial) AS dial
            WHERE given.dial IS NOT NULL
        )
    """
