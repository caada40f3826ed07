"""A migration that locks several tables never makes Postgres end a request because of a deadlock."""

import asyncio
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, event, make_url, text

from app.database.base import Base
from app.database.connection import MIGRATION_SETTINGS
from app.database.engine import make_engine
from app.local.postgres import EmbeddedPostgres
from app.schema import alembic_config, migrate
from tests.support.locks import LOCK_WAIT_SQL

TIMEOUT_S = 60
# Longer than any wait of `lock_tables`. Postgres looks for a deadlock once in each wait, after a second. After that, the
# migration does not notice a deadlock itself.
LONG_WAIT_S = 2.0
_TABLES = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
_LOCKED_TABLES = text(f"""SELECT DISTINCT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation
    WHERE pid = pg_backend_pid() AND granted AND relname IN ({_TABLES}) AND NOT relispartition
        AND mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')""")  # noqa: S608


def _driver_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def _second_or_long_wait(observer: asyncpg.Connection) -> None:
    """Returns when a session waits for a lock a second time, after it has given up once, or has waited for LONG_WAIT_S."""
    starts: set[datetime] = set()
    while len(starts) < 2:
        start, waited = await observer.fetchrow(LOCK_WAIT_SQL)
        if start is not None:
            starts.add(start)
            if waited > timedelta(seconds=LONG_WAIT_S):
                return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("before", "revision", "tables"),
    [
        ("0001", "0002", ("twilio_credential", "call")),
        ("0005", "0006", ("tenant", "call")),
        ("0016", "0017", ("delivery", "call")),
        ("0020", "0021", ("api_key", "tenant")),
        ("0025", "0026", ("call", "tenant")),
        ("0032", "0033", ("grant_guard", "pace")),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
async def test_a_request_that_uses_both_tables_is_not_in_a_deadlock(
    empty_database_url: str, before: str, revision: str, tables: Sequence[str], is_reversed: bool
) -> None:
    """The request reads one table before the migration begins, and the other while it waits."""
    first, second = reversed(tables) if is_reversed else tables
    await asyncio.to_thread(migrate, empty_database_url, revision=before)
    request, observer = [await asyncpg.connect(_driver_url(empty_database_url)) for _ in range(2)]
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        await request.execute("BEGIN")
        await request.execute(f"SELECT FROM {first}")
        group.create_task(asyncio.to_thread(migrate, empty_database_url, revision=revision))
        await _second_or_long_wait(observer)
        try:
            await request.execute(f"SELECT FROM {second}")
        finally:
            await request.close()
    assert await observer.fetchval("SELECT version_num FROM alembic_version") == revision
    await observer.close()


@pytest.fixture
def own_postgres() -> Iterator[str]:
    """The URL of a Postgres server that no other test uses."""
    with tempfile.TemporaryDirectory(prefix="callgate-autovacuum-") as name:
        Path(name).chmod(0o755)  # root's Postgres runs as the user nobody
        with EmbeddedPostgres(Path(name)) as server:
            yield server.url


async def test_an_autovacuum_of_a_table_does_not_keep_a_migration_from_locking_it(own_postgres: str) -> None:
    """The autovacuum is made so slow that it would take minutes."""
    url = make_url(own_postgres).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    await asyncio.to_thread(migrate, url, revision="0032")
    connection = await asyncpg.connect(_driver_url(url))
    await connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute("INSERT INTO pace (subject_id) SELECT gen_random_uuid() FROM generate_series(1, 20000)")
    await connection.execute("DELETE FROM pace")
    await connection.execute("""ALTER TABLE pace SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)""")
    is_running = "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'pace'::regclass)"
    async with asyncio.timeout(TIMEOUT_S):
        while not await connection.fetchval(is_running):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(migrate, url, revision="0033")
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == "0033"
    await connection.close()


def _run_migration(connection: Connection, script: Script) -> list[tuple[str, list[str]]]:
    """Runs one migration that is a transaction.

    Returns each statement that has locked existing tables against writes, and the names of these tables.
    """
    existing = set(connection.scalars(text(_TABLES)))
    locks: list[tuple[str, list[str]]] = []

    def record_locks(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement != str(_LOCKED_TABLES):
            locked = existing.intersection(connection.scalars(_LOCKED_TABLES)).difference(*(names for _, names in locks))
            if locked:
                locks.append((statement, sorted(locked)))

    event.listen(connection, "after_cursor_execute", record_locks)
    context = MigrationContext.configure(connection, opts={"target_metadata": Base.metadata})
    with Operations.context(context):
        script.module.upgrade()
    return locks


async def test_migrations_that_lock_several_tables_lock_them_together(empty_database_url: str) -> None:
    """The statement of `lock_tables` locks all of them, and no statement before it locks one."""
    scripts = list(ScriptDirectory.from_config(alembic_config(empty_database_url)).walk_revisions())
    engine = make_engine(empty_database_url, pool_size=1, session_settings=MIGRATION_SETTINGS, statement_timeout_s=None)
    unprotected = {}
    for script in reversed(scripts):
        if "autocommit_block" in inspect.getsource(script.module):  # locks one table at a time
            continue
        async with engine.begin() as connection:
            locks = await connection.run_sync(_run_migration, script)
        match locks:
            case [] | [(_, [_])]:
                pass  # locks at most one table
            case [(statement, _)] if "lock_not_available" in statement:
                pass  # the statement of `lock_tables`, which releases its locks and tries again
            case _:
                unprotected[script.revision] = locks
    await engine.dispose()
    assert unprotected == {}
