"""Callgate works behind a real PgBouncer in transaction mode, whose clients share three server connections."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from app.database.connection import MIGRATION_SETTINGS, SESSION_SETTINGS, STATEMENT_POOL_SETTINGS, Connector
from app.database.engine import Database
from app.jobs.worker import run_worker
from app.observability import Metrics
from app.schema import migrate
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.cli.running import environment, run
from tests.proofs.fleet import all_records
from tests.support.clients import http_client
from tests.support.gateway import SECRET_KEY, running_app, running_gateway, settings_for
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer

pytestmark = needs_pgbouncer

MIGRATION_LOCK = 0xCA119A7E  # of migrations/env.py, which only Alembic can import
TRANSACTIONS: dict[str, Any] = {"pool_mode": "transaction", "max_prepared_statements": 200}
WITHOUT_STATEMENTS: dict[str, Any] = {"pool_mode": "transaction", "max_prepared_statements": 0}
# A longer run: PGBOUNCER_CREATIONS=600.
CREATIONS, AT_ONCE = int(os.environ.get("PGBOUNCER_CREATIONS", "60")), 10
DEADLINE_S = 45.0 + CREATIONS / 4


@pytest.fixture
async def pooled_url(database_url: str) -> AsyncIterator[str]:
    async with pgbouncer(database_url, **TRANSACTIONS) as url:
        yield url


async def test_calls_are_created_listed_and_priced(pooled_url: str) -> None:
    async with (
        running_app(create_simulator(SimulatorConfig(open_mode=True, speed=500))) as twilio,
        running_gateway(settings_for(pooled_url)) as gateway,
    ):
        tenant = await gateway.add_tenant(twilio)
        clients = asyncio.Semaphore(AT_ONCE)

        async def create(number: int) -> int:
            async with clients:
                return (await tenant.create(key=f"call-{number}")).status_code

        assert Counter(await asyncio.gather(*map(create, range(CREATIONS)))) == {201: CREATIONS}
        async with http_client(base_url=twilio) as simulator:
            assert len((await simulator.get("/_simulator/ledger")).json()["entries"]) == CREATIONS
        replayed = await tenant.create(key="call-0")
        assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (200, "true")
        stop = asyncio.Event()
        settings = settings_for(pooled_url, twilio_base_url=twilio, worker_poll_interval=0.2, refresh_interval=1)
        worker = asyncio.create_task(run_worker(settings, Metrics(), stop))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    listed = await all_records(tenant.http)
                    assert len(listed) == CREATIONS
                    if all(call["price"] for call in listed):
                        break
                    assert not worker.done()
                    await asyncio.sleep(0.3)
        finally:
            stop.set()
            await worker


async def test_changes_take_effect_at_once_without_notifications(pooled_url: str) -> None:
    async with running_gateway(settings_for(pooled_url)) as gateway:
        tenant = await gateway.add_tenant()
        assert (await tenant.http.get("/v1/calls")).status_code == 200
        (key,) = await gateway.tenants.list_keys(tenant.id)
        await gateway.tenants.revoke_key(key.prefix)
        assert (await tenant.http.get("/v1/calls")).status_code == 401


async def test_clients_that_share_a_server_connection_keep_their_own_settings(database_url: str) -> None:
    """Each client has prepared the same statements, under the same names, on the one server connection that all share."""
    async with pgbouncer(database_url, pool_size=1, **TRANSACTIONS) as url:
        clients = [
            await Connector(url, settings).connect()
            for settings in (SESSION_SETTINGS, STATEMENT_POOL_SETTINGS, MIGRATION_SETTINGS)
        ]
        for _ in range(2):
            for connection, locked, scans in zip(clients, ("5s", "2s", "0"), ("on", "off", "on"), strict=True):
                async with connection.transaction():
                    row = await connection.fetchrow("SELECT current_setting('lock_timeout'), current_setting('enable_seqscan')")
                assert tuple(row) == (locked, scans)
        stranger = await asyncpg.connect(url.replace("+asyncpg", ""))
        left = await stranger.fetch(
            "SELECT name FROM pg_settings WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding',"
            " 'DateStyle', 'TimeZone', 'standard_conforming_strings')"
        )
        assert left == []
        for connection in (*clients, stranger):
            await connection.close()


async def test_migrations_run_through_the_pooler(empty_database_url: str) -> None:
    async with pgbouncer(empty_database_url, **TRANSACTIONS) as url:
        await asyncio.to_thread(migrate, url)
        database = Database(url, pool_size=1)
        async with database.begin() as session:
            assert await session.scalar(text("SELECT count(*) FROM call")) == 0
        await database.close()


async def _connect_directly(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url.replace("+asyncpg", ""))


_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
_TRIES_LOCK = """
    SELECT EXISTS (SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%pg_try_advisory%' AND pid <> pg_backend_pid())
"""


async def test_concurrent_migrations_wait_for_each_other_behind_the_pooler(empty_database_url: str, tmp_path: Path) -> None:
    """PgBouncer is set up to run each transaction on another server connection."""
    spread = TRANSACTIONS | {"server_round_robin": 1, "min_pool_size": 4, "pool_size": 4}
    async with pgbouncer(empty_database_url, **spread) as url:
        settings = _environment(tmp_path, url)
        connections = [await _connect_directly(url) for _ in range(4)]
        await asyncio.gather(*(connection.execute("SELECT pg_sleep(0.1)") for connection in connections))
        both = await asyncio.gather(*(asyncio.to_thread(run, "migrate", environment=settings) for _ in range(2)))
        assert [(ended.returncode, ended.stderr) for ended in both] == [(0, "")] * 2
        for connection in connections:
            assert await connection.fetchval(_LOCKS) == 0
            await connection.close()


async def test_a_migration_waits_for_one_with_a_direct_connection(empty_database_url: str, tmp_path: Path) -> None:
    """A session with a direct connection holds the migration lock all the time, as the previous version does."""
    holder = await _connect_directly(empty_database_url)
    await holder.execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
    async with pgbouncer(empty_database_url, **TRANSACTIONS) as url:
        migrating = asyncio.create_task(asyncio.to_thread(run, "migrate", environment=_environment(tmp_path, url)))
        async with asyncio.timeout(DEADLINE_S):
            while not await holder.fetchval(_TRIES_LOCK):
                await asyncio.sleep(0.05)
        assert await holder.fetchval("SELECT to_regclass('call')") is None
        await holder.execute(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})")
        assert (await migrating).returncode == 0
    assert await holder.fetchval("SELECT to_regclass('call')") is not None
    await holder.close()


def _doctor_results(tmp_path: Path, url: str) -> list[dict[str, Any]]:
    finished = run("doctor", "--json", environment=_environment(tmp_path, url))
    assert finished.stderr == ""
    found: list[dict[str, Any]] = json.loads(finished.stdout)
    return found


def _environment(tmp_path: Path, url: str) -> dict[str, str]:
    return environment(tmp_path, CALLGATE_DATABASE_URL=url, CALLGATE_SECRET_KEYS=SECRET_KEY)


@pytest.mark.parametrize(
    ("settings", "check", "state", "message"),
    [
        (TRANSACTIONS, "pooler", "ok", "keeps prepared statements"),
        (WITHOUT_STATEMENTS, "database", "wrong", "PgBouncer 1.21 or newer with max_prepared_statements"),
        ({"pool_mode": "session"}, "pooler", "warning", "max_prepared_statements"),
    ],
    ids=["transaction", "transaction-without-statements", "session"],
)
async def test_doctor_detects_a_pooler(
    database_url: str, tmp_path: Path, settings: dict[str, Any], check: str, state: str, message: str
) -> None:
    async with pgbouncer(database_url, pool_size=10, **settings) as url:
        findings = await asyncio.to_thread(_doctor_results, tmp_path, url)
    (result,) = (result for result in findings if result["check"] == check)
    assert result["state"] == state
    assert message in f"{result['found']} {result['do']}"


async def test_a_pooler_without_prepared_statements_is_refused_in_one_line(database_url: str, tmp_path: Path) -> None:
    """PgBouncer before 1.21 is such a pooler. Every command is refused, even with `statement_cache_size=0` in the URL."""
    async with pgbouncer(database_url, **WITHOUT_STATEMENTS) as pooled:
        for command, query in ((("migrate",), ""), (("tenants", "list"), ""), (("tenants", "list"), "?statement_cache_size=0")):
            url = pooled + query
            finished = await asyncio.to_thread(run, *command, environment=_environment(tmp_path, url))
            assert (finished.returncode, finished.stdout, finished.stderr.count("\n")) == (1, "", 1), finished.stderr
            assert "PgBouncer 1.21 or newer with max_prepared_statements" in finished.stderr
