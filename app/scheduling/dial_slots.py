"""Dial slots: rows that stand for calls under way. A slot counts toward `max_concurrent`, and is freed when its call ends."""

from collections.abc import Collection, Sequence
from uuid import UUID

from app.database.connection import Connection
from app.database.engine import Database
from app.scheduling.models import NO_QUEUE
from app.scheduling.pace_store import insert_pace_if_missing
from app.twilio.schemas import MAX_CALL_TIME, MAX_QUEUE_TIME, TERMINAL_STATUSES

# Twilio's defaults of `timeout` and `time_limit`, and a margin.
_DEFAULT_RING_TIMEOUT_S, _DEFAULT_TIME_LIMIT_S, _CALL_END_MARGIN_S = 60, 14_400, 600
_MAX_TIME_LIMIT_S = int(MAX_CALL_TIME.total_seconds())
_MAX_TWILIO_QUEUE_TIME_S = int(MAX_QUEUE_TIME.total_seconds())


def latest_call_end_sql(dialled_at: str, parameters: str) -> str:
    """Returns SQL for the latest time at which a call can end. `dialled_at` is SQL for the latest time of the dial.

    `parameters` is SQL for the call's parameters as JSON. Twilio documents no maximum of `time_limit`. The value may be too
    large for a float, so the SQL caps it before the cast.
    """
    return f"""{dialled_at} + make_interval(secs => {_CALL_END_MARGIN_S} + coalesce(({parameters} ->> 'timeout')::float8,
    {_DEFAULT_RING_TIMEOUT_S})
        + least(coalesce(({parameters} ->> 'time_limit')::numeric, {_DEFAULT_TIME_LIMIT_S}), {_MAX_TIME_LIMIT_S})::float8)"""


def insert_slot_sql(*, dial: str, granted_at: str, parameters: str) -> str:
    """Returns SQL that adds a dial slot for each granted call: `INSERT … SELECT`, without its FROM clause.

    A grant is the right to dial a call, and a dial slot stands for one concurrent call. `dial` is the alias of `scheduled_dial`
    in the FROM clause. `granted_at` and `parameters` are SQL for the time of the grant and for the call's parameters as JSON.

    The slot is kept until the latest possible end of the call. Twilio may queue the call until the deadline `ring_by`, for a
    day at most, before it rings. The slot also stores `ring_by`, which the record of the call has only as JSON.
    """
    last_ring = (
        f"least(greatest({granted_at}, {dial}.ring_by), {granted_at} + make_interval(secs => {_MAX_TWILIO_QUEUE_TIME_S}))"
    )
    return f"""INSERT INTO dial_slot (call_id, account_id, queue_id, caller_id, granted_at, until, ring_by)
        SELECT {dial}.call_id, {dial}.account_id, nullif({dial}.queue_id, '{NO_QUEUE}'), {dial}.caller_id, {granted_at},
            {latest_call_end_sql(last_ring, parameters)}, {dial}.ring_by"""  # aliases of the caller's statement


def restore_slots_sql(call_ids: str) -> str:
    """Returns a complete `INSERT` that adds a dial slot for each scheduled call in `call_ids`, SQL for an array of ids.

    A dial slot stands for one concurrent call. Use this SQL for calls that turn out to exist at Twilio. Their slots may have
    been freed, for example because no search had found the calls. If a call still has a slot, the SQL only sets the slot's
    `ring_by` and `until` again. A new slot has no `caller_id`, because the record of the call does not name the caller.
    """
    return f"""{insert_slot_sql(dial="dial", granted_at="clock_timestamp()", parameters="dial.parameters")}
        FROM (
            SELECT id AS call_id, account_id, queue_id, NULL::uuid AS caller_id, parameters,
                (parameters ->> 'ring_by')::timestamptz AS ring_by
            FROM call WHERE id = ANY ({call_ids})
        ) AS dial
        WHERE ring_by IS NOT NULL
        ON CONFLICT (call_id) DO UPDATE SET ring_by = excluded.ring_by, until = excluded.until"""  # noqa: S608  # caller's SQL


# `until` is right if a call that Twilio still queues at its `ring_by` is canceled then. While Twilio cannot be asked, the call
# stays queued, and may begin to ring later. Twilio queues it for a day at most.
_MAY_STILL_BE_QUEUED = f"""ring_by IS NOT NULL AND execution = 'started' AND coalesce(status, 'queued') = 'queued'
            AND granted_at > now() - make_interval(secs => {_MAX_TWILIO_QUEUE_TIME_S})"""
_HAS_ENDED = f"""(
        until <= now() AND NOT ({_MAY_STILL_BE_QUEUED}) OR execution IN ('not_started', 'scheduled')
        OR deleted_at IS NOT NULL OR status IN ({", ".join(f"'{status}'" for status in sorted(TERMINAL_STATUSES))})
    )"""
