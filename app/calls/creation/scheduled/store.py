"""Writes scheduled calls, and ends scheduled calls that will not be dialled. Each batch is one statement.

A call can be dialled only while it has a row in `scheduled_dial`. The statement that deletes the row decides whether the call
is dialled or ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.creation.sql_parts import rows_with_event_ids_as_json
from app.calls.creation.store import NewCall, insert_calls_sql, intent_row
from app.calls.outbox import delivery_for_outcome
from app.calls.record_change import RecordChange
from app.calls.store import add_deliveries
from app.database.connection import Connection
from app.database.engine import Database
from app.scheduling.grant_halt_sql import CURRENT_SERVER_SQL
from app.scheduling.models import NO_QUEUE
from app.scheduling.schedule import CallSchedule
from app.scheduling.scheduled_dial_sql import SCHEDULED_DIAL_COLUMN_SQL, insert_scheduled_dials_sql

MAX_SCHEDULED_ROWS_PER_STATEMENT = 250
"""The maximum number of scheduled calls in one statement.

It is higher than MAX_ROWS_PER_STATEMENT, because no client waits until a scheduled call is dialled.
"""

# The clocks of two Postgres servers may differ by this time.
_MAX_CLOCK_DIFFERENCE_S = 60


@dataclass(frozen=True, slots=True)
class ScheduledCall:
    """A call that is to be dialled later. The constructor sets `execution` and `queue_id` of `call`."""

    call: NewCall
    schedule: CallSchedule

    def __post_init__(self) -> None:
        self.call.execution = "scheduled"
        self.call.queue_id = None if self.schedule.queue_id == NO_QUEUE else self.schedule.queue_id

    def row_to_insert(self) -> dict[str, Any]:
        # Not the call's own `execution`, which is `unknown` while its commit is in doubt.
        own = {"execution": "scheduled", "dial": self.scheduled_dial_row(), "hours_json": self.schedule.hours_json}
        return intent_row(self.call) | own | {"event": "call.scheduled", "data": {"due_at": self.schedule.due_at}}

    def scheduled_dial_row(self) -> dict[str, Any]:
        """Returns the call's row for `scheduled_dial`, the table of calls that wait to be dialled, as a dict of columns."""
        call = self.call
        own = {"call_id": call.id, "tenant_id": call.tenant_id, "account_id": call.account_id}
        return own | self.schedule.scheduled_dial_columns() | {"tries": 0}


class InsertedCalls(NamedTuple):
    """The result of an insert: the Postgres server (CURRENT_SERVER_SQL), and the time of the write for each inserted call."""

    server: str
    written_at: Mapping[UUID, datetime]


@dataclass(frozen=True, slots=True)
class _EndedCall:
    """The columns of an ended call that are needed for the webhook event `settled`, which reports the outcome to the tenant."""

    id: UUID
    tenant_id: str
    account_sid: str
    to: str
    from_: str
    status_callback_events: list[str] | None
    deliveries_written: list[str]


# If the hours have changed since `due_at` was computed, the call is due at `not_before`. A worker then applies the new hours.
# Otherwise it would wait by the old hours, because the change makes only those calls due that it finds.
_DUE_AT = """
    CASE WHEN given.hours_json::jsonb IS DISTINCT FROM (
        SELECT coalesce(queue.hours, tenant.hours) FROM tenant LEFT JOIN queue ON queue.id = dial.queue_id
        WHERE tenant.id = dial.tenant_id
    ) THEN dial.not_before ELSE dial.due_at END
"""
# Ignores every conflict: if the commit is in doubt, the statement is repeated, and the call may be there already. The identity
# of the server is read once, because that costs as much as the insert of a row. No worker has dialled a call before its
# `not_before`. `due_at` proves nothing: new hours may have moved it to an earlier time.
_INSERT_SCHEDULED_CALLS = insert_calls_sql(
    ["execution"],
    on_conflict="",
    json_columns=[SCHEDULED_DIAL_COLUMN_SQL, "given ->> 'only_on' AS only_on", "given ->> 'hours_json' AS hours_json"],
    ctes_before=f""", here AS MATERIALIZED (
            SELECT {CURRENT_SERVER_SQL} AS server
        ), admitted AS (
            SELECT given.* FROM given CROSS JOIN here WHERE only_on IS NULL OR only_on = here.server
                OR (given.dial ->> 'not_before')::timestamptz > now() + interval '{_MAX_CLOCK_DIFFERENCE_S} seconds'
        )""",  # noqa: S608  # a constant
    ctes_after=insert_scheduled_dials_sql("given JOIN inserted USING (id)", due_at=_DUE_AT),
    final_select="SELECT here.server, id, updated_at FROM here LEFT JOIN inserted ON true",
)

_INSERT_DIAL = text(f"""
    WITH given AS (SELECT CAST(:dial AS jsonb) AS dial, CAST(:hours_json AS text) AS hours_json)
    {insert_scheduled_dials_sql("given", due_at=_DUE_AT)}
    SELECT
""")  # own constants

