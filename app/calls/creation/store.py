"""Writes intents and outcomes of many creations at once: each write is one statement, and so one transaction.

An intent is the first record of a call, written before the call is dialled. Rows are sent as JSON, which Postgres converts to
the table's column types. That costs this process a tenth of what one bound parameter for each value would cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from asyncpg import UniqueViolationError

from app.calls.creation.sql_parts import (
    DELIVERY_COLUMN_SQL,
    json_rows_sql,
    json_seconds_as_interval_sql,
    new_deliveries_sql,
    quoted_columns_sql,
    rows_with_event_ids_as_json,
)
from app.calls.last_answer import with_shortened_resource
from app.calls.models import Call
from app.calls.outbox import NewDelivery, delivery_for_outcome
from app.calls.record_change import RecordChange
from app.calls.store import UNIQUE_SID_CONSTRAINT, ChangeableCallColumns, SidTaken
from app.database.batcher import LOCKED, RowLocked
from app.database.engine import Database
from app.scheduling.scheduled_dial_sql import SCHEDULED_DIAL_COLUMN_SQL, insert_scheduled_dials_sql
from app.twilio.schemas import CallResource


class _NewCallState(ChangeableCallColumns):
    """Base class of NewCall with the attributes that are no columns of the intent, the call's first record.

    They have a default, or are set once they are known.
    """

    # These are known once the intent is written.
    pending_since: datetime
    updated_at: datetime

    # The values in Twilio's answer. `AttemptOutcome.from_change` decides how they are stored.
    uri: str | None = None
    subresource_uris: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None

    deliveries_written: list[str] = []  # noqa: RUF012  # is only read; a granted call has an attribute of its own


@dataclass(kw_only=True, eq=False, repr=False)
class NewCall(_NewCallState):
    """A call that is being created, with the attributes of `Call` that a response shows.

    It is no SQLAlchemy model, because the instrumentation of `Call` would cost more time than writing the intent and the
    outcome. The dataclass fields are the columns of the intent, the call's first record: `insert_intents` writes them.
    """

    id: UUID
    tenant_id: str
    account_id: UUID
    account_sid: str
    created_at: datetime
    idempotency_key: str | None
    fingerprint: bytes
    parameters: dict[str, Any]
    warnings: list[dict[str, Any]]
    to: str
    from_: str
    address_key: str | None
    traceparent: str | None
    status_callback: str | None
    status_callback_method: str | None
    status_callback_events: list[str] | None
    # Scheduled calls only.
    queue_id: UUID | None = None
    redial_of: UUID | None = None


# From attribute to column: they differ where the column's name is a keyword of Python.
_COLUMN_BY_ATTRIBUTE = {each.name: Call.__mapper__.columns[each.name].name for each in fields(NewCall)}
_INTENT_COLUMNS = tuple(_COLUMN_BY_ATTRIBUTE.values())

# The maximum number of rows in one statement. All requests in a batch wait for the whole batch.
MAX_ROWS_PER_STATEMENT = 16
_OUTCOME_COLUMNS = (
    "execution",
    "settled_by",
    "problem",
    "clean_searches",
    *(name for name in CallResource.model_fields if name != "raw"),
    "resource",
    "resource_left_out",
)
# These columns are set relative to the database's clock.
_OUTCOME_TIME_COLUMNS = ("settled_at", "refresh_at", "search_at")


_SELECT_INSERTED = "SELECT id, updated_at FROM inserted"


def insert_calls_sql(
    columns: Sequence[str],
    *,
    on_conflict: str,
    json_columns: Sequence[str] = (),
    ctes_before: str = "",
    ctes_after: str = "",
    final_select: str = _SELECT_INSERTED,
) -> str:
    """Returns SQL that inserts a call, and one event of it, for each row of a JSON array (`rows_with_event_ids_as_json`).

    Sets the columns of an intent (the first record of a call) and `columns`. `pending_since` is the time of the write, unless
    the row has this member. A row's members `event` and `data` are the type and the data of the event. Rows are inserted in a
    fixed order, so that two processes that insert the same keys do not deadlock.

    The other parameters are SQL. `on_conflict` is the conflict target ("" for any conflict): a row in conflict is left out.
    `json_columns` are further columns of the JSON rows. `ctes_before` defines a CTE `admitted` with the rows to insert; ""
    inserts all. `ctes_after` are CTEs that may read the CTEs `given` (all rows) and `inserted`.
    """
    return f"""
        WITH given AS MATERIALIZED (
            {json_rows_sql(*json_columns)}
        ){ctes_before}, inserted AS (
            INSERT INTO call (pending_since, settled_at, {quoted_columns_sql(columns)}, {quoted_columns_sql(_INTENT_COLUMNS)})
            SELECT coalesce(pending_since, now()), CASE WHEN settled_by IS NOT NULL THEN now() END,
                {quoted_columns_sql(columns)}, {quoted_columns_sql(_INTENT_COLUMNS)}
            FROM {"admitted" if ctes_before else "given"} ORDER BY tenant_id, idempotency_key
            ON CONFLICT {on_conflict} DO NOTHING
            RETURNING id, updated_at
        ), new_event AS (
            INSERT INTO call_event (id, call_id, at, type, data)
            SELECT event_id, id, clock_timestamp(), event, data FROM given JOIN inserted USING (id)
        ){ctes_after}
        {final_select}
    """  # noqa: S608  # column names from this module


IDEMPOTENCY_KEY_CONFLICT_TARGET = "(tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL"
"""The SQL conflict target of inserts: another call of the tenant may already have the idempotency key."""

# Includes the newest column that an outcome sets. On an older schema the intent therefore fails before anything is dialled.
INTENT_STATE_COLUMNS = ("execution", "resource_left_out")
PENDING_INTENT_ROW_MEMBERS = {"execution": "pending", "event": "call.pending", "data": {"attempt": 1}}
_INSERT_INTENTS = insert_calls_sql(INTENT_STATE_COLUMNS, on_conflict=IDEMPOTENCY_KEY_CONFLICT_TARGET)
# Ignores every conflict: the intent may have been committed after all, or a later request may have taken its key.
_INSERT_UNDIALLED_CALLS = insert_calls_sql(
    ["execution", "settled_by", "problem", "deliveries_written"],
    on_conflict="",
    json_columns=[DELIVERY_COLUMN_SQL],
    ctes_after=new_deliveries_sql("given JOIN inserted USING (id)"),
)


def _write_outcomes_sql(*, complete: bool) -> str:
    """Returns SQL that writes the outcomes of calls, with one event each. The outcomes are rows of a JSON array.

    With `complete`, the SQL also inserts what a row has in two members: `delivery`, a webhook request, and
    `dial`, the row of `scheduled_dial` with which a call waits to be dialled again.

    Changes a call only if it is pending in the attempt of the row. An attempt is identified by its number and `pending_since`,
    because after a failover that loses an attempt, the next one gets the same number. Skips calls that another session has
    locked, and locks the others in the order of ids, which prevents deadlocks. The lock has no condition on `execution`,
    because Postgres might then use an index of all calls that are not started.
    """
    times = [f"{json_seconds_as_interval_sql(f'{name}_in')} AS {name}_in" for name in _OUTCOME_TIME_COLUMNS]
    due_at = f"now() + {json_seconds_as_interval_sql('due_in', json_value='given.dial')}"
    changed_rows = "given JOIN changed USING (event_id)"
    more = new_deliveries_sql(changed_rows) + insert_scheduled_dials_sql(changed_rows, due_at=due_at)
    written = ", deliveries_written = coalesce(given.deliveries_written, call.deliveries_written)"
    return f"""
        WITH given AS MATERIALIZED (
            {json_rows_sql(*times, DELIVERY_COLUMN_SQL, SCHEDULED_DIAL_COLUMN_SQL) if complete else json_rows_sql(*times)}
        ), locked AS MATERIALIZED (
            SELECT id, attempt, pending_since, execution FROM call
            WHERE id IN (SELECT id FROM given) ORDER BY id FOR UPDATE SKIP LOCKED
        ), pending AS MATERIALIZED (
            SELECT event_id FROM locked JOIN given USING (id, attempt)
            WHERE locked.execution = 'pending' AND locked.pending_since = coalesce(given.pending_since, locked.pending_since)
        ), changed AS (
            UPDATE call SET ({quoted_columns_sql(_OUTCOME_COLUMNS)}) = ROW ({quoted_columns_sql(_OUTCOME_COLUMNS, "given.")}),
                {", ".join(f"{name} = now() + given.{name}_in" for name in _OUTCOME_TIME_COLUMNS)},
                updated_at = now(){written if complete else ""}
            FROM given JOIN pending USING (event_id) WHERE call.id = given.id
            RETURNING event_id, call.updated_at AS changed_at
        ), new_event AS (
            INSERT INTO call_event (id, call_id, at, type, data)
            SELECT event_id, id, clock_timestamp(), event, data FROM {changed_rows}
        ){more if complete else ""}
        SELECT given.id, given.attempt, given.pending_since, changed_at,
            CASE WHEN locked.id IS NULL THEN EXISTS (SELECT FROM call WHERE call.id = given.id) ELSE false END AS is_locked
        FROM given LEFT JOIN locked ON locked.id = given.id LEFT JOIN changed USING (event_id)
    """  # noqa: S608  # column names from this module


_WRITE_OUTCOMES = _write_outcomes_sql(complete=False)
_WRITE_COMPLETE_OUTCOMES = _write_outcomes_sql(complete=True)


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The outcome of one attempt to place a call, to be written to the call's pending record."""

    call_id: UUID
    attempt: int
    change: RecordChange
    delivery: NewDelivery | None = None
    deliveries_written: Sequence[str] = ()
    """The events for which a delivery is written, including the event of `delivery`. Empty if `delivery` is None."""
    pending_since: datetime | None = None
    """When the attempt began. None for a new call of which it is unknown whether it was inserted: it has only one attempt."""

    @classmethod
    def from_change(cls, call: Call | NewCall, change: RecordChange) -> Self:
        """Makes the outcome of the call's current attempt from `change`. Adds a webhook delivery if the call requests one.

        If `change.columns` has Twilio's whole answer (`resource`), replaces it with the columns in which Postgres stores it.
        """
        written, pending_since = call.deliveries_written, getattr(call, "pending_since", None)
        delivery = delivery_for_outcome(call, change.columns, events_with_delivery=written)
        if change.columns.get("resource"):
            change = RecordChange(with_shortened_resource(call, change.columns), change.times, change.event, change.data)
        if delivery is None:
            return cls(call.id, call.attempt, change, pending_since=pending_since)
        return cls(call.id, call.attempt, change, delivery, (*written, delivery["event"]), pending_since)

    def outcome_row(self) -> dict[str, Any]:
        times = {f"{name}_in": None if offset is None else offset.total_seconds() for name, offset in self.change.times.items()}
        event = {"event": self.change.event, "data": self.change.data}
        attempt = {"id": self.call_id, "attempt": self.attempt, "pending_since": self.pending_since}
        row = {**attempt, **self.change.columns, **times, **event}
        if self.delivery is not None:
            row |= {"delivery": self.delivery, "deliveries_written": self.deliveries_written}
        if self.change.dial_row is not None:
            row["dial"] = self.change.dial_row
        return row


