"""SQL that inserts rows of `scheduled_dial` (the table of waiting calls), or dial slots in their place.

A dial slot stands for one concurrent call of an account. The calls themselves are written in the same transaction.
"""

from typing import Final

from app.scheduling.dial_slots import insert_slot_sql
from app.scheduling.models import ScheduledDial

_COLUMNS_EXCEPT_DUE_AT = [column.name for column in ScheduledDial.__table__.columns if column.name != "due_at"]

SCHEDULED_DIAL_COLUMN_SQL: Final = "given -> 'dial' AS dial"
"""SQL for the column `dial` of the CTE `given`.

`insert_scheduled_dials_sql` and `insert_slots_of_given_calls_sql` return SQL that reads it. The column has a row of
`scheduled_dial` (the table of waiting calls) as JSON, or null for a call that is not scheduled.
"""


def insert_scheduled_dials_sql(from_clause: str, *, due_at: str) -> str:
    """Returns SQL for CTEs that insert a row of `scheduled_dial`, the table of waiting calls, for each new scheduled call.

    The statement must have an earlier CTE `given` with the new calls. Its column `dial` (SCHEDULED_DIAL_COLUMN_SQL) has the row
    to insert as JSON, or null if the call is not scheduled. `from_clause` is what follows FROM to select those rows of `given`
    whose calls are written. `due_at` is SQL for the column `due_at` of the new row. It may use the columns of `given` and, as
    `dial.priority` for example, the other columns of the new row.

    The CTEs also insert a row of `dial_turn`, the table of the order in which API keys and workloads take turns at an account,
    for each API key or workload that has none.
    """
    columns = ", ".join(_COLUMNS_EXCEPT_DUE_AT)
    return f""", new_dial AS (
            INSERT INTO scheduled_dial ({columns}, due_at)
            SELECT {", ".join(f"dial.{name}" for name in _COLUMNS_EXCEPT_DUE_AT)}, {due_at}
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
    """Returns SQL for a CTE that inserts a dial slot (it stands for one concurrent call) for each new scheduled call.

    Use it in place of `insert_scheduled_dials_sql` for calls that may have been dialled already: no worker dials them again.
    The CTE `given` and `from_clause` are as for that function. In addition, `given` must have a column `parameters` with the
    call's parameters.
    """
    return f""", new_slot AS (
            {insert_slot_sql(dial="dial", granted_at="now()", parameters="given.parameters")}
            FROM {from_clause}
                CROSS JOIN LATERAL jsonb_populate_record(NULL::scheduled_dial, given.dial) AS dial
            WHERE given.dial IS NOT NULL
        )
    """