# Retention may be deleting a call together with its slot. Such a slot is skipped, which prevents deadlocks.
_LOCK_SLOTS_OF_ENDED_CALLS = f"""
    SELECT call_id FROM dial_slot JOIN call ON call.id = call_id WHERE dial_slot.account_id = $1 AND {_HAS_ENDED}
    FOR UPDATE OF dial_slot SKIP LOCKED
"""  # noqa: S608  # own constants
# Reads the calls again: one of them may have turned up at Twilio after `_LOCK_SLOTS_OF_ENDED_CALLS` began and before it locked
# the slot.
_DELETE_SLOTS_OF_ENDED_CALLS = f"""
    DELETE FROM dial_slot USING call WHERE call_id = ANY ($1::uuid[]) AND call.id = call_id AND {_HAS_ENDED}
"""  # noqa: S608  # own constants
_LOCK_PACE_OF_ACCOUNT = "SELECT FROM pace WHERE subject_id = $1 FOR UPDATE SKIP LOCKED"
_RECOUNT_SLOTS_OF_ACCOUNT = """
    WITH counted AS (SELECT count(*)::int AS in_use FROM dial_slot WHERE account_id = $1),
        before AS (SELECT in_use FROM pace WHERE subject_id = $1)
    UPDATE pace SET in_use = counted.in_use FROM counted, before WHERE subject_id = $1 AND pace.in_use <> counted.in_use
    RETURNING before.in_use - pace.in_use
"""
# Finds all queues that a grant in this transaction may lock later, so that they are locked together in the order of ids. Locked
# one by one, they could deadlock with a grant of another account of the tenant. A queue with slots may have an `in_use` of 0,
# because `callgate queues release`, for example, adds slots without counting them.
_ACTIVE_QUEUES = """
    SELECT subject_id FROM pace JOIN queue ON queue.id = subject_id
    WHERE queue.tenant_id = (SELECT tenant_id FROM twilio_account WHERE id = $1)
        AND (in_use > 0 OR EXISTS (SELECT FROM scheduled_dial WHERE queue_id = subject_id)
            OR EXISTS (SELECT FROM dial_slot WHERE queue_id = subject_id))
"""
_LOCK_PACE_OF_QUEUES = "SELECT FROM pace WHERE subject_id = ANY ($1::uuid[]) ORDER BY subject_id FOR UPDATE"
_RECOUNT_SLOTS_OF_QUEUES = """
    WITH counted AS MATERIALIZED (
        SELECT subject_id, (SELECT count(*) FROM dial_slot WHERE queue_id = subject_id) AS in_use
        FROM unnest($1::uuid[]) AS given (subject_id)
    )
    UPDATE pace SET in_use = counted.in_use
    FROM counted WHERE pace.subject_id = counted.subject_id AND pace.in_use <> counted.in_use
    RETURNING pace.subject_id
"""


# SKIP LOCKED: a statement that waits for a row while it has locked others could deadlock with retention.
_UPDATE_MISSING_SINCE = """
    UPDATE dial_slot SET missing_since = CASE WHEN call_id = ANY ($1) THEN clock_timestamp() END
    WHERE call_id IN (
        SELECT call_id FROM dial_slot
        WHERE call_id = ANY ($1) AND missing_since IS NULL OR call_id = ANY ($2) AND missing_since IS NOT NULL
        FOR UPDATE SKIP LOCKED
    )
"""


async def mark_calls_missing_at_twilio(database: Database, *, missing: Sequence[UUID], found: Sequence[UUID]) -> None:
    """Sets the column `missing_since` of the dial slots of `missing` calls to the time now, and clears it for `found` calls.

    A dial slot is a row that stands for one call under way. Its call is missing if Twilio answers 404 for the call. A time that
    is already set is kept. Calls without a dial slot, and slots that another transaction has locked, are skipped.
    """
    await database.fetch(_UPDATE_MISSING_SINCE, missing, found)


async def lock_pace_and_free_slots(database: Database, account_id: UUID) -> int | None:
    """Frees the dial slots of the account's ended calls, in a transaction of its own. A slot stands for one concurrent call.

    Locks the account's row in `pace`, and inserts it first if it is missing. Returns by how much `in_use` of that row, the
    number of slots in use, has decreased. The result is negative if there were slots that `in_use` did not count, for example
    after the row was lost. Returns None and frees no slot if another session has locked the row.

    Raises DatabaseUnavailable with the reason `locked` if another session that is inserting the missing row does not end within
    `lock_timeout`, or if the row of a queue stays locked.
    """
    async with database.transaction() as connection:
        if not await connection.fetch(_LOCK_PACE_OF_ACCOUNT, account_id):
            # A failover may have lost the row, but not the slots, which are written again.
            await insert_pace_if_missing(connection, account_id)
            if not await connection.fetch(_LOCK_PACE_OF_ACCOUNT, account_id):
                return None
        return await free_slots_of_ended_calls(connection, account_id)


async def free_slots_of_ended_calls(connection: Connection, account_id: UUID) -> int:
    """Deletes the dial slots of the account's ended calls, and recounts `in_use`, the account's number of slots in use.

    A slot stands for one concurrent call. If slots were deleted or the number has changed, also recounts the slots of the
    tenant's queues. Returns by how much `in_use` of the account has decreased. That may be more than the slots deleted here,
    because slots are also deleted together with old calls.

    The transaction must have locked the account's row in `pace`, but no queue's row: this function locks those rows in the
    order of ids. After that, it counts the slots in separate statements, because a statement that waits for a lock does not see
    what was committed meanwhile.
    """
    if ended := [row["call_id"] for row in await connection.fetch(_LOCK_SLOTS_OF_ENDED_CALLS, account_id)]:
        await connection.execute(_DELETE_SLOTS_OF_ENDED_CALLS, ended)
    freed: int = await connection.fetchval(_RECOUNT_SLOTS_OF_ACCOUNT, account_id) or 0
    if not (ended or freed):
        return 0
    if queues := [row["subject_id"] for row in await connection.fetch(_ACTIVE_QUEUES, account_id)]:
        await connection.execute(_LOCK_PACE_OF_QUEUES, queues)
        await recount_slots_of_queues(connection, queues)
    return freed


async def recount_slots_of_queues(connection: Connection, queue_ids: Collection[UUID]) -> bool:
    """Recounts `in_use`, the number of slots in use, of these queues. Returns whether any stored number was wrong.

    The transaction must have locked the queues' rows in `pace` with an earlier statement.
    """
    return bool(await connection.fetch(_RECOUNT_SLOTS_OF_QUEUES, list(queue_ids)))