async def insert_intents(database: Database, calls: Sequence[Call | NewCall]) -> dict[UUID, datetime]:
    """Inserts pending calls with their events.

    Returns the time of the write for each call, by call id. Leaves out a call if another call has its idempotency key.
    """
    inserted = await database.fetch(
        _INSERT_INTENTS, rows_with_event_ids_as_json([intent_row(call) | PENDING_INTENT_ROW_MEMBERS for call in calls])
    )
    return {row["id"]: row["updated_at"] for row in inserted}


async def write_undialled_outcomes(
    database: Database, calls: Sequence[NewCall], change: RecordChange
) -> list[bool | RowLocked]:
    """Records `change` as the outcome of new calls that were not dialled.

    It is not known whether the intents (first records) of these calls were inserted. A call without a record is inserted with
    its outcome. If its intent reaches Postgres later, Postgres does not insert the intent. A call with a record gets the
    outcome if the record is pending.

    Returns one result for each call. True: the outcome was written. LOCKED: the outcome was not written, because another
    session has locked the record. False: the outcome was not written, because the record is not pending any more, or because
    another call has the idempotency key.
    """
    outcomes = {call.id: AttemptOutcome.from_change(call, change) for call in calls}
    rows = [{"deliveries_written": (), **intent_row(call), **outcomes[call.id].outcome_row()} for call in calls]
    inserted = {row["id"] for row in await database.fetch(_INSERT_UNDIALLED_CALLS, rows_with_event_ids_as_json(rows))}
    # This statement follows the insert, so that it sees the rows with which the insert collided.
    landed = {call_id: outcome for call_id, outcome in outcomes.items() if call_id not in inserted}
    found = dict(zip(landed, await write_outcomes(database, list(landed.values())), strict=True)) if landed else {}
    results = [found.get(call.id) for call in calls]
    return [
        LOCKED if result is LOCKED else result is not None or call.id in inserted
        for call, result in zip(calls, results, strict=True)
    ]


