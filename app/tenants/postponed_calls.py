"""Makes changed hours and a pause take effect on waiting calls at once. On asyncpg alone, as the rest of the administration."""

from typing import Final
from uuid import UUID

from app.database.connection import Connection
from app.database.pool import Transactions

# Rows in one transaction, which grants and cancellations of the same calls wait for.
_BATCH: Final = 1_000
_LOCK_ACCOUNTS: Final = """
    SELECT FROM pace WHERE subject_id IN (SELECT id FROM twilio_account WHERE tenant_id = $1) ORDER BY subject_id FOR UPDATE
"""
_MAKE_DUE: Final = """
    UPDATE scheduled_dial SET due_at = greatest(not_before, now()) WHERE call_id IN (
        SELECT call_id FROM scheduled_dial
        WHERE account_id IN (SELECT id FROM twilio_account WHERE tenant_id = $1) AND ($2::uuid IS NULL OR queue_id = $2)
        AND due_at > now() AND due_at > not_before LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    RETURNING call_id
"""


async def wait_for_grants(database: Transactions, tenant_id: str) -> None:
    """Waits for the grants of the tenant's accounts that may have read the old settings.

    Grants that begin later read the new ones.
    """
    async with database.transaction() as connection:
        await connection.execute(_LOCK_ACCOUNTS, tenant_id)


async def make_calls_due(database: Transactions, tenant_id: str, queue_id: UUID | None = None) -> None:
    """Makes postponed calls due whose `not_before` has come, so that grants judge them by the hours that are set now.

    Covers the calls of one queue, or all of the tenant. Calls that another session has locked are being granted or ended.
    """
    await wait_for_grants(database, tenant_id)
    while True:
        async with database.transaction() as connection:
            if await _make_due(connection, tenant_id, queue_id) < _BATCH:
                return


async def _make_due(connection: Connection, tenant_id: str, queue_id: UUID | None) -> int:
    return len(await connection.fetch(_MAKE_DUE, tenant_id, queue_id, _BATCH))
