"""Statements past SQLAlchemy, for the few that every call costs. Knows no table.

A checkout from SQLAlchemy's pool and an execution through it cost this process six times what asyncpg alone does
(docs/performance.md). Each statement here is one round trip, and a transaction of its own.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

# A statement that is prepared while a table is empty keeps the plan that was right then, which is to read all of it: until
# Postgres next looks at how large it is, each execution takes longer than the one before.
_BY_INDEX = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
# Some networks forget a connection that is silent for six minutes, and tell neither end.
_LONGEST_IDLE_S = 300.0
# As the pool's own (engine.py): nothing about a server or a session that has become wrong stays for ever.
_LONGEST_LIFE_S = 1800.0
_GOOD_BYE_S = 1.0


@dataclass(slots=True)
class _Kept:
    connection: asyncpg.Connection
    made_at: float
    used_at: float


class Statements:
    """Connections beside the pool: as many as there are statements at one moment, kept for the next.

    For statements that find a few rows by index, and no others. A connection on which anything went wrong is not used again:
    the reason may be its own, such as a server that takes no writes any more.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options` are those of asyncpg.connect()."""
        self._options = options
        self._idle: list[_Kept] = []

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Raises asyncpg's errors, and OSError when there is no connection to be had or it was lost.

        Cancelled, it leaves open whether the statement took place.
        """
        kept = self._known() or await self._connect()
        try:
            rows: list[asyncpg.Record] = await kept.connection.fetch(statement, *arguments)
        except BaseException:
            kept.connection.terminate()
            raise
        kept.used_at = time.monotonic()
        self._idle.append(kept)
        return rows

    async def _connect(self) -> _Kept:
        try:
            connection = await asyncpg.connect(**self._options)
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            # A wrong password, or no server of the wanted kind: whatever it is, it is no fault of the statement's.
            raise ConnectionError(type(error).__name__) from error
        try:
            await connection.execute(_BY_INDEX)
        except BaseException:
            connection.terminate()
            raise
        now = time.monotonic()
        return _Kept(connection, made_at=now, used_at=now)

    def _known(self) -> _Kept | None:
        now = time.monotonic()
        while self._idle:
            kept = self._idle.pop()
            fresh = now - kept.used_at < _LONGEST_IDLE_S and now - kept.made_at < _LONGEST_LIFE_S
            if fresh and not kept.connection.is_closed():
                return kept
            kept.connection.terminate()
        return None

    async def close(self) -> None:
        while self._idle:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await self._idle.pop().connection.close(timeout=_GOOD_BYE_S)
