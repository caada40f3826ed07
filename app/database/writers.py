"""Waits for open transactions that write a table. Transactions that begin later are neither blocked nor waited for."""

import asyncio
from typing import Final

from app.database.pool import TransactionRunner

# Longer than `statement_timeout` and `idle_in_transaction_session_timeout`: Postgres has then ended what Callgate has begun.
MAX_WAIT_FOR_WRITERS_S: Final = 15.0
_WRITER_POLL_INTERVAL_S: Final = 0.05
# A statement that writes or locks rows takes this table lock before its snapshot. The lock is held until the transaction ends.
# Backups and vacuums take other lock modes. pg_stat_activity is not read, because it hides the transactions of other roles.
_FIND_WRITERS_SQL: Final = """
    SELECT DISTINCT pid, virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = $1::text::regclass AND mode IN ('RowShareLock', 'RowExclusiveLock')
        AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def wait_for_writers(database: TransactionRunner, table: str, *, max_wait_s: float = MAX_WAIT_FOR_WRITERS_S) -> bool:
    """Waits until all transactions have ended that are open now and have written `table` or locked rows of it.

    Transactions of all database roles count. Returns True when they have ended, and False after `max_wait_s` seconds.
    """
    before = await _find_open_writers(database, table)
    try:
        async with asyncio.timeout(max_wait_s):
            while before & await _find_open_writers(database, table):  # noqa: ASYNC110  # Postgres has no event for it
                await asyncio.sleep(_WRITER_POLL_INTERVAL_S)
    except TimeoutError:
        return False
    return True


async def _find_open_writers(database: TransactionRunner, table: str) -> set[tuple[int, str]]:
    """Returns the pid and the virtual id of each open transaction that has written `table` or locked rows of it."""
    async with database.transaction() as connection:
        return {(row["pid"], row["virtualtransaction"]) for row in await connection.fetch(_FIND_WRITERS_SQL, table)}
