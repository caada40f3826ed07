"""SQL for grants: which waiting calls may be dialled now (pace, pauses, suspension, hours), and in which order.

A grant is a worker's right to dial one scheduled call. Every transaction that grants calls of an account first locks the
account's row of `pace`, so limits are never exceeded, and API keys and workloads take turns.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.database.connection import Connection
from app.scheduling.dial_slots import insert_slot_sql
from app.scheduling.grant_counters import NO_GRANTS, DialGrantCount
from app.scheduling.grant_halt_sql import MAY_TAKE_GRANTS_SQL, RELEASED_AT_MICROSECONDS_SQL
from app.scheduling.hours import CallingHours, parse_calling_hours
from app.scheduling.models import NO_QUEUE, ScheduledDial
from app.scheduling.pace import allowed_call_count_sql, next_at_after_calls_sql, seconds_until_allowed_sql
from app.scheduling.pace_store import insert_pace_if_missing
from app.scheduling.refused_accounts import (
    allowed_probe_count_sql,
    probe_at_after_grant_sql,
    refused_since_after_grant_sql,
    seconds_until_probe_sql,
)
from app.scheduling.schedule import PRIORITIES

# The clock is read after the lock: the wait for the lock must not count as time without calls.
_LOCK_PACES = f"""
    WITH pace AS MATERIALIZED (
        SELECT * FROM pace WHERE subject_id = ANY ($1::uuid[]) ORDER BY subject_id FOR UPDATE {{wait}}
    ), clock AS MATERIALIZED (
        SELECT clock_timestamp() AS at FROM (SELECT count(*) FROM pace) AS locked
    )
    SELECT subject_id, clock.at, least({allowed_call_count_sql("clock.at")}, {allowed_probe_count_sql("clock.at")}) AS room,
        greatest({seconds_until_allowed_sql("clock.at")}, {seconds_until_probe_sql("clock.at")}) AS wait_s{{more}}
    FROM pace, clock
"""  # noqa: S608  # constants of this module
_LOCK_ACCOUNT_PACE = _LOCK_PACES.format(
    wait="SKIP LOCKED",
    more=f", {MAY_TAKE_GRANTS_SQL} AS may_grant, {RELEASED_AT_MICROSECONDS_SQL} AS released, grants, granted_at",
)
_LOCK_QUEUE_PACES = _LOCK_PACES.format(wait="", more="")
_HAS_PACE = "SELECT EXISTS (SELECT FROM pace WHERE subject_id = $1)"

_DUE_QUEUES = """
    SELECT queue.id, queue.paused, queue.hours, tenant.hours AS tenant_hours, tenant.suspended_at IS NOT NULL AS suspended
    FROM twilio_account JOIN tenant ON tenant.id = twilio_account.tenant_id
    LEFT JOIN queue ON queue.tenant_id = tenant.id AND EXISTS (
        SELECT FROM scheduled_dial WHERE queue_id = queue.id AND due_at <= $2
    )
    WHERE twilio_account.id = $1
"""

# Within a priority the callers take turns, and the caller's earliest call is dialled. Only one index entry is read for each
# caller and open queue. A call with a `wanted_update` (PendingUpdate) is left to the job `control`.
_FIRST_CALL_OF_PRIORITY = """
    (SELECT dial.call_id FROM (
        SELECT caller_id FROM dial_turn WHERE account_id = $1 ORDER BY last_grant_at, caller_id
    ) AS turn CROSS JOIN LATERAL (
        SELECT first.call_id FROM unnest($3::uuid[]) AS open (queue_id) CROSS JOIN LATERAL (
            SELECT waiting.call_id, waiting.due_at FROM scheduled_dial AS waiting
            WHERE waiting.account_id = $1 AND waiting.priority = {priority} AND waiting.caller_id = turn.caller_id
            AND waiting.queue_id = open.queue_id AND waiting.due_at <= $2 AND waiting.ring_by > $2
            AND NOT EXISTS (SELECT FROM wanted_update WHERE wanted_update.call_id = waiting.call_id)
            ORDER BY waiting.due_at, waiting.call_id LIMIT 1
        ) AS first
        ORDER BY first.due_at, first.call_id LIMIT 1
    ) AS dial
    WHERE EXISTS (SELECT FROM scheduled_dial WHERE account_id = $1 AND priority = {priority})
    LIMIT 1)
