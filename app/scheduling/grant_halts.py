"""Halts all grants when the database may have lost some of them: it was restored or copied, or a standby was promoted.

A grant is a worker's right to dial one scheduled call. The worker takes it in a transaction that deletes the call's row in
`scheduled_dial`. If the database loses this transaction, the row is back, and the call would be dialled again. So workers take
grants only on the same server, timeline, database and table as before, and only while the database has all grants that workers
know of (app.scheduling.grant_counters). Otherwise all grants are halted until `callgate queues release` has found out which
calls Twilio has. If a server hides its timeline, the start time of the server is compared instead.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import structlog

from app.database.connection import Connection
from app.database.pool import StatementRunner
from app.scheduling.grant_counters import DialGrantCount
from app.scheduling.grant_halt_sql import CURRENT_SERVER_SQL, RELEASED_AT_MICROSECONDS_SQL

logger = structlog.stdlib.get_logger(__name__)

HIDDEN_SERVER_ID_PART: Final = "-"
"""The text that the SQL function callgate_server() returns for a part of the server's identity that Postgres hides."""
SERVER_START_TIME_PREFIX: Final = "started "
"""The prefix of the server's start time, which callgate_server() returns in place of a timeline that Postgres hides."""

HaltReason = Literal["server", "counter", "operator"]
"""Why grants (rights to dial scheduled calls) are halted.

`server`: the database now runs on another Postgres server. `counter`: the database has fewer grants of an account than a worker
knows of. `operator`: an operator has run `callgate queues halt`.
"""

# Later than before, also after a backward step of the clock: otherwise the counts that workers know would be greater for ever.
_NEXT_RELEASED_AT_SQL: Final = "greatest(clock_timestamp(), released_at + interval '1 microsecond')"
_RECORD_SERVER = f"INSERT INTO grant_guard (server) VALUES ({CURRENT_SERVER_SQL}) ON CONFLICT DO NOTHING RETURNING id"
_HALT_ON_NEW_SERVER = f"""
    UPDATE grant_guard SET halted_at = clock_timestamp(), halt_reason = 'server'
    WHERE id = 1 AND halted_at IS NULL AND server <> {CURRENT_SERVER_SQL}
    RETURNING seen_at, server, {CURRENT_SERVER_SQL} AS current
"""
_UPDATE_SEEN_AT = f"""
    UPDATE grant_guard SET seen_at = clock_timestamp() WHERE id = 1 AND halted_at IS NULL AND server = {CURRENT_SERVER_SQL}
    RETURNING id
"""
# Accepts another server while no scheduled call waits, because then no call can be dialled twice.
_ACCEPT_SERVER = f"""
    UPDATE grant_guard SET server = {CURRENT_SERVER_SQL}, seen_at = clock_timestamp(), released_at = {_NEXT_RELEASED_AT_SQL}
    WHERE id = 1 AND halted_at IS NULL AND NOT EXISTS (SELECT FROM scheduled_dial) RETURNING id
"""
_READ_HALT_STATE = f"""
    SELECT server, {CURRENT_SERVER_SQL} AS current_server, seen_at, halted_at, halt_reason, clock_timestamp() AS read_at,
        pg_postmaster_start_time() AS server_started_at, xmin::text AS version
    FROM grant_guard WHERE id = 1
"""
# The new `released_at` makes the higher counts that workers remember obsolete, so that they do not halt grants again.
_RELEASE_GRANTS = f"""
    UPDATE grant_guard SET server = $1, seen_at = clock_timestamp(), halted_at = NULL, halt_reason = NULL,
        released_at = {_NEXT_RELEASED_AT_SQL}
    WHERE id = 1 AND {CURRENT_SERVER_SQL} = $1 AND xmin::text = $2
    RETURNING id
"""
# An account without a row in `pace` has no grants.
_READ_GRANT_COUNTS = f"""
    SELECT known.id, {RELEASED_AT_MICROSECONDS_SQL} AS released, coalesce(grants, 0) AS grants, granted_at
    FROM unnest($1::uuid[]) AS known (id) LEFT JOIN pace ON subject_id = known.id
"""
# If there is no row yet, it is unknown since when grants may be lost, so `seen_at` is 1970.
_HALT_BY_OPERATOR = f"""
    INSERT INTO grant_guard AS guard (server, seen_at, halted_at, halt_reason)
    VALUES ({CURRENT_SERVER_SQL}, to_timestamp(0), clock_timestamp(), 'operator')
    ON CONFLICT (id) DO UPDATE SET halted_at = clock_timestamp(), halt_reason = 'operator' WHERE guard.halted_at IS NULL
    RETURNING server, halted_at
"""
# Writes the row without a change, so that a release that has read the row before fails.
_TOUCH_HALT = "UPDATE grant_guard SET halted_at = halted_at WHERE id = 1 RETURNING server, halted_at"
# Moves `seen_at` back to before all lost grants. They were taken after the account's last grant in the database ($1), and after
# the `not_before` of a waiting call. A worker that did not notice the loss may have set `seen_at` later than that, and may have
# taken more grants for calls of the account.
_HALT_FOR_LOST_GRANTS = """
    UPDATE grant_guard SET halted_at = clock_timestamp(), halt_reason = 'counter',
        seen_at = least(seen_at, $1::timestamptz, (SELECT min(not_before) FROM scheduled_dial))
    WHERE id = 1 AND halted_at IS NULL RETURNING seen_at
"""


