"""How Alembic finds the database and the models. One migration runs at a time, held by an advisory lock."""

import asyncio
import re

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.callbacks.models import Upgrade
from app.calls.leases import Lease
from app.calls.models import Call
from app.database.base import Base
from app.database.connection import MIGRATION_SESSION
from app.database.engine import make_engine
from app.database.heartbeats import WorkerHeartbeat
from app.deliveries.models import Delivery
from app.settings import load_settings
from app.tenants.models import Tenant

MIGRATION_LOCK = 0xCA119A7E
_LOOK_S = 0.2
# Imported for what they define.
MODELS = (Call, Delivery, Lease, Tenant, Upgrade, WorkerHeartbeat)
_PARTITION = re.compile(r"(call_event|delivery)_(default|\d{4}_\d{2})")


def is_ours(name: str | None, type_: str, _: object) -> bool:
    """Partitions are made by the worker, not by migrations."""
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
    """Waits until no other migration runs, and lets none run until the connection is closed.

    The lock belongs to a transaction, because behind a pooler the next transaction may be another session's.
    """
    # Asked again and again, not waited for: who waits holds a snapshot, and an index that is made concurrently waits for those.
    while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}):
        await connection.rollback()
        await asyncio.sleep(_LOOK_S)
    # This also ends the statement before, which holds a snapshot until the next one.
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


async def main() -> None:
    url = context.config.attributes.get("database_url") or load_settings().require_database_url()
    engine = make_engine(url, pool_size=2, session=MIGRATION_SESSION, statement_timeout_s=None)
    try:
        async with engine.connect() as locked:
            await lock(locked)
            async with engine.connect() as connection:
                await connection.run_sync(migrate)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations need a database: `--sql` is not supported")
asyncio.run(main())
