"""The connections of a process to Postgres, and the transactions on them.

A transaction is one `async with database.begin() as session:` block and commits at the end of the block. Failures of Postgres
or of the network become DatabaseUnavailable. Errors in Callgate's own SQL are raised unchanged.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
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

from app.database.connection import SESSION_SETTINGS, STATEMENT_POOL_SETTINGS, STATEMENT_TIMEOUT_S, Connection, Connector
from app.database.errors import failure_log_fields, makes_connection_unusable, translate_error
from app.database.pool import Pool
from app.errors import DatabaseUnavailable
from app.observability.tracing import TimedSpan, mark_span_failed

logger = structlog.stdlib.get_logger(__name__)

# The type that services pass to repositories.
Session = AsyncSession

POOL_TIMEOUT_S = 5.0

_AFTER_COMMIT_FUNCTIONS_KEY = "callgate_after_commit"


def make_engine(
    url: str,
    *,
    pool_size: int,
    session_settings: Mapping[str, str] = SESSION_SETTINGS,
    statement_timeout_s: float | None = STATEMENT_TIMEOUT_S,
) -> AsyncEngine:
    """Returns a SQLAlchemy engine whose pool opens connections with a Connector. Raises DatabaseURLError if the URL is invalid.

    `session_settings` has the Postgres settings of each session, by name. A statement that takes longer than
    `statement_timeout_s` is canceled; with None, only a `statement_timeout` in `session_settings` limits it.
    """
    connector = Connector(url, session_settings, statement_timeout_s=statement_timeout_s)
    adapted: dict[str, object] = {"async_creator_fn": connector.connect}
    if connector.url.statement_cache_size is not None:
        adapted["prepared_statement_cache_size"] = connector.url.statement_cache_size
    engine = create_async_engine(
        "postgresql+asyncpg://",
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=1800,
        connect_args=adapted,
    )
    event.listen(engine.sync_engine, "handle_error", _invalidate_unusable_connection)
    event.listen(engine.sync_engine, "checkout", _replace_closed_connection)
    return engine


def _invalidate_unusable_connection(context: ExceptionContext) -> None:
    """Handles SQLAlchemy's event `handle_error`: discards the connection if the error has made it unusable."""
    if context.original_exception is not None and makes_connection_unusable(context.original_exception):
        context.is_disconnect = True


def _replace_closed_connection(connection: DBAPIConnection, _record: object, _fairy: object) -> None:
    """Handles SQLAlchemy's event `checkout`: makes the pool replace a connection that was lost while it was idle."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


class Database:
    """The connections of one process to Postgres: the pool of SQLAlchemy, and a Pool for statements without SQLAlchemy."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        self.engine = make_engine(url, pool_size=pool_size)
        self._pool = Pool(Connector(url, STATEMENT_POOL_SETTINGS, statement_timeout_s=STATEMENT_TIMEOUT_S).connect)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """Runs one transaction, which commits at the end of the block.

        Raises DatabaseUnavailable if Postgres or the network fails. The error's `commit_in_doubt` says whether the transaction
        may have been committed.
        """
        committing = False
        with _timed_with_failure_log():
            try:
                async with self._sessions.begin() as session:
                    yield session
                    committing = True
            except Exception as error:
                translated = translate_error(error, commit_in_doubt=committing)
                if translated is None:
                    raise
                if translated.commit_in_doubt:
                    _run_functions_after_commit(session)
                raise translated from error
            _run_functions_after_commit(session)

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """Returns the rows of one statement with parameters $1, $2 …, run in its own transaction without SQLAlchemy.

        Raises DatabaseUnavailable, as `begin` does, and asyncpg's errors for errors in the SQL.
        """
        with _timed_with_failure_log():
            return await self._pool.fetch(statement, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Runs one transaction without SQLAlchemy. Raises DatabaseUnavailable, as `begin` does."""
        with _timed_with_failure_log():
            async with self._pool.transaction() as connection:
                yield connection

    @property
    def session_connections_in_use(self) -> int:
        """The number of connections that `begin` uses now, at most the size of the pool."""
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    @property
    def statement_connections_in_use(self) -> int:
        """The number of connections that `fetch` and `transaction` use now, at most MAX_CONNECTIONS of app.database.pool."""
        return self._pool.connections_in_use

    async def ping(self) -> None:
        """Runs `SELECT 1`. Raises DatabaseUnavailable if Postgres or the network fails."""
        async with self.begin() as session:
            await session.execute(text("SELECT 1"))

    async def read_postgres_server_info(self) -> "PostgresServerInfo":
        """Returns facts about the Postgres server, such as its version and its settings.

        Raises DatabaseUnavailable if Postgres or the network fails.
        """
        async with self.begin() as session:
            asked = datetime.now(UTC)
            row = (await session.execute(text(_SERVER_INFO_SQL))).one()._asdict()
            connection = await driver_connection(session)
        row |= {"is_pooled": connection.is_pooled, "keeps_prepared_statements": connection.keeps_prepared_statements}
        now: datetime = row.pop("now")
        return PostgresServerInfo(**row, clock_ahead_s=(now - (asked + (datetime.now(UTC) - asked) / 2)).total_seconds())

    async def close(self) -> None:
        await self._pool.close()
        await self.engine.dispose()


def run_after_commit(session: AsyncSession, function: Callable[[], None]) -> None:
    """Makes `Database.begin` call the function after it has committed the session's transaction.

    The function is also called if it is unknown whether the commit succeeded. It is not called after a rollback.
    """
    session.info.setdefault(_AFTER_COMMIT_FUNCTIONS_KEY, []).append(function)


def _run_functions_after_commit(session: AsyncSession) -> None:
    for function in session.info.get(_AFTER_COMMIT_FUNCTIONS_KEY, ()):
        function()


async def driver_connection(session: AsyncSession) -> Connection:
    """Returns the asyncpg connection that the session uses. Statements on it are part of the session's transaction."""
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    if not isinstance(connection, Connection):
        raise TypeError("the connection was not opened by app.database.connection")
    return connection


@contextmanager
def _timed_with_failure_log() -> Iterator[None]:
    """Adds the duration of the block to the database time of the request. Logs and re-raises DatabaseUnavailable."""
    with TimedSpan("database"):
        try:
            yield
        except DatabaseUnavailable as error:
            logger.warning("database_unavailable", **failure_log_fields(error))
            mark_span_failed(type(error.__cause__ or error).__name__)
            raise


@dataclass(frozen=True, slots=True)
class PostgresServerInfo:
    version: int
    read_only: bool
    fsync: bool
    full_page_writes: bool
    # As configured for this role and database, before this session changed it.
    synchronous_commit: str
    # Clients of streaming replication: standbys and log archivers.
    standbys: int
    has_synchronous_standby: bool
    # Whether the connection goes through a pooler.
    is_pooled: bool
    keeps_prepared_statements: bool
    # How far the server's clock is ahead of this machine's, in seconds.
    clock_ahead_s: float


_SERVER_INFO_SQL = """
    SELECT current_setting('server_version_num')::int / 10000 AS version, pg_is_in_recovery() AS read_only,
        current_setting('fsync')::bool AS fsync, current_setting('full_page_writes')::bool AS full_page_writes,
        (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit,
        (SELECT count(*) FROM pg_stat_replication) AS standbys,
        current_setting('synchronous_standby_names') <> '' AS has_synchronous_standby, clock_timestamp() AS now
"""