_END_WAITING_CALLS = """
    WITH ended AS MATERIALIZED (
        DELETE FROM scheduled_dial WHERE call_id IN (
            SELECT call_id FROM scheduled_dial WHERE {which}
        )
        RETURNING call_id
    ), change AS MATERIALIZED (
        SELECT execution, settled_by, problem FROM jsonb_populate_record(NULL::call, $2::jsonb)
    ), changed AS (
        UPDATE call SET execution = change.execution, settled_by = change.settled_by, problem = change.problem,
            settled_at = now(), updated_at = now()
        FROM ended, change WHERE call.id = ended.call_id AND call.execution = 'scheduled'
        RETURNING call.id, call.tenant_id, call.account_sid, call."to", call."from" AS from_, call.status_callback_events,
            call.deliveries_written
    ), new_event AS (
        INSERT INTO call_event (id, call_id, at, type, data)
        SELECT gen_random_uuid(), id, clock_timestamp(), $3, $4::jsonb FROM changed
    )
    SELECT * FROM changed
"""
# If a worker is taking the right to dial one of the calls, waits for its commit. That call is then left out.
_END_CALLS_BY_ID = _END_WAITING_CALLS.format(which="call_id = ANY ($5::uuid[]) ORDER BY call_id LIMIT $1 FOR UPDATE")
# Another session that has locked a row takes the right to dial the call, or ends it.
_END_CALLS_OF_QUEUE = _END_WAITING_CALLS.format(which="queue_id = $5 LIMIT $1 FOR UPDATE SKIP LOCKED")
# now(), because Postgres compares an index only with values that do not change during the statement.
_END_EXPIRED_CALLS = _END_WAITING_CALLS.format(which="ring_by <= now() ORDER BY ring_by LIMIT $1 FOR UPDATE SKIP LOCKED")
_ANY_EXPIRED_CALL = "SELECT FROM scheduled_dial WHERE ring_by <= now() LIMIT 1"


async def insert_scheduled_calls(
    database: Database, calls: Sequence[ScheduledCall], *, only_on_server: Mapping[UUID, str | None] = MappingProxyType({})
) -> InsertedCalls:
    """Inserts scheduled calls with their events and their rows of `scheduled_dial`.

    Leaves out a call that has been inserted already, or whose idempotency key another call has.

    `only_on_server` has the ids of calls whose earlier insert may have been committed, with the Postgres server of that insert.
    If this is None, the earlier insert was not sent, and any server will do. Otherwise, on another server, the call is inserted
    only if its `not_before` is more than a minute ahead: a worker may have dialled the call before a failover that has lost its
    record.
    """
    rows = [call.row_to_insert() | {"only_on": only_on_server.get(call.call.id)} for call in calls]
    found = await database.fetch(_INSERT_SCHEDULED_CALLS, rows_with_event_ids_as_json(rows))
    return InsertedCalls(found[0]["server"], {row["id"]: row["updated_at"] for row in found if row["id"] is not None})


async def insert_scheduled_dial(session: AsyncSession, call_id: UUID, scheduled: ScheduledCall) -> None:
    """Inserts the row of `scheduled_dial` with which an existing call waits to be dialled.

    Also inserts a row of `dial_turn` for the call's API key or workload if there is none. Without this row, the call would not
    be dialled.
    """
    dial = _to_json_text(scheduled.scheduled_dial_row() | {"call_id": call_id})
    await session.execute(_INSERT_DIAL, {"dial": dial, "hours_json": scheduled.schedule.hours_json})


async def end_waiting_calls_by_id(connection: Connection, call_ids: Sequence[UUID], change: RecordChange) -> set[UUID]:
    """Ends the given calls that still wait to be dialled, and applies `change` to them. Returns the ids of the ended calls.

    Calls that a worker has begun to dial, or that have ended, stay as they are.
    """
    return await _end_waiting_calls(connection, _END_CALLS_BY_ID, change, len(call_ids), list(call_ids))


async def end_waiting_calls_of_queue(connection: Connection, queue_id: UUID, change: RecordChange, *, limit: int) -> set[UUID]:
    """Ends at most `limit` waiting calls of the queue, and applies `change` to them. Returns their ids.

    Skips calls that another session has locked, because that session dials or ends them.
    """
    return await _end_waiting_calls(connection, _END_CALLS_OF_QUEUE, change, limit, queue_id)


async def end_expired_calls(database: Database, change: RecordChange, *, limit: int) -> set[UUID]:
    """Ends at most `limit` waiting calls whose `ring_by` has passed, and applies `change` to them. Returns their ids.

    Skips calls that another session has locked. If there is no such call, runs only one short statement.
    """
    if not await database.fetch(_ANY_EXPIRED_CALL):
        return set()
    async with database.transaction() as connection:
        return await _end_waiting_calls(connection, _END_EXPIRED_CALLS, change, limit)


async def _end_waiting_calls(
    connection: Connection, statement: str, change: RecordChange, limit: int, *condition_values: object
) -> set[UUID]:
    """Ends waiting calls and applies `change` to them, in the caller's transaction. Returns their ids.

    `statement` is `_END_WAITING_CALLS` with a condition. `condition_values` are the values of the condition's parameters ($5
    and later). Writes a delivery (a webhook request to the tenant) for each call whose tenant requested the event `settled`.
    """
    rows = await connection.fetch(
        statement, limit, _to_json_text(change.columns), change.event, _to_json_text(change.data), *condition_values
    )
    ended = [_EndedCall(**row) for row in rows]
    delivered = [delivery_for_outcome(call, change.columns, events_with_delivery=call.deliveries_written) for call in ended]
    await add_deliveries(connection, [delivery for delivery in delivered if delivery is not None])
    return {call.id for call in ended}


def _to_json_text(value: Mapping[str, Any]) -> str:
    return to_json(value).decode()
