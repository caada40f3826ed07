"""Halts grants when the database may have lost some: it was restored or copied, or a standby was promoted.

A grant deletes the right to dial. If the grant is lost and its row is back, the call would be dialled again. So grants are made
only on the server, timeline, database and table for which they were made before, until `callgate queues release` has found out
which calls Twilio has. A part that the server hides is not compared.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from app.database.connection import Connection
from app.scheduling.guard_sql import CURRENT_SERVER
from app.scheduling.store import Statements

logger = structlog.stdlib.get_logger(__name__)

HIDDEN: Final = "-"
"""What callgate_server() has for a part that Postgres does not tell."""

_RECORD = f"INSERT INTO grant_guard (server) VALUES ({CURRENT_SERVER}) ON CONFLICT DO NOTHING RETURNING id"
_HALT = f"""
    UPDATE grant_guard SET halted_at = clock_timestamp() WHERE id = 1 AND halted_at IS NULL AND server <> {CURRENT_SERVER}
    RETURNING seen_at, server, {CURRENT_SERVER} AS current
"""
_SEEN = f"""
    UPDATE grant_guard SET seen_at = clock_timestamp() WHERE id = 1 AND halted_at IS NULL AND server = {CURRENT_SERVER}
    RETURNING id
"""
# Where no call waits, no lost grant can be repeated.
_ADOPT = f"""
    UPDATE grant_guard SET server = {CURRENT_SERVER}, seen_at = clock_timestamp()
    WHERE id = 1 AND halted_at IS NULL AND NOT EXISTS (SELECT FROM scheduled_dial) RETURNING id
"""
_READ = f"""
    SELECT server, {CURRENT_SERVER} AS current, seen_at, halted_at, clock_timestamp() AS read_at FROM grant_guard WHERE id = 1
"""
_RELEASE = f"""
    UPDATE grant_guard SET server = $1, seen_at = clock_timestamp(), halted_at = NULL WHERE id = 1 AND {CURRENT_SERVER} = $1
    RETURNING id
"""


@dataclass(frozen=True, slots=True)
class GuardState:
    """The row, and the server as it is now."""

    server: str
    current: str
    seen_at: datetime
    halted_at: datetime | None
    read_at: datetime

    @property
    def may_grant(self) -> bool:
        return self.halted_at is None and self.server == self.current


async def record_or_halt(connection: Connection) -> bool:
    """Records the server for the first grants, or else halts all grants. Returns whether calls may be granted.

    For a transaction in which MAY_GRANT was not true.
    """
    if await connection.fetchrow(_RECORD) is not None:
        return True
    halted = await connection.fetchrow(_HALT)
    if halted is not None:
        logger.error("grants_halted", seen_at=halted["seen_at"].isoformat(), was=halted["server"], now=halted["current"])
    return False


async def watch(connection: Connection) -> None:
    """Notes that what is committed by now is not lost, as far as it is known; halts grants if the server is another.

    While no call waits, another server is accepted.
    """
    if await connection.fetchrow(_SEEN) is None and await connection.fetchrow(_ADOPT) is None:
        await record_or_halt(connection)


async def read_guard(database: Statements) -> GuardState | None:
    """Returns None if nothing was recorded yet."""
    rows = await database.fetch(_READ)
    return GuardState(**rows[0]) if rows else None


async def release_grants(connection: Connection, server: str) -> bool:
    """Lets calls be granted again on this server. Returns False if it is not this one any more."""
    return await connection.fetchrow(_RELEASE, server) is not None