"""
_FIRST_CALL_OF_EACH_PRIORITY = [_FIRST_CALL_OF_PRIORITY.format(priority=place) for place in range(len(PRIORITIES))]
_WAITING_CALL_COLUMNS = 'dial.call_id, dial.queue_id, dial.time_zone, call."to", dial.ring_by, dial.priority, dial.due_at'
_NEXT_CALL_ID = f"SELECT call_id FROM ({' UNION ALL '.join(_FIRST_CALL_OF_EACH_PRIORITY)}) AS each LIMIT 1"  # noqa: S608  # own constants
_NEXT_WAITING_CALL = f"""
    SELECT {_WAITING_CALL_COLUMNS}
    FROM ({_NEXT_CALL_ID}) AS chosen
        JOIN scheduled_dial AS dial USING (call_id) JOIN call ON call.id = chosen.call_id
"""  # noqa: S608  # constants of this module

_CALL_COLUMNS = {each.name: Call.__mapper__.columns[each.name].name for each in fields(NewCall)}
_STATE_COLUMNS = ("attempt", "pending_since", "updated_at", "deliveries_written")
_DIAL_COLUMNS = [column.name for column in ScheduledDial.__table__.columns]
# Has no row if no call is due, and a row of nulls if the due call does not wait any more. A row of `scheduled_dial` may be left
# whose call has started: its grant was lost in a failover, and then a callback came. Such a row is deleted and costs nothing.
# A call that is granted again may still have the slot of its earlier grant, if a job has locked that row.
# `turn` puts the caller behind all others. After a backward step of the clock, the time now alone would put it first again.
_GRANT_SQL_TEMPLATE = f"""
    WITH due AS MATERIALIZED (
        SELECT ({{which}}) AS call_id
    ), deleted AS MATERIALIZED (
        DELETE FROM scheduled_dial WHERE call_id = (SELECT call_id FROM due) AND ring_by > $2 RETURNING *
    ), changed AS (
        UPDATE call SET execution = 'pending', pending_since = clock_timestamp(), updated_at = now(),
            attempt = call.attempt + CASE WHEN deleted.tries > 0 THEN 1 ELSE 0 END
        FROM deleted WHERE call.id = deleted.call_id AND call.execution = 'scheduled'
        RETURNING call.*
    ), granted AS MATERIALIZED (
        SELECT deleted.* FROM deleted JOIN changed ON changed.id = deleted.call_id
    ), new_event AS (
        INSERT INTO call_event (id, call_id, at, type, data)
        SELECT gen_random_uuid(), id, clock_timestamp(), 'call.pending', jsonb_build_object('attempt', attempt) FROM changed
    ), slot AS (
        {insert_slot_sql(dial="granted", granted_at="$2", parameters="changed.parameters")}
        FROM granted JOIN changed ON changed.id = granted.call_id
        ON CONFLICT (call_id) DO UPDATE SET until = excluded.until, ring_by = excluded.ring_by, granted_at = excluded.granted_at
    ), turn AS (
        UPDATE dial_turn SET last_grant_at = greatest(clock_timestamp(), interval '1 microsecond' + (
            SELECT max(last_grant_at) FROM dial_turn AS other WHERE other.account_id = granted.account_id
        )) FROM granted WHERE dial_turn.account_id = granted.account_id AND dial_turn.caller_id = granted.caller_id
    ), spent AS (
        UPDATE pace SET next_at = {next_at_after_calls_sql("$2", "1")}, in_use = in_use + 1, grants = grants + 1,
            granted_at = $2, refused_since = {refused_since_after_grant_sql("$2")}, probe_at = {probe_at_after_grant_sql("$2")}
        FROM granted WHERE subject_id IN (granted.account_id, granted.queue_id)
        RETURNING probe_at
    )
    SELECT {", ".join(f'changed."{column}" AS {name}' for name, column in _CALL_COLUMNS.items())},
        {", ".join(f"changed.{name}" for name in _STATE_COLUMNS)},
        {", ".join(f"granted.{name} AS dial_{name}" for name in _DIAL_COLUMNS)},
        extract(epoch FROM granted.ring_by - clock_timestamp())::float8 AS ring_in_s,
        EXISTS (SELECT FROM spent WHERE probe_at IS NOT NULL) AS is_probe
    FROM due LEFT JOIN (granted JOIN changed ON changed.id = granted.call_id) ON true WHERE due.call_id IS NOT NULL
