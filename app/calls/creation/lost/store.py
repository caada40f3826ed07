"""Inserts the first record (intent) of a call again if Postgres has lost it. The call may have been dialled."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.calls.creation.sql_parts import rows_with_event_ids_as_json
from app.calls.creation.store import INTENT_STATE_COLUMNS, PENDING_INTENT_ROW_MEMBERS, NewCall, insert_calls_sql, intent_row
from app.calls.models import Call
from app.database.engine import Database
from app.scheduling.scheduled_dial_sql import SCHEDULED_DIAL_COLUMN_SQL, insert_slots_of_given_calls_sql

_INSERT_LOST_INTENTS = insert_calls_sql(
    INTENT_STATE_COLUMNS,
    on_conflict="",
    json_columns=[SCHEDULED_DIAL_COLUMN_SQL],
    ctes_after=insert_slots_of_given_calls_sql("given JOIN inserted USING (id)"),
)


async def insert_lost_intent(
    database: Database, call: Call | NewCall, *, pending_since: datetime, dial_row: Mapping[str, Any] | None
) -> bool:
    """Inserts the record of a call as pending again after Postgres has lost it. The call is not dialled again.

    `pending_since` is the earliest time at which the call may have been dialled. `dial_row` is a scheduled call's row for
    `scheduled_dial` (`RequeueValues.dial_row`), or None. With `dial_row`, the call gets a dial slot, so that it counts toward
    `max_concurrent`. Returns False, and inserts nothing, if the call has a record, if another call has its idempotency key, or
    if another call is a redial of the same call.
    """
    row = intent_row(call) | PENDING_INTENT_ROW_MEMBERS | {"pending_since": pending_since}
    return bool(
        await database.fetch(
            _INSERT_LOST_INTENTS, rows_with_event_ids_as_json([row if dial_row is None else row | {"dial": dial_row}])
        )
    )
