"""Reads the records of many calls in one statement, and writes their changes, events and deliveries in another statement.

No row is locked between the two statements. A record is written only if its row has not changed since it was read. Otherwise
the caller must read the record again.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from asyncpg import UniqueViolationError
from pydantic_core import to_json
from uuid_utils import uuid7

from app.calls.callback_fields import callback_fields_to_store
from app.calls.last_answer import LastTwilioAnswerMixin
from app.calls.models import Call
from app.database.connection import Connection
from app.database.engine import Database
from app.scheduling.dial_slots import restore_slots_sql

NewEvent = tuple[str, dict[str, Any]]
"""The type and the data of an event."""

CALLBACK_EVENT = "call.callback"
UNIQUE_SID_CONSTRAINT = "uq_call_sid"
DELIVERIES_CHANNEL = "callgate_deliveries"
"""The Postgres channel that workers listen to. It is notified when deliveries are written, or are to be sent again."""
SID_TAKEN_EXPLANATION = (
    "another record has this sid and keeps it; the outcome of this call is unknown. Twilio never returns a sid twice, "
    "but a stand-in for Twilio may return the same one always"
)


class SidTaken(Exception):
    """The CallSid to be written already belongs to another record."""


class ChangeableCallColumns:
    """The columns of a call's record that may change after the record is inserted, with the values of a new record.

    `CallState` and `NewCall` inherit them. The values are class attributes, so that a new object does not have to set them.
    """

    attempt: int = 1

    # Columns of a settlement.
    execution: str = "pending"
    settled_by: str | None = None
    settled_at: datetime | None = None
    problem: dict[str, Any] | None = None
    clean_searches: int = 0
    refresh_at: datetime | None = None
    search_at: datetime | None = None
    deleted_at: datetime | None = None

    # Columns of Twilio's resource.
    sid: str | None = None
    status: str | None = None
    direction: str | None = None
    to_formatted: str | None = None
    from_formatted: str | None = None
    date_created: datetime | None = None
    date_updated: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    duration: int | None = None
    price: Decimal | None = None
    price_unit: str | None = None
    answered_by: str | None = None
    api_version: str | None = None
    caller_name: str | None = None
    forwarded_from: str | None = None
    group_sid: str | None = None
    parent_call_sid: str | None = None
    phone_number_sid: str | None = None
    queue_time: int | None = None
    trunk_sid: str | None = None


class CallState(LastTwilioAnswerMixin, ChangeableCallColumns):
    """A call's record that was read from the database. It is changed in memory and then written with `write_changed_calls`.

    It has those attributes of `Call` that callbacks and refreshes read or set.
    """

    id: UUID
    tenant_id: str
    account_id: UUID
    account_sid: str
    created_at: datetime
    pending_since: datetime
    to: str
    from_: str
    traceparent: str | None
    status_callback: str | None
    status_callback_method: str | None
    status_callback_events: list[str] | None
    callback_sequence: int | None
    callbacks_seen: list[str]
    deliveries_written: list[str]
    own_uri: str | None
    own_subresource_uris: dict[str, Any] | None
    stored_resource_members: dict[str, Any] | None
    resource_left_out: int | None

    version: str
    """The version of the row: Postgres's xmin."""
    now: datetime
    """Postgres's clock when the row was read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.__dict__.update(row)
        for name in _JSON_COLUMNS & self.__dict__.keys():
            setattr(self, name, None if row[name] is None else json.loads(row[name]))
        self._read = dict(self.__dict__)

    def changed_columns(self) -> dict[str, Any]:
        """Returns the columns whose values have changed since the row was read, with the new values."""
        read, state = self._read, self.__dict__
        return {column: state[name] for name, column in _CHANGEABLE_COLUMNS.items() if state[name] != read[name]}

    def was_found_after_all(self) -> bool:
        """Returns whether the call was found at Twilio after all since the row was read. See the function of this name."""
        return was_found_after_all(self._read["execution"], self.execution)


def was_found_after_all(execution_before: str, execution_after: str) -> bool:
    """Returns whether `execution` has changed to `started` from `unknown`, `not_started` or `scheduled`.

    If so, the caller must restore the call's dial slot (its place among the concurrent calls), which may have been freed.
    """
    return execution_after == "started" and execution_before not in ("started", "pending")


AnyCall = Call | CallState
"""The record of a call: an ORM object in a session, or a row that was read for `write_changed_calls`."""

_READ_ONLY_ATTRIBUTES = tuple(name for name in CallState.__annotations__ if name not in ("version", "now"))
_JSON_COLUMNS = frozenset({"problem", "own_subresource_uris", "stored_resource_members"})
_CHANGEABLE_COLUMNS = {
    name: Call.__mapper__.columns[name].name
    for name in (
        *ChangeableCallColumns.__annotations__,
        *("own_uri", "own_subresource_uris", "stored_resource_members", "resource_left_out"),
        *("callback_sequence", "callbacks_seen", "deliveries_written"),
    )
}


_SELECT_LIST = ", ".join(
    f'"{Call.__mapper__.columns[name].name}" AS {name}'
    for name in (*_READ_ONLY_ATTRIBUTES, *ChangeableCallColumns.__annotations__)
)
# The subquery hides the number of ids from Postgres, which would otherwise plan the statement again for each execution, at four
# times the cost of the execution.
_READ_CALLS_SQL = f"""
    SELECT {_SELECT_LIST}, xmin::text AS version, now() AS now FROM call WHERE id = ANY(ARRAY(SELECT unnest($1::uuid[])))
