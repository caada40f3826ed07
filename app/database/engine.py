"""Engine and sessions.

A transaction is one visible `async with database.begin() as session:`; it commits at the end of the block. Whatever Postgres
or the network to it does wrong leaves the block as DatabaseUnavailable; a mistake in our SQL does not.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import structlog
from sqlalchemy import event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from app.database.errors import is_passing, is_rerouted, is_unmigrated, sqlstate_of
from app.database.pool import Statements
from app.errors import DatabaseUnavailable
from app.observability.tracing import Step, fail

# What services pass on to repositories.
Session = AsyncSession

logger = structlog.stdlib.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 15.0


def make_engine(url: str, *, pool_size: int, statement_timeout: float | None = STATEMENT_TIMEOUT_S) -> AsyncEngine:
    """An engine on asyncpg. libpq's `sslmode` in the URL is understood, because that is what people paste."""
    parsed = make_url(url)
    if "sslmode" in parsed.query:
        sslmode = parsed.query["sslmode"]
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": sslmode})
    engine = create_async_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=1800,
        connect_args=_connect_options(statement_timeout),
    )
    # Not among the server_settings: PgBouncer refuses a connection that begins with what it does not know.
    event.listen(engine.sync_engine, "connect", _trust_indexes)
    return engine


def _connect_options(statement_timeout: float | None) -> dict[str, Any]:
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": statement_timeout,
        "server_settings": {"application_name": "callgate", "timezone": "UTC"},
    }


def _statements(engine: AsyncEngine) -> Statements:
    """Over the same URL as the engine."""
    _, options = engine.dialect.create_connect_args(engine.url)
    # SQLAlchemy's name for it; 0 is what an old PgBouncer needs.
    cache = options.pop("prepared_statement_cache_size", None)
    known = {} if cache is None else {"statement_cache_size": cache}
    return Statements({**options, **known, **_connect_options(STATEMENT_TIMEOUT_S)})


def _trust_indexes(connection: DBAPIConnection, _record: object) -> None:
    """Postgres takes a page found by an index for four times as dear as the next one, which was true of disks that turn.

    It then walks through everybody's calls to find the newest of one large tenant: all of them since that tenant's last.
    """
    connection.run_async(lambda driver: driver.execute("SET random_page_cost = 1.1"))


class Database:
    """The pool of one process."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        self.engine = make_engine(url, pool_size=pool_size)
        self._statements = _statements(self.engine)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """One transaction. Raises DatabaseUnavailable; whether a commit that failed so took place is not known."""
        async with self._translated(), self._sessions.begin() as session:
            yield session

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """The rows of one statement ($1, $2 …), which is a transaction of its own, on a connection beside the pool.

        Raises as `begin` does, and asyncpg's own errors for mistakes in our SQL.
        """
        with Step("database"):
            try:
                return await self._statements.fetch(statement, *arguments)
            except (asyncpg.InterfaceError, OSError) as error:
                raise self._unavailable(error) from error
            except asyncpg.PostgresError as error:
                if is_unmigrated(error) or is_passing(error) or is_rerouted(error):
                    raise self._unavailable(error) from error
                raise

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        with Step("database"):
            try:
                yield
            except (OperationalError, InterfaceError, PoolTimeout, OSError, asyncpg.PostgresError) as error:
                raise self._unavailable(error) from error
            except DBAPIError as error:
                cause = error.orig and error.orig.__cause__
                if error.connection_invalidated or is_unmigrated(cause) or is_passing(cause) or is_rerouted(cause):
                    raise self._unavailable(error) from error
                raise

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
            row = (
                await session.execute(
                    text("SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), clock_timestamp()")
                )
            ).one()
        version, read_only, now = row
        return Server(version // 10_000, read_only, (now - (asked + (datetime.now(UTC) - asked) / 2)).total_seconds())

    def _unavailable(self, error: Exception) -> DatabaseUnavailable:
        # The class and SQLSTATE only: the text may hold the statement's values.
        fail(type(error).__name__)
        cause = getattr(error, "orig", None) or error.__cause__ or error
        logger.warning(
            "database_unavailable",
            error=type(cause).__name__,
            sqlstate=sqlstate_of(cause),
            hint="run `callgate migrate`" if is_unmigrated(cause) else None,
        )
        return DatabaseUnavailable(after_s=2)

    async def close(self) -> None:
        await self._statements.close()
        await self.engine.dispose()


@dataclass(frozen=True, slots=True)
class Server:
    version: int
    read_only: bool
    ahead_s: float
    """How far its clock is ahead of ours."""
