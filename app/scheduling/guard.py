"""Halts grants when the database may have lost some: it was restored or copied, or a standby was promoted.

A grant deletes the right to dial. If the grant is lost and its row is back, the call would be dialled again. So grants are
made only on the server, timeline, database and table for which they were made before, and only while the database has all
grants that are known (app.scheduling.grant_counters). Otherwise none is made until `callgate queues release` has found out
which calls Twilio has. Where the server hides its timeline, the time of its start is compared instead.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import structlog

from app.database.connection import Connection
from app.scheduling.grant_counters import GrantCount
from app.scheduling.guard_sql import CURRENT_SERVER, RELEASED
from app.scheduling.store import Statements

logger = structlog.stdlib.get_logger(__name__)

HIDDEN: Final = "-"
"""Stands in callgate_server() for a part that Postgres hides."""
STARTED: Final = "started "
"""The prefix of the server's start time, which callgate_server() has in place of a hidden timeline."""

HaltReason = Literal["server", "counter", "operator"]
"""Why nothing is granted: another server, a count of grants that is lower than a known one, or `callgate queues halt`."""

_RECORD = f"INSERT INTO grant_guard (server) VALUES ({CURRENT_SERVER}) ON CONFLICT DO NOTHING RETURNING id"
_HALT = f"""
    UPDATE grant_guard SET halted_at = clock_timestamp(), halt_reason = 'server'
    WHERE id = 1 AND halted_at IS NULL AND server <> {CURRENT_SERVER}
    RETURNING seen_at, server, {CURRENT_SERVER} AS current
"""
_SEEN = f"""
    UPDATE grant_guard SET seen_at = clock_timestamp() WHERE id = 1 AND halted_at IS NULL AND server = {CURRENT_SERVER}
    RETURNING id
"""
# While no call waits, no lost grant can be repeated.
_ADOPT = f"""
    UPDATE grant_guard SET server = {CURRENT_SERVER}, seen_at = clock_timestamp(), released_at = clock_timestamp()
    WHERE id = 1 AND halted_at IS NULL AND NOT EXISTS (SELECT FROM scheduled_dial) RETURNING id
"""
_READ = f"""
    SELECT server, {CURRENT_SERVER} AS current, seen_at, halted_at, halt_reason, clock_timestamp() AS read_at,
        xmin::text AS version
    FROM grant_guard WHERE id = 1
"""
# Counts of grants begin again: the higher ones that workers remember must not halt grants again.
_RELEASE = f"""
    UPDATE grant_guard SET server = $1, seen_at = clock_timestamp(), halted_at = NULL, halt_reason = NULL,
        released_at = clock_timestamp()
    WHERE id = 1 AND {CURRENT_SERVER} = $1 AND xmin::text = $2
    RETURNING id
"""
# An account without a row has no grants.
_COUNTS = f"""
    SELECT known.id, {RELEASED} AS released, coalesce(grants, 0) AS grants, granted_at
    FROM unnest($1::uuid[]) AS known (id) LEFT JOIN pace ON subject_id = known.id
"""
# Without a row it is unknown since when grants may be lost, so `seen_at` is 1970.
_HALT_BY_HAND = f"""
    INSERT INTO grant_guard AS guard (server, seen_at, halted_at, halt_reason)
    VALUES ({CURRENT_SERVER}, to_timestamp(0), clock_timestamp(), 'operator')
    ON CONFLICT (id) DO UPDATE SET halted_at = clock_timestamp(), halt_reason = 'operator' WHERE guard.halted_at IS NULL
    RETURNING server, halted_at
"""
# Writes the row, so that a release that has read it before fails.
_STILL_HALTED = "UPDATE grant_guard SET halted_at = halted_at WHERE id = 1 RETURNING server, halted_at"
# A grant locks the table `pace` before it reads whether it is allowed, and until it ends. A backup only reads the table. Not
# pg_stat_activity: it hides the transactions of one role from others.
_UNDER_WAY = """
    SELECT DISTINCT pid, virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'pace'::regclass AND mode <> 'AccessShareLock' AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# All lost grants came after the last one that the account still has, and after the `not_before` of a call that waits. A worker
# that did not notice the loss may have written the row later than that, and may have granted calls of the account.
_HALT_BEHIND = """
    UPDATE grant_guard SET halted_at = clock_timestamp(), halt_reason = 'counter',
        seen_at = least(seen_at, $1::timestamptz, (SELECT min(not_before) FROM scheduled_dial))
    WHERE id = 1 AND halted_at IS NULL RETURNING seen_at
"""


@dataclass(frozen=True, slots=True)
class GuardState:
    """The row, and the server as it is now."""

    server: str
    current: str
    seen_at: datetime
    halted_at: datetime | None
    halt_reason: HaltReason | None
    read_at: datetime
    version: str
    """Changes each time the row is written."""

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


@dataclass(frozen=True, slots=True)
class StoredHalt:
    """A halt of all grants: on which server, since when, and whether it existed before this request (`was_halted`)."""

    server: str
    since: datetime
    was_halted: bool


async def halt_grants(connection: Connection) -> StoredHalt:
    """Halts all grants, whatever the server, until they are released. A release that has begun fails."""
    if (halted := await connection.fetchrow(_HALT_BY_HAND)) is not None:
        return StoredHalt(halted["server"], halted["halted_at"], was_halted=False)
    before = await connection.fetchrow(_STILL_HALTED)
    return StoredHalt(before["server"], before["halted_at"], was_halted=True)


async def grants_under_way(database: Statements) -> set[tuple[int, str]]:
    """Returns the open transactions that may be granting calls, of this database and whatever role."""
    return {(row["pid"], row["virtualtransaction"]) for row in await database.fetch(_UNDER_WAY)}


async def halt_behind(connection: Connection, account_id: UUID, *, granted_at: datetime | None) -> None:
    """Halts all grants, because the account's counter is lower than what is known. `granted_at`: its last grant."""
    halted = await connection.fetchrow(_HALT_BEHIND, granted_at)
    if halted is not None:
        logger.error("grants_halted", seen_at=halted["seen_at"].isoformat(), account_id=str(account_id), reason="counter")


async def watch(connection: Connection, known: Mapping[UUID, GrantCount]) -> None:
    """Moves `seen_at` to now, because what was committed before is not lost, or halts grants if some may be lost.

    `known` are the counts of grants by account. While no call waits, another server and lower counts are accepted.
    """
    behind = await _account_behind(connection, known)
    if behind is not None:
        # A restored database may not have the row.
        await connection.execute(_RECORD)
    elif await connection.fetchrow(_SEEN) is not None:
        return
    if await connection.fetchrow(_ADOPT) is not None:
        return
    if behind is None:
        await record_or_halt(connection)
    else:
        await halt_behind(connection, behind[0], granted_at=behind[1])


async def _account_behind(connection: Connection, known: Mapping[UUID, GrantCount]) -> tuple[UUID, datetime | None] | None:
    """Returns an account whose counter is lower than what is known, with the time of its last grant."""
    for account_id, released, grants, granted_at in await connection.fetch(_COUNTS, list(known)) if known else ():
        if GrantCount(released, grants) < known[account_id]:
            return account_id, granted_at
    return None


async def read_guard(database: Statements) -> GuardState | None:
    """Returns None if nothing was recorded yet."""
    rows = await database.fetch(_READ)
    return GuardState(**rows[0]) if rows else None


async def release_grants(connection: Connection, state: GuardState) -> bool:
    """Ends the halt on this server. Returns False if the server or the row has changed since `state` was read."""
    return await connection.fetchrow(_RELEASE, state.current, state.version) is not None