"""  # noqa: S608  # own names
_CHANGEABLE_COLUMNS_SQL = ", ".join(_CHANGEABLE_COLUMNS.values())
_RECORD_IDS_BY_SID_SQL = "SELECT sid, id FROM call WHERE sid = ANY($1::text[])"
_DELIVERY_COLUMNS = "id, call_id, at, tenant_id, event, position, sequence, fields"


def insert_deliveries_sql(source: str) -> str:
    """Returns SQL that inserts deliveries (status callbacks to tenants) and notifies the workers.

    `source` is the part after FROM, in which the alias `new` stands for the rows to insert.
    """
    values = ", ".join(f"new.{name}" for name in _DELIVERY_COLUMNS.split(", "))
    notify = f"RETURNING pg_notify('{DELIVERIES_CHANNEL}', '')"
    return f"INSERT INTO delivery ({_DELIVERY_COLUMNS}) SELECT {values} FROM {source} {notify}"  # noqa: S608  # own names


_INSERT_DELIVERIES_SQL = insert_deliveries_sql(
    "given JOIN changed USING (id) CROSS JOIN LATERAL jsonb_populate_recordset(NULL::delivery, deliveries) AS new"
)
# Rows are locked in the order of ids, which prevents deadlocks. Rows that another session has locked are skipped, because the
# whole batch would wait for them. Only for the slot of a call that has turned up late, the batch may wait.
_WRITE_CHANGED_CALLS_SQL = f"""
    WITH given AS MATERIALIZED (
        SELECT (item ->> 'id')::uuid AS id, (item ->> 'version')::xid AS version,
            item -> 'columns' AS columns, item -> 'events' AS events, item -> 'deliveries' AS deliveries,
            (item ->> 'turned_up')::boolean AS turned_up
        FROM jsonb_array_elements($1::jsonb) AS item
    ), locked AS MATERIALIZED (
        SELECT call.id FROM call JOIN given USING (id) WHERE call.xmin = given.version
        ORDER BY call.id FOR UPDATE OF call SKIP LOCKED
    ), changed AS (
        UPDATE call SET updated_at = now(), ({_CHANGEABLE_COLUMNS_SQL}) = (
            SELECT {_CHANGEABLE_COLUMNS_SQL} FROM jsonb_populate_record(call, given.columns)
        )
        FROM given JOIN locked USING (id) WHERE call.id = given.id
        RETURNING call.id
    ), new_event AS (
        INSERT INTO call_event (id, call_id, at, type, data, data_left_out)
        SELECT (event ->> 'id')::uuid, id, clock_timestamp(), event ->> 'type', event -> 'data', (event ->> 'left_out')::int
        FROM given JOIN changed USING (id) CROSS JOIN LATERAL jsonb_array_elements(events) AS event
    ), new_delivery AS (
        {_INSERT_DELIVERIES_SQL}
    ), new_slot AS (
        {restore_slots_sql("ARRAY(SELECT id FROM given JOIN changed USING (id) WHERE turned_up)")}
    )
    SELECT id FROM changed