@dataclass(frozen=True, slots=True)
class DialGrantHaltState:
    """The row of `grant_guard`, which says whether grants (rights to dial) are halted, and the server it was read from."""

    server: str
    """The only Postgres server on which workers may take grants (rights to dial scheduled calls)."""
    current_server: str
    """The server from which this state was read."""
    seen_at: datetime
    """The database has lost no transaction that was committed before this time."""
    halted_at: datetime | None
    halt_reason: HaltReason | None
    read_at: datetime
    server_started_at: datetime
    """When the current server was started. A halt from before that may be one that a restored snapshot contained."""
    version: str
    """A text that changes each time the row is written (Postgres's `xmin`)."""

    @property
    def may_grant(self) -> bool:
        return self.halted_at is None and self.server == self.current_server


async def record_server_or_halt_grants(connection: Connection) -> bool:
    """Records the current Postgres server if no server is recorded yet. Returns True then: workers may take grants.

    Otherwise returns False. If another server is recorded, also halts all grants (rights to dial), unless they are halted
    already. If the current server is recorded, changes nothing. MAY_TAKE_GRANTS_SQL then tells whether workers may take grants.
    """
    if await connection.fetchrow(_RECORD_SERVER) is not None:
        return True
    halted = await connection.fetchrow(_HALT_ON_NEW_SERVER)
    if halted is not None:
        logger.error("grants_halted", seen_at=halted["seen_at"].isoformat(), was=halted["server"], now=halted["current"])
    return False


@dataclass(frozen=True, slots=True)
class DialGrantHalt:
    """The result of `halt_grants`: since when all grants (rights to dial scheduled calls) are halted.

    `server` is the Postgres server that the database has recorded. If `was_halted` is true, grants were halted before, and
    `since` is the time of the earlier halt.
    """

    server: str
    since: datetime
    was_halted: bool


async def halt_grants(connection: Connection) -> DialGrantHalt:
    """Halts all grants (rights to dial scheduled calls) until `callgate queues release` allows them again.

    Returns the new halt or, if grants were halted already, the earlier one. The halt also applies on another Postgres server,
    such as a promoted standby. If `callgate queues release` is running and has already read the stored state, it fails.
    """
    if (halted := await connection.fetchrow(_HALT_BY_OPERATOR)) is not None:
        return DialGrantHalt(halted["server"], halted["halted_at"], was_halted=False)
    before = await connection.fetchrow(_TOUCH_HALT)
    return DialGrantHalt(before["server"], before["halted_at"], was_halted=True)


async def halt_after_lost_grants_of_account(connection: Connection, account_id: UUID, *, granted_at: datetime | None) -> None:
    """Halts all grants (rights to dial scheduled calls). Call this if the database has lost grants of the account.

    Does nothing if grants are halted already. `granted_at` is the time of the account's latest grant in the database; None if
    there is none. The lost grants were taken after that. So `seen_at`, the time before which no grant is lost, is moved back if
    it is later than `granted_at`.
    """
    halted = await connection.fetchrow(_HALT_FOR_LOST_GRANTS, granted_at)
    if halted is not None:
        logger.error("grants_halted", seen_at=halted["seen_at"].isoformat(), account_id=str(account_id), reason="counter")


async def halt_if_grants_lost(connection: Connection, known: Mapping[UUID, DialGrantCount]) -> None:
    """Halts all grants if the database may have lost some. Otherwise records in `seen_at` that it has all grants until now.

    A grant is the right to dial one scheduled call. The database may have lost grants if it runs on another Postgres server, or
    if its grant count of an account is lower than in `known`, the highest counts that this worker has seen. While no scheduled
    call waits, does not halt grants in either case, because no call can then be dialled twice. `known` must not change until
    this function returns: a grant that is recorded after the counts were read would look lost.
    """
    behind = await _account_with_lost_grants(connection, known)
    if behind is not None:
        # A restored database may not have the row.
        await connection.execute(_RECORD_SERVER)
    elif await connection.fetchrow(_UPDATE_SEEN_AT) is not None:
        return
    if await connection.fetchrow(_ACCEPT_SERVER) is not None:
        return
    if behind is None:
        await record_server_or_halt_grants(connection)
    else:
        await halt_after_lost_grants_of_account(connection, behind[0], granted_at=behind[1])


async def _account_with_lost_grants(
    connection: Connection, known: Mapping[UUID, DialGrantCount]
) -> tuple[UUID, datetime | None] | None:
    """Returns an account for which the database has fewer grants than `known`, and the time of its last grant in the database.

    Returns None if there is no such account.
    """
    for account_id, released, grants, granted_at in await connection.fetch(_READ_GRANT_COUNTS, list(known)) if known else ():
        if DialGrantCount(released, grants) < known[account_id]:
            return account_id, granted_at
    return None


async def read_grant_halt_state(database: StatementRunner) -> DialGrantHaltState | None:
    """Returns whether grants (rights to dial) are halted, and the current server; None if no server was recorded yet."""
    rows = await database.fetch(_READ_HALT_STATE)
    return DialGrantHaltState(**rows[0]) if rows else None


async def release_grants(connection: Connection, state: DialGrantHaltState) -> bool:
    """Ends the halt of grants, and returns True. Workers may dial scheduled calls again, on the server `state.current_server`.

    If the Postgres server or the row of `grant_guard` has changed since `state` was read, changes nothing and returns False.
    """
    return await connection.fetchrow(_RELEASE_GRANTS, state.current_server, state.version) is not None
