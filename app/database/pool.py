"""A pool of asyncpg's connections, past SQLAlchemy: for the few statements that every call costs, and for administration.

A checkout from SQLAlchemy's pool and an execution through it cost a process six times what asyncpg alone does, and its import
twice the memory of all else that `callgate keys list` needs (docs/performance.md). Knows no table.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from app.database.connection import Connection
from app.database.errors import unavailable

# Some networks forget a connection that is silent for six minutes, and tell neither end.
_LONGEST_IDLE_S = 300.0
# As the pool's own (engine.py): nothing about a server or a session that has become wrong stays for ever.
_LONGEST_LIFE_S = 1800.0
_GOOD_BYE_S = 1.0
_MAX_CONNECTIONS = 12


@dataclass(slots=True)
class _Kept:
    connection: Connection
    made_at: float
    used_at: float


class Transactions(Protocol):
    """A Pool, or a Database that has one."""

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


class Pool:
    """One connection for each statement or transaction at one moment, at most 12, kept for the next.

    A connection on which anything went wrong is not used again: the reason may be its own, such as a server that takes no
    writes any more.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._idle: list[_Kept] = []
        self._room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of one statement, which is a transaction of its own and one round trip.

        Raises DatabaseUnavailable, and asyncpg's own errors for mistakes in our SQL. Cancelled, it leaves open whether the
        statement took place.
        """
        async with self._room:
            kept = self._known() or await self._new()
            try:
                rows = await _fetch(kept.connection, statement, arguments)
            except BaseException as error:
                kept.connection.terminate()
                told = unavailable(error)
                if told is None:
                    raise
                raise told from error
            self._keep(kept)
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Commits at the end of the block. Raises as `fetch` does; DatabaseUnavailable says whether the commit is in doubt."""
        committing = False
        async with self._room:
            kept = self._known() or await self._new()
            try:
                async with kept.connection.transaction():
                    yield kept.connection
                    committing = True
            except Exception as error:
                told = unavailable(error, commit_in_doubt=committing)
                if told is None:
                    self._keep(kept)  # It was rolled back.
                    raise
                kept.connection.terminate()
                raise told from error
            except BaseException:
                kept.connection.terminate()
                raise
            self._keep(kept)

    async def _new(self) -> _Kept:
        connection = await self._connect()
        now = time.monotonic()
        return _Kept(connection, made_at=now, used_at=now)

    def _keep(self, kept: _Kept) -> None:
        kept.used_at = time.monotonic()
        self._idle.append(kept)

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


async def _fetch(connection: Connection, statement: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record]
    if connection.is_pooled:
        # Settings last for a transaction there, and have to be set before the statement is planned.
        async with connection.transaction():
            rows = await connection.fetch(statement, *arguments)
    else:
        rows = await connection.fetch(statement, *arguments)
    return rows