async def write_outcomes(database: Database, outcomes: Sequence[AttemptOutcome]) -> list[datetime | RowLocked | None]:
    """Writes the outcomes of pending calls, with their events. Returns a result for each outcome.

    The result is the time of the change. It is None if the call is missing, not pending any more, or in another attempt. It is
    LOCKED if another session has locked the row. A batch may have outcomes of two attempts of one call. Raises SidTaken if a
    sid belongs to another record; then nothing is written.
    """
    has_more = any(outcome.delivery is not None or outcome.change.dial_row is not None for outcome in outcomes)
    statement = _WRITE_COMPLETE_OUTCOMES if has_more else _WRITE_OUTCOMES
    try:
        rows = await database.fetch(statement, rows_with_event_ids_as_json([outcome.outcome_row() for outcome in outcomes]))
    except UniqueViolationError as error:
        if error.constraint_name == UNIQUE_SID_CONSTRAINT:
            raise SidTaken from error
        raise
    results = {
        (row["id"], row["attempt"], row["pending_since"]): LOCKED if row["is_locked"] else row["changed_at"] for row in rows
    }
    return [results.get((each.call_id, each.attempt, each.pending_since)) for each in outcomes]


def intent_row(call: Call | NewCall) -> dict[str, Any]:
    columns = {column: getattr(call, name) for name, column in _COLUMN_BY_ATTRIBUTE.items()}
    return columns | {"fingerprint": f"\\x{call.fingerprint.hex()}"}
