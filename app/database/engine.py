"""Engine and sessions.

A transaction is one visible `async with database.begin() as session:`; it commits at the end of the block. Whatever Postgres
or the network to it does wrong leaves the block as DatabaseUnavailable; a mistake in our SQL does not.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from app.database.connection import HOT_SESSION, SESSION, STATEMENT_TIMEOUT_S, Connection, Connector
from app.database.errors import is_of_connection, log_fields, unavailable
from app.database.pool import Pool
from app.errors import DatabaseUnavailable
from app.observability.tracing import TimedSpan, fail

logger = structlog.stdlib.get_logger(__name__)

# What services pass on to repositories.
Session = AsyncSession

POOL_TIMEOUT_S = 5.0


def make_engine(
    url: str,
    *,
    pool_size: int,
    session: Mapping[str, str] = SESSION,
    statement_timeout_s: float | None = STATEMENT_TIMEOUT_S,
) -> AsyncEngine:
    """Raises DatabaseURLError."""
    connector = Connector(url, session, statement_timeout_s=statement_timeout_s)
    adapted: dict[str, object] = {"async_creator_fn": connector.connect}
    if connector.url.prepared_statements is not None:
        adapted["prepared_statement_cache_size"] = connector.url.prepared_statements
    engine = create_async_engine(
        "postgresql+asyncpg://",
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=1800,
        connect_args=adapted,
    )
    event.listen(engine.sync_engine, "handle_error", _give_up_connection)
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    return engine


def _give_up_connection(context: ExceptionContext) -> None:
    """Also where it is not closed: the server takes no writes any more, or asyncpg has lost track of the protocol."""
    if context.original_exception is not None and is_of_connection(context.original_exception):
        context.is_disconnect = True


def _replace_closed(connection: DBAPIConnection, _record: object, _fairy: object) -> None:
    """A connection that was lost while it was idle costs nobody an error: the pool makes another one."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


class Database:
    """The pool of one process."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        self.engine = make_engine(url, pool_size=pool_size)
        self._pool = Pool(Connector(url, HOT_SESSION, statement_timeout_s=STATEMENT_TIMEOUT_S).connect)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """One transaction. Raises DatabaseUnavailable, which says whether its commit is in doubt."""
        committing = False
        with _observed():
            try:
                async with self._sessions.begin() as session:
                    yield session
                    committing = True
            except Exception as error:
                told = unavailable(error, commit_in_doubt=committing)
                if told is None:
                    raise
                raise told from error

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """The rows of one statement ($1, $2 …), which is a transaction of its own, on a connection beside the pool.

        Raises as `begin` does, and asyncpg's own errors for mistakes in our SQL.
        """
        with _observed():
            return await self._pool.fetch(statement, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction on asyncpg alone, on a connection beside SQLAlchemy's pool. Raises as `fetch` does."""
        with _observed():
            async with self._pool.transaction() as connection:
                yield connection

    @property
    def connections_in_use(self) -> int:
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def ping(self) -> None:
        """Raises DatabaseUnavailable."""
        async with self.begin() as session:
            await session.execute(text("SELECT 1"))

    async def server(self) -> "Server":
        """What is behind the URL. Raises DatabaseUnavailable."""
        async with self.begin() as session:
            asked = datetime.now(UTC)
            row = (await session.execute(text(_SERVER))).one()._asdict()
            connection = (await (await session.connection()).get_raw_connection()).driver_connection
        if not isinstance(connection, Connection):
            raise TypeError("made elsewhere than in app.database.connection")
        row |= {"is_pooled": connection.is_pooled, "keeps_statements": connection.keeps_statements}
        now: datetime = row.pop("now")
        return Server(**row, ahead_s=(now - (asked + (datetime.now(UTC) - asked) / 2)).total_seconds())

    async def close(self) -> None:
        await self._pool.close()
        await self.engine.dispose()


@contextmanager
def _observed() -> Iterator[None]:
    """Times work of the database, and logs why it could not be done."""
    with TimedSpan("database"):
        try:
            yield
        except DatabaseUnavailable as error:
            logger.warning("database_unavailable", **log_fields(error))
            fail(type(error.__cause__ or error).__name__)
            raise


@dataclass(frozen=True, slots=True)
class Server:
    version: int
    read_only: bool
    fsync: bool
    full_page_writes: bool
    # As configured for this role and database, whatever this session has made of it.
    synchronous_commit: str
    # What receives its log: standbys, and archivers like them.
    standbys: int
    has_synchronous_standby: bool
    # Whether a pooler is in between, and keeps the prepared statements of clients that share its connections.
    is_pooled: bool
    keeps_statements: bool
    # How far its clock is ahead of ours.
    ahead_s: float


_SERVER = """
    SELECT current_setting('server_version_num')::int / 10000 AS version, pg_is_in_recovery() AS read_only,
        current_setting('fsync')::bool AS fsync, current_setting('full_page_writes')::bool AS full_page_writes,
        (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit,
        (SELECT count(*) FROM pg_stat_replication) AS standbys,
        current_setting('synchronous_standby_names') <> '' AS has_synchronous_standby, clock_timestamp() AS now
"""
