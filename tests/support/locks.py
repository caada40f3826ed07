"""Locks for tests, and SQL about the sessions that wait for a lock in the current database, not in others of the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from app.database.connection import Connection
from tests.support.gateway import Gateway

# pg_stat_activity is not used, because what it returns does not change within a transaction. A session that waits for a row
# waits for the lock of a transaction, which has no database. Another lock that the session holds shows its database.
_FROM_SESSIONS = """
    FROM pg_locks AS waiting JOIN pg_locks AS held USING (pid) JOIN pg_database ON oid = held.database
    WHERE NOT waiting.granted AND datname = current_database()
"""
SESSION_WAITS_FOR_LOCK_SQL = f"SELECT EXISTS (SELECT {_FROM_SESSIONS})"
COUNT_WAITING_SESSIONS_SQL = f"SELECT count(DISTINCT pid) {_FROM_SESSIONS}"
LOCK_WAIT_SQL = f"SELECT min(waiting.waitstart), clock_timestamp() - min(waiting.waitstart) {_FROM_SESSIONS}"
"""The start of the longest wait and the time since then, or NULLs."""


@asynccontextmanager
async def locked_table(gateway: Gateway, table: str, mode: str = "SHARE") -> AsyncIterator[None]:
    """Locks the table, by default against writes only, so that a request that needs it fails after its lock timeout."""
    async with gateway.database.transaction() as connection:
        await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
        yield


@asynccontextmanager
async def locked_pace(gateway: Gateway, subject_id: UUID) -> AsyncIterator[Connection]:
    """Locks the row of an account or a queue in `pace`, and yields the connection that holds the lock."""
    async with gateway.database.transaction() as connection:
        rows = await connection.fetch("SELECT FROM pace WHERE subject_id = $1 FOR UPDATE", subject_id)
        assert len(rows) == 1
        yield connection
