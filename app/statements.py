"""Statements past SQLAlchemy, for the few that every call costs. Knows no table.

A checkout from SQLAlchemy's pool and an execution through it cost this process six times what asyncpg alone does
(docs/performance.md). Each statement here is one round trip, and a transaction of its own.
"""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import asyncpg

# A statement that is prepared while a table is empty keeps the plan that was right then, which is to read all of it: until
# Postgres next looks at how large it is, each execution takes longer than the one before.
_BY_INDEX = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
# Some networks forget a connection that is silent for six minutes, and tell neither end.
_LONGEST_IDLE_S = 300.0
_GOOD_BYE_S = 1.0


class Statements:
    """Connections beside the pool: as many as there are statements at one moment, kept for the next.

    For statements that find a few rows by index, and no others.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options` are those of asyncpg.connect()."""
        self._options = options
        self._idle: list[tuple[asyncpg.Connection, float]] = []

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Raises asyncpg's errors, and OSError when there is no connection to be had or it was lost.

        Cancelled, it leaves open whether the statement took place.
        """
        connection = self._known() or await self._connect()
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        except asyncpg.PostgresError:
            # Postgres has answered: the connection is as good as before, or closed, which shows.
            self._idle.append((connection, time.monotonic()))
            raise
        except BaseException:
            connection.terminate()
            raise
        self._idle.append((connection, time.monotonic()))
        return rows

    async def _connect(self) -> asyncpg.Connection:
        try:
            connection = await asyncpg.connect(**self._options)
        except asyncpg.PostgresError as error:
            # Such as a wrong password: whatever it is, it is no fault of the statement's.
            raise ConnectionError(type(error).__name__) from error
        try:
            await connection.execute(_BY_INDEX)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _known(self) -> asyncpg.Connection | None:
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.is_closed() and time.monotonic() - since < _LONGEST_IDLE_S:
                return connection
            connection.terminate()
        return None

    async def close(self) -> None:
        while self._idle:
            connection, _ = self._idle.pop()
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.close(timeout=_GOOD_BYE_S)
