"""The second connection pool of a process: asyncpg without SQLAlchemy.

It runs the statements that every call needs, and those of administration.

Running a statement through SQLAlchemy's pool takes six times the CPU time of asyncpg alone. Importing SQLAlchemy takes twice
the memory of everything else that `callgate keys list` needs (docs/performance.md). Does not import the table models. The
setting `database_pool_size` is the size of SQLAlchemy's pool (engine.py), not of this one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import asyncpg

from app.database.connection import Connection
from app.database.errors import translate_error

# Some networks drop connections that are idle for six minutes without closing them.
_MAX_IDLE_S = 300.0
# As in SQLAlchemy's pool (engine.py): a session in a bad state does not stay in use for ever.
_MAX_LIFETIME_S = 1800.0
_CLOSE_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 12
"""The limit of connections in a Pool."""


@dataclass(slots=True)
class _PooledConnection:
    connection: Connection
    created_at: float
    used_at: float


class StatementRunner(Protocol):
    """The interface of an object that runs single statements without SQLAlchemy: a Pool, a Database or a Connection."""

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]: ...


class TransactionRunner(Protocol):
    """The interface of an object that runs transactions without SQLAlchemy: a Pool, a Database, or one of their wrappers."""

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


class StatementPool(TransactionRunner, Protocol):
    """The interface of an object that runs transactions and single statements without SQLAlchemy: a Pool or a Database.

    A single statement is its own transaction.
    """

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]: ...


class _CountingSemaphore(asyncio.Semaphore):
    """A semaphore that limits the connections of a Pool. `taken` is the number of connections in use."""

    taken = 0

    async def acquire(self) -> Literal[True]:
        await super().acquire()
        self.taken += 1
        return True

    def release(self) -> None:
        self.taken -= 1
        super().release()


class Pool:
    """Runs each statement or transaction on its own connection, at most MAX_CONNECTIONS at a time. Reuses idle connections.

    A connection is closed if a single statement fails on it, or if Postgres or the network fails during a transaction, because
    the connection may be the cause: for example, its server may have become read-only.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._idle: list[_PooledConnection] = []
        self._slots = _CountingSemaphore(MAX_CONNECTIONS)

    @property
    def connections_in_use(self) -> int:
        return self._slots.taken

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Returns the rows of one statement.

        The statement is its own transaction, and without a pooler it takes one round trip.

        Raises DatabaseUnavailable, and asyncpg's errors for errors in the SQL. After a cancellation it is unknown whether the
        statement ran.
        """
        async with self._slots:
            pooled = self._take_idle() or await self._connect_new()
            try:
                rows = await _fetch(pooled.connection, statement, arguments)
            except BaseException as error:
                pooled.connection.terminate()
                translated = translate_error(error)
                if translated is None:
                    raise
                raise translated from error
            self._put_back(pooled)
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Runs a transaction that commits at the end of the block. Raises DatabaseUnavailable, as `Database.begin` does."""
        committing = False
        async with self._slots:
            pooled = self._take_idle() or await self._connect_new()
            try:
                async with pooled.connection.transaction():
                    yield pooled.connection
                    committing = True
            except Exception as error:
                translated = translate_error(error, commit_in_doubt=committing)
                if translated is None:
                    self._put_back(pooled)  # The transaction was rolled back.
                    raise
                pooled.connection.terminate()
                raise translated from error
            except BaseException:
                pooled.connection.terminate()
                raise
            self._put_back(pooled)

    async def _connect_new(self) -> _PooledConnection:
        connection = await self._connect()
        now = time.monotonic()
        return _PooledConnection(connection, created_at=now, used_at=now)

    def _put_back(self, pooled: _PooledConnection) -> None:
        """Keeps the connection for later statements. Closes the connections that have been idle for _MAX_IDLE_S."""
        now = pooled.used_at = time.monotonic()
        self._idle.append(pooled)
        # `_take_idle` takes the connection that was used last, so it would never examine the others.
        while now - self._idle[0].used_at >= _MAX_IDLE_S:
            self._idle.pop(0).connection.terminate()

    def _take_idle(self) -> _PooledConnection | None:
        now = time.monotonic()
        while self._idle:
            pooled = self._idle.pop()
            is_fresh = now - pooled.used_at < _MAX_IDLE_S and now - pooled.created_at < _MAX_LIFETIME_S
            if is_fresh and not pooled.connection.is_closed():
                return pooled
            pooled.connection.terminate()
        return None

    async def close(self) -> None:
        while self._idle:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await self._idle.pop().connection.close(timeout=_CLOSE_TIMEOUT_S)


async def _fetch(connection: Connection, statement: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record]
    if connection.is_pooled:
        # Behind a pooler, settings last for one transaction and must be set before the statement is planned.
        async with connection.transaction():
            rows = await connection.fetch(statement, *arguments)
    else:
        rows = await connection.fetch(statement, *arguments)
    return rows