"""  # noqa: S608  # column names of the models

_GRANT_CALL = _GRANT_SQL_TEMPLATE.format(which="$1::uuid")
_GRANT_NEXT = _GRANT_SQL_TEMPLATE.format(which=_NEXT_CALL_ID)

_DUE_CALLS_FROM = f"""
    SELECT {_WAITING_CALL_COLUMNS}
    FROM scheduled_dial AS dial JOIN call ON call.id = dial.call_id
    WHERE dial.account_id = $1 AND dial.queue_id = $2 AND dial.priority = $3 AND dial.due_at BETWEEN $4 AND $5
    ORDER BY dial.due_at LIMIT $6
"""  # noqa: S608  # a constant
_POSTPONE = """
    UPDATE scheduled_dial SET due_at = later.due_at FROM unnest($1::uuid[], $2::timestamptz[]) AS later (call_id, due_at)
    WHERE scheduled_dial.call_id = later.call_id
"""


@dataclass(frozen=True, slots=True)
class LockedPace:
    """A locked row of `pace`, with the limits of an account or a queue: call rate and concurrent calls.

    `allowed_calls` is the number of calls that the limits allow at the time `at`. `wait_s` is the time in seconds until the
    call rate allows another call, and None if it allows one now. If Twilio refuses the calls of an account for the moment,
    both values also depend on when the next one may be tried (app.scheduling.refused_accounts).
    """

    at: datetime
    allowed_calls: int
    wait_s: float | None
    # Only for an account: whether grants are allowed (MAY_TAKE_GRANTS_SQL), its count of grants, and the time of its last
    # grant.
    may_grant: bool | None = None
    grant_count: DialGrantCount = NO_GRANTS
    granted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DueQueue:
    """A queue with calls whose due time has come. The id NO_QUEUE stands for the calls that are in no queue."""

    id: UUID
    is_open: bool
    """False if the queue is paused or the tenant is suspended."""
    hours: CallingHours | None


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A scheduled call that may be dialled next, with the values that decide whether it may ring now."""

    call_id: UUID
    queue_id: UUID
    time_zone: str | None
    to: str
    ring_by: datetime
    priority: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DialGrant:
    """The right of this process to dial one call now. `ring_in_s` is the time in seconds until the call's `ring_by`.

    `dial_row` is the call's row of `scheduled_dial` (the table of waiting calls) without `due_at`. The grant has deleted the
    row. If the call must wait again, the row is inserted again. `is_probe` says whether the call is the only one of its account
    that is dialled now, because Twilio has refused earlier ones.
    """

    call: NewCall
    dial_row: Mapping[str, Any]
    ring_in_s: float
    is_probe: bool


async def lock_account_pace(connection: Connection, account_id: UUID) -> LockedPace | None:
    """Locks and returns the account's row of `pace` (dialling limits). Returns None if another session has locked the row.

    Creates the row if it is missing.
    """
    found = await connection.fetch(_LOCK_ACCOUNT_PACE, [account_id])
    if not found and not await connection.fetchval(_HAS_PACE, account_id):
        await insert_pace_if_missing(connection, account_id)
        found = await connection.fetch(_LOCK_ACCOUNT_PACE, [account_id])
    if not found:
        return None
    row = found[0]
    count = DialGrantCount(row["released"], row["grants"])
    return LockedPace(row["at"], row["room"], row["wait_s"], row["may_grant"], count, row["granted_at"])


