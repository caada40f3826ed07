"""Engine, sessions and the declarative Base. Knows no table.

A transaction is one visible `async with database.begin() as session:`; it commits at the end of the block. Whatever Postgres
or the network to it does wrong leaves the block as DatabaseUnavailable; a mistake in our SQL does not.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
import structlog
from sqlalchemy import MetaData, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import QueuePool

from app.errors import DatabaseUnavailable
from app.observability.tracing import Step, fail
from app.statements import Statements

# What services pass on to repositories.
Session = AsyncSession

logger = structlog.stdlib.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 15.0
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING_CLASSES = frozenset({"08", "25", "40", "53", "55", "57", "58"})
_UNDEFINED_TABLE, _UNDEFINED_COLUMN = "42P01", "42703"
_CHECK_VIOLATION = "23514"
_LOCK_NOT_AVAILABLE = "55P03"
_LOCK_BRIEFLY_MS = 100


class Base(DeclarativeBase):
    """All tables; one naming convention, so that migrations can name every constraint."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


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
                if _is_unmigrated(error) or _is_passing(error) or _is_rerouted(error):
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
                if error.connection_invalidated or _is_unmigrated(cause) or _is_passing(cause) or _is_rerouted(cause):
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
            sqlstate=_sqlstate(cause),
            hint="run `callgate migrate`" if _is_unmigrated(cause) else None,
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


def _sqlstate(error: BaseException | None) -> str:
    """Of an error of asyncpg's, or of SQLAlchemy's over it."""
    return getattr(error, "sqlstate", None) or ""


def _is_passing(error: BaseException | None) -> bool:
    """Postgres's trouble, no mistake of ours: read-only after a failover, deadlock, out of disk, cancelled, shutting down.

    Or, of several servers in the URL, none of the wanted kind.
    """
    return _sqlstate(error)[:2] in _PASSING_CLASSES or isinstance(error, asyncpg.TargetServerAttributeNotMatched)


def _is_rerouted(error: BaseException | None) -> bool:
    """A partition was attached between the planning of an insert and its row: the default one does not take it any more.

    What a table's own CHECK refuses has that constraint's name.
    """
    return _sqlstate(error) == _CHECK_VIOLATION and getattr(error, "constraint_name", None) is None


def _is_unmigrated(error: BaseException | None) -> bool:
    return _sqlstate(error) in (_UNDEFINED_TABLE, _UNDEFINED_COLUMN)


@dataclass(frozen=True, slots=True)
class Partition:
    """One month of a table."""

    table: str
    name: str

    @property
    def end(self) -> datetime:
        first = datetime.strptime(self.name, f"{self.table}_%Y_%m").date()  # noqa: DTZ007  # a month has no zone
        return datetime.combine(_month(first, 1), datetime.min.time(), UTC)


async def make_partitions(session: AsyncSession, table: str, *, months_ahead: int) -> None:
    """Monthly partitions of `table` from this month on, where they are missing. Several workers may ask at once.

    Rows that have gone into `<table>_default` meanwhile are moved: Postgres refuses a partition whose rows lie there.
    """
    await session.execute(text("SET LOCAL lock_timeout = '5s'"))
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:table))"), {"table": f"partitions of {table}"})
    today = datetime.now(UTC).date()
    for offset in range(months_ahead + 1):
        first, following = _month(today, offset), _month(today, offset + 1)
        partition, default = f"{table}_{first:%Y_%m}", f"{table}_default"
        if await session.scalar(text("SELECT to_regclass(:name)"), {"name": partition}):
            continue
        moved = f"DELETE FROM {default} WHERE at >= '{first}' AND at < '{following}' RETURNING *"  # noqa: S608
        for statement in (
            f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
            f"CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)",
            f"WITH moved AS ({moved}) INSERT INTO {partition} SELECT * FROM moved",  # noqa: S608  # our own names
            f"ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ('{first}') TO ('{following}')",
        ):
            await session.execute(text(statement))


async def expired_partitions(session: AsyncSession, table: str, *, before: datetime) -> list[Partition]:
    """Those whose whole month lies before that time, the oldest first. Never the default one, nor one that was made by hand."""
    names = await session.scalars(
        text("SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = to_regclass(:table)"),
        {"table": table},
    )
    partitions = [Partition(table, name) for name in sorted(names) if re.fullmatch(rf"{table}_\d{{4}}_\d{{2}}", name)]
    return [partition for partition in partitions if partition.end <= before]


async def lock_briefly(session: AsyncSession, partition: Partition) -> bool:
    """Keep everybody out of the partition and its table; False when that is not to be had at once.

    Whoever comes meanwhile waits. Postgres detaches no partition `CONCURRENTLY` where there is a default one.
    """
    await session.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_BRIEFLY_MS}ms'"))
    try:
        async with session.begin_nested():
            for table in (partition.table, partition.name):
                await session.execute(text(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE"))
    except DBAPIError as error:
        # Somebody reads it for long, or another worker has dropped it.
        if getattr(error.orig, "sqlstate", None) in (_LOCK_NOT_AVAILABLE, _UNDEFINED_TABLE):
            return False
        raise
    return True


async def drop_partition(session: AsyncSession, partition: Partition) -> None:
    await session.execute(text(f"DROP TABLE {partition.name}"))


def _month(day: date, offset: int) -> date:
    """The first day of the month `offset` months after that of `day`."""
    months = day.year * 12 + day.month - 1 + offset
    return date(months // 12, months % 12 + 1, 1)
