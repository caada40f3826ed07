"""Runs Alembic's migrations on the configured database. An advisory lock lets only one migration run at a time."""

import asyncio
import re

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.audit.models import AuditEvent
from app.callbacks.models import FeatureUpgrade
from app.calls.leases import CallLease
from app.calls.models import Call
from app.console.sessions.models import ConsoleSession
from app.database.base import Base
from app.database.connection import MIGRATION_SETTINGS
from app.database.engine import make_engine
from app.database.heartbeats import WorkerHeartbeat
from app.database.partitions import create_missing_partitions
from app.deliveries.models import Delivery
from app.jobs.partitions import MONTHS_AHEAD, PARTITIONED_TABLES
from app.rollups.models import Rollup, RollupProgress
from app.scheduling.models import Queue
from app.settings import load_settings
from app.tenants.models import Tenant

MIGRATION_LOCK = 0xCA119A7E
_POLL_INTERVAL_S = 0.2
# Importing the models registers all tables in Base.metadata.
MODELS = (
    AuditEvent,
    Call,
    ConsoleSession,
    Delivery,
    CallLease,
    Queue,
    Rollup,
    RollupProgress,
    Tenant,
    FeatureUpgrade,
    WorkerHeartbeat,
)
_PARTITION = re.compile(r"(audit_event|call_event|delivery)_(default|\d{4}_\d{2})")


def is_ours(name: str | None, type_: str, _: object) -> bool:
    """Returns whether migrations manage this object: true for all but partitions, which the worker creates and drops."""
    return not (type_ == "table" and name and _PARTITION.fullmatch(name))


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=is_ours,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def lock(connection: AsyncConnection) -> None:
    """Waits until no other migration runs, and then keeps other migrations out until the connection is closed.

    Takes a lock of the transaction and not of the session, because behind a connection pooler the next transaction may run in
    another session.
    """
    # Polls, because a session that waits for a lock holds a snapshot, and CREATE INDEX CONCURRENTLY waits for all snapshots.
    while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}):
        await connection.rollback()
        await asyncio.sleep(_POLL_INTERVAL_S)
    # This statement also releases the snapshot of the one before.
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


async def create_missing_partitions_of_existing_tables(session: AsyncSession) -> None:
    """Creates the partitions of the coming months for each partitioned table that exists already.

    So a new installation has them before its first row. Without its own partition a row goes to the default partition, and its
    insert fails if a worker attaches the row's own partition at that moment.
    """
    for table in PARTITIONED_TABLES:
        if await session.scalar(text("SELECT to_regclass(:table)"), {"table": table}):
            await create_missing_partitions(session, table, months_ahead=MONTHS_AHEAD)


async def main() -> None:
    url = context.config.attributes.get("database_url") or load_settings().require_database_url()
    engine = make_engine(url, pool_size=2, session_settings=MIGRATION_SETTINGS, statement_timeout_s=None)
    try:
        async with engine.connect() as locked:
            await lock(locked)
            async with engine.connect() as connection:
                await connection.run_sync(migrate)
            async with AsyncSession(engine) as session, session.begin():
                await create_missing_partitions_of_existing_tables(session)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations need a database: `--sql` is not supported")
asyncio.run(main())