async def lock_queue_paces(connection: Connection, queue_ids: Collection[UUID]) -> dict[UUID, LockedPace]:
    """Locks and returns the queues' rows of `pace` (dialling limits), by queue id. Waits while other sessions have locked them.

    Leaves out a queue without a row, which has no limits of its own. The caller must have locked the account's row before.
    """
    found = await connection.fetch(_LOCK_QUEUE_PACES, list(queue_ids))
    return {row["subject_id"]: LockedPace(*row[1:]) for row in found}


async def list_due_queues(connection: Connection, account_id: UUID, at: datetime) -> list[DueQueue]:
    """Returns an entry (NO_QUEUE) for calls in no queue, then the queues of the account's tenant with calls due at `at`."""
    rows = await connection.fetch(_DUE_QUEUES, account_id, at)
    none = DueQueue(NO_QUEUE, not rows[0]["suspended"], _parse_hours(rows[0]["tenant_hours"]))
    return [none] + [
        DueQueue(row["id"], not (row["suspended"] or row["paused"]), _parse_hours(row["hours"] or row["tenant_hours"]))
        for row in rows
        if row["id"] is not None
    ]


async def next_waiting_call(
    connection: Connection, account_id: UUID, at: datetime, queue_ids: Collection[UUID]
) -> WaitingCall | None:
    """Returns the call to dial next among the due calls in these queues; None if there is none.

    The highest priority comes first. Within a priority, the API key or workload whose last grant is the oldest comes first, and
    of its calls the one with the earliest due time.
    """
    rows = await connection.fetch(_NEXT_WAITING_CALL, account_id, at, list(queue_ids))
    return WaitingCall(**rows[0]) if rows else None


async def grant_call(connection: Connection, call_id: UUID, at: datetime) -> Sequence[DialGrant]:
    """Takes the right to dial one call. Makes the call pending, and counts it against the limits of its account and queue.

    Returns a sequence of one grant, or an empty one if the call does not wait any more or its `ring_by` has passed. API keys
    and workloads take turns: the one that scheduled this call now comes after all others.
    """
    return _grants_from_rows(await connection.fetch(_GRANT_CALL, call_id, at))


async def grant_next_call(
    connection: Connection, account_id: UUID, at: datetime, queue_ids: Collection[UUID]
) -> Sequence[DialGrant] | None:
    """Chooses a call as `next_waiting_call` does, and takes the right to dial the call, in one statement.

    Returns what `grant_call` would return for the call, or None if no call is due.
    """
    rows = await connection.fetch(_GRANT_NEXT, account_id, at, list(queue_ids))
    return _grants_from_rows(rows) if rows else None


def _grants_from_rows(rows: Sequence[Mapping[str, Any]]) -> Sequence[DialGrant]:
    """Returns the result of the statement that takes a grant, as a sequence: of one grant, or empty if none was taken."""
    if rows[0]["dial_call_id"] is None:
        return ()
    row = rows[0]
    call = NewCall(**{name: _decode_call_column(name, row[name]) for name in _CALL_COLUMNS})
    for name in _STATE_COLUMNS:
        setattr(call, name, row[name])
    dial_row = {name: row[f"dial_{name}"] for name in _DIAL_COLUMNS if name != "due_at"}
    return (DialGrant(call, dial_row, row["ring_in_s"], row["is_probe"]),)


async def list_due_calls_from(
    connection: Connection, account_id: UUID, call: WaitingCall, at: datetime, *, limit: int
) -> Sequence[WaitingCall]:
    """Returns `call` and the calls of its account, queue and priority that are due after it and until `at`, in this order."""
    rows = await connection.fetch(_DUE_CALLS_FROM, account_id, call.queue_id, call.priority, call.due_at, at, limit)
    return [WaitingCall(**row) for row in rows]


async def postpone_scheduled_calls(connection: Connection, due_times: Mapping[UUID, datetime]) -> None:
    """Sets new due times of scheduled calls. `due_times` maps call ids to these times."""
    await connection.execute(_POSTPONE, list(due_times), list(due_times.values()))


def _decode_call_column(name: str, value: Any) -> Any:
    return json.loads(value) if name in ("parameters", "warnings") else value


def _parse_hours(value: str | None) -> CallingHours | None:
    return None if value is None else parse_calling_hours(json.loads(value))
