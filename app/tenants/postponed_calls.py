"""Makes changed calling hours, the pause of a queue, or the suspension of a tenant effective for calls that already wait.

Whether a waiting call may be dialled is decided in `app.calls.creation.grants`.

Uses asyncpg without SQLAlchemy, as `administration_store` does.

A grant is a worker's right to dial one scheduled call. A worker takes grants in a transaction.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.database.pool import TransactionRunner
from app.database.writers import wait_for_writers
from app.errors import DatabaseUnavailable

# Rows updated in one transaction. Grants and cancellations of the same calls wait for its end.
_MAX_ROWS_PER_UPDATE: Final = 1_000
SETTINGS_NOT_YET_APPLIED_DETAIL: Final = (
    "The change is stored, but may not yet apply to calls that already wait: repeat the request. If it changes a tenant with "
    "If-Match, read the tenant's new ETag first."
)
_INSERT_MISSING_PACE_ROWS_SQL: Final = """
    INSERT INTO pace (subject_id) SELECT id FROM twilio_account WHERE tenant_id = $1 ORDER BY id ON CONFLICT DO NOTHING
"""
_LOCK_PACE_ROWS_SQL: Final = """
    SELECT FROM pace WHERE subject_id IN (SELECT id FROM twilio_account WHERE tenant_id = $1) ORDER BY subject_id FOR UPDATE
"""
_MAKE_CALLS_DUE_SQL: Final = """
    UPDATE scheduled_dial SET due_at = greatest(not_before, now()) WHERE call_id IN (
        SELECT call_id FROM scheduled_dial
        WHERE account_id IN (SELECT id FROM twilio_account WHERE tenant_id = $1) AND ($2::uuid IS NULL OR queue_id = $2)
        AND due_at > now() AND due_at > not_before AND call_id > $3 ORDER BY call_id LIMIT $4 FOR UPDATE SKIP LOCKED
    )
    RETURNING call_id
"""


@dataclass(frozen=True, slots=True)
class StoredSettingsChange:
    """A committed change of a tenant's or a queue's settings that applies to calls which already wait.

    `is_stopped` says that the tenant is suspended or the queue is paused. `queue_id` is None for a change of the tenant.
    """

    tenant_id: str
    hours_changed: bool
    is_stopped: bool
    queue_id: UUID | None = None


async def apply_settings_to_waiting_calls(database: TransactionRunner, *changes: StoredSettingsChange) -> None:
    """Applies committed settings to scheduled calls that already wait. Idempotent.

    The caller must have committed the changes. Once this function has returned, new calling hours apply to all waiting calls.
    From then on, no worker takes the right to dial a call of a suspended tenant or a paused queue. If the database cannot be
    used, raises DatabaseUnavailable with `settings_stored` set to True.
    """
    try:
        if any(change.hours_changed for change in changes):
            # An insert that has read the old hours is visible only after its transaction ends. Later inserts read the new
            # hours. The result, whether all writers have ended in time, is ignored: an insert is the last statement of its
            # transaction, and Postgres ends statements and idle transactions that take as long as this wait.
            await wait_for_writers(database, "scheduled_dial")
        for change in changes:
            if change.hours_changed or change.is_stopped:
                await wait_for_grant_transactions(database, change.tenant_id)
            if change.hours_changed:
                await make_postponed_calls_due(database, change.tenant_id, change.queue_id)
    except DatabaseUnavailable as error:
        error.settings_stored, error.detail = True, SETTINGS_NOT_YET_APPLIED_DETAIL
        raise


async def wait_for_grant_transactions(database: TransactionRunner, tenant_id: str) -> None:
    """Waits for the end of all transactions that may still take grants (rights to dial a call) by the tenant's old settings.

    The caller must have committed the new settings, so that later transactions read them. A transaction that takes grants locks
    or inserts the row of the calls' account in the table `pace`. This function inserts and locks the rows of all accounts of
    the tenant, and so waits for each such transaction.
    """
    # Two transactions, because one that inserts a row and then waits for another row could deadlock with changes of paces.
    for statement in (_INSERT_MISSING_PACE_ROWS_SQL, _LOCK_PACE_ROWS_SQL):
        async with database.transaction() as connection:
            await connection.execute(statement, tenant_id)


async def make_postponed_calls_due(
    database: TransactionRunner, tenant_id: str, queue_id: UUID | None = None, *, batch_size: int = _MAX_ROWS_PER_UPDATE
) -> None:
    """Makes postponed calls due now, or at `not_before` if this is later, so that workers check them against the new hours.

    A call is postponed if its `due_at` is in the future and after its `not_before`: the call was due outside its calling hours,
    or is to be tried again. If `queue_id` is None, changes the calls of all queues of the tenant. Skips calls that another
    transaction has locked, because that one grants or cancels them. Goes through the calls once, in the order of their
    ids, `batch_size` calls in each transaction. A call that a worker postpones again by the new hours is not changed again.

    The caller must first wait for all transactions that may have read the old hours (`apply_settings_to_waiting_calls`).
    """
    last_id = UUID(int=0)
    while True:
        async with database.transaction() as connection:
            changed = await connection.fetch(_MAKE_CALLS_DUE_SQL, tenant_id, queue_id, last_id, batch_size)
        if len(changed) < batch_size:
            return
        last_id = max(row["call_id"] for row in changed)
