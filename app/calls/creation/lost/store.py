"""Inserts again the first record (intent) of a call if Postgres has lost the record. The call may have been dialled."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.calls.creation.sql_parts import rows_as_json
from app.calls.creation.store import INTENT_STATE_COLUMNS, PENDING_INTENT_VALUES, NewCall, insert_calls_sql, intent_row
from app.calls.models import Call
from app.database.engine import Database
from app.scheduling.scheduled_dial_sql import SCHEDULED_DIAL_COLUMN_SQL, insert_slots_sql

_INSERT_LOST_INTENTS = insert_calls_sql(
    INTENT_STATE_COLUMNS,
    on_conflict="",
    json_columns=[SCHEDULED_DIAL_COLUMN_SQL],
    ctes_after=insert_slots_sql("given JOIN inserted USING (id)"),
)


async def insert_lost_intent(
    database: Database, call: Call | NewCall, *, pending_since: datetime, dial_row: Mapping[str, Any] | None
) -> bool:
    """Inserts a call as pending again after Postgres has lost its record. If it was dialled, then not before `pending_since`.

    `dial_row` is a scheduled call's row for `scheduled_dial` (`RequeueValues.row`). The call is not dialled again, but gets a
    dial slot, so that it counts toward `max_concurrent`. Returns False if there is a record of the call, another call has its
    idempotency key, or another call is a redial of the same call.
    """
    row = intent_row(call) | PENDING_INTENT_VALUES | {"pending_since": pending_since}
    return bool(
        await database.fetch(_INSERT_LOST_INTENTS, rows_as_json([row if dial_row is None else row | {"dial": dial_row}]))
    )
