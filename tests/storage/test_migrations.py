"""The migrations create the schema on a real Postgres."""

import asyncio
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

import migrations
from app.jobs.partitions import PARTITIONED_TABLES
from app.schema import MigrationFailed, alembic_config, migrate


async def _tables(url: str) -> set[str]:
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        return {name for (name,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    finally:
        await connection.close()


async def test_upgrade_and_downgrade_leave_no_tables(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    assert {"tenant", "twilio_account", "twilio_credential", "api_key", "call", "call_event"} <= await _tables(
        empty_database_url
    )
    await asyncio.to_thread(command.downgrade, alembic_config(empty_database_url), "base")
    assert await _tables(empty_database_url) == {"alembic_version"}
    await asyncio.to_thread(migrate, empty_database_url)


async def test_models_and_migrations_agree(database_url: str) -> None:
    await asyncio.to_thread(command.check, alembic_config(database_url))


async def test_concurrent_migrations_wait_for_each_other(empty_database_url: str) -> None:
    program = [sys.executable, "-m", "app.cli", "migrate"]
    environment = os.environ | {"CALLGATE_DATABASE_URL": empty_database_url}
    running = [await asyncio.create_subprocess_exec(*program, env=environment) for _ in range(3)]
    assert [await process.wait() for process in running] == [0, 0, 0]
    assert "call" in await _tables(empty_database_url)


async def test_a_new_installation_has_the_partitions_of_this_month_before_its_first_row(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    month = f"{datetime.now(UTC):%Y_%m}"
    assert {f"{table}_{month}" for table in PARTITIONED_TABLES} <= await _tables(empty_database_url)


async def test_a_migrated_database_can_be_migrated_again(database_url: str) -> None:
    await asyncio.to_thread(migrate, database_url)


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(alembic_config("postgresql+asyncpg://nowhere/x")).get_heads()) == 1


@pytest.mark.parametrize(
    "version", sorted((Path(migrations.__file__).parent / "versions").glob("*.py")), ids=lambda path: path.stem
)
def test_every_migration_is_dated_and_has_a_lock_timeout(version: Path) -> None:
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}-\d{4}_\w+", version.stem)
    # An index that is created concurrently blocks no writes and runs outside a transaction.
    assert "autocommit_block" in version.read_text() or version.read_text().count("SET LOCAL lock_timeout") == 2


async def test_price_is_numeric_and_secrets_are_bytes(database_url: str) -> None:
    connection = await asyncpg.connect(
        make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        rows = await connection.fetch(
            "SELECT table_name || '.' || column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        )
    finally:
        await connection.close()
    types = dict(map(tuple, rows))
    assert types["call.price"] == "numeric"
    assert types["twilio_credential.sealed_secret"] == types["api_key.keyed_hash"] == types["call.fingerprint"] == "bytea"
    assert not {kind for kind in types.values() if kind in ("real", "double precision", "timestamp without time zone")}


async def test_a_failed_migration_gives_its_cause_in_one_line(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    await asyncio.to_thread(command.stamp, alembic_config(empty_database_url), "base")
    with pytest.raises(MigrationFailed, match="already exists") as failed:
        await asyncio.to_thread(migrate, empty_database_url)
    assert "\n" not in str(failed.value)