"""  # noqa: S608  # column names from this module


_ADD_DELIVERIES_SQL = f"""
    WITH given AS MATERIALIZED (
        SELECT item, (item ->> 'call_id')::uuid AS call_id, item ->> 'event' AS event
        FROM jsonb_array_elements($1::jsonb) AS item
    ), new_delivery AS (
        {insert_deliveries_sql("given CROSS JOIN LATERAL jsonb_populate_record(NULL::delivery, item) AS new")}
    )
    UPDATE call SET deliveries_written = deliveries_written || given.event FROM given WHERE call.id = given.call_id
"""  # noqa: S608  # column names from this module


async def add_deliveries(connection: Connection, deliveries: Sequence[Mapping[str, Any]]) -> None:
    """Inserts deliveries (status callbacks to tenants), and adds their events to the column `deliveries_written` of the calls.

    Pass at most one delivery per call. The same transaction must already have written the other changes of the calls.
    """
    if deliveries:
        await connection.execute(_ADD_DELIVERIES_SQL, to_json(deliveries).decode())


@dataclass(slots=True)
class ChangedCall:
    """A record that was changed in memory, with the events and deliveries to write in the same transaction."""

    call: CallState
    events: list[NewEvent] = field(default_factory=list)
    deliveries: list[Mapping[str, Any]] = field(default_factory=list)
    """The deliveries to insert. Each maps columns of the table `delivery` to values."""
    event_ids: dict[int, UUID] = field(default_factory=dict)
    """The ids of events that have a delivery, by position in `events`. Other events get their ids when they are written."""

    def json_item(self) -> dict[str, Any]:
        """Returns the record as an item of the JSON array that `write_changed_calls` sends to Postgres."""
        events = [self._event_json(position, type_, data) for position, (type_, data) in enumerate(self.events)]
        return {
            "id": self.call.id,
            "version": self.call.version,
            "columns": self.call.changed_columns(),
            "events": events,
            "deliveries": self.deliveries,
            "turned_up": self.call.was_found_after_all(),
        }

    def _event_json(self, position: int, type_: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the event at this position of `events` as JSON, with its id.

        A callback is returned without the fields that the call's record has; the bits of `left_out` say which fields these are.
        """
        event_id = str(self.event_ids.get(position) or uuid7())
        data, left_out = callback_fields_to_store(self.call, data) if type_ == CALLBACK_EVENT else (data, None)
        return {"id": event_id, "type": type_, "data": data, "left_out": left_out}


async def read_calls(database: Database, call_ids: Collection[UUID]) -> dict[UUID, CallState]:
    """Returns the records with these ids, of any tenant, by id. An id that no record has is not in the result."""
    rows = await database.fetch(_READ_CALLS_SQL, list(call_ids))
    return {row["id"]: CallState(row) for row in rows}


async def record_ids_by_sid(database: Database, sids: Collection[str]) -> dict[str, UUID]:
    """Returns the ids of the records that have these sids, by sid. Records of all tenants count.

    A sid that no record has is not in the result.
    """
    return {row["sid"]: row["id"] for row in await database.fetch(_RECORD_IDS_BY_SID_SQL, list(sids))} if sids else {}


async def write_changed_calls(database: Database, changed: Sequence[ChangedCall]) -> set[UUID]:
    """Writes changed records in one transaction. Returns the ids of those that were written.

    A record is not written if its row has changed since it was read, or if another session has locked it. Pass each record only
    once. Raises SidTaken if a sid belongs to another record; then nothing is written.
    """
    if not changed:
        return set()
    try:
        rows = await database.fetch(_WRITE_CHANGED_CALLS_SQL, to_json([each.json_item() for each in changed]).decode())
    except UniqueViolationError as error:
        if error.constraint_name == UNIQUE_SID_CONSTRAINT:
            raise SidTaken from error
        raise
    return {row["id"] for row in rows}
