"""A commit that Postgres has acknowledged survives a crash. An outcome is kept even if Postgres has lost the call's record."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from tests.support.gateway import PATIENT, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Upstream, created_after_release, running_upstream

TIMEOUT_S = 30


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, **PATIENT)) as running:
        yield running


@pytest.fixture
def crashable_postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres server that can be crashed."""
    with tempfile.TemporaryDirectory(prefix="callgate-lost-") as name:
        Path(name).chmod(0o755)
        with EmbeddedPostgres(Path(name)) as server:
            yield server


def _crash(postgres: EmbeddedPostgres) -> None:
    """Kills all processes of Postgres, as a power cut would. Then starts Postgres, which recovers from its write-ahead log."""
    assert postgres._server is not None
    children = Path(f"/proc/{postgres._server.pid}/task/{postgres._server.pid}/children").read_text().split()
    for pid in (postgres._server.pid, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    postgres.stop()
    postgres.start()


async def _dialling(tenant: Tenant, upstream: Upstream, key: str) -> tuple[asyncio.Task[int], str]:
    """Starts a creation. Returns its task once Twilio has received the POST, and the id of the call's record."""

    async def create() -> int:
        return (await tenant.create(key)).status_code

    creating = asyncio.create_task(create())
    await upstream.wait_for_post()
    (call,) = (await tenant.http.get("/v1/calls")).json()["calls"]
    return creating, str(call["id"])


async def test_a_crash_loses_no_intent_even_if_synchronous_commit_is_off(crashable_postgres: EmbeddedPostgres) -> None:
    await asyncio.to_thread(migrate, crashable_postgres.url)
    connection = await asyncpg.connect(crashable_postgres.url.replace("+asyncpg", ""))
    await connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    await connection.execute("ALTER SYSTEM SET synchronous_commit = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    async with (
        running_gateway(settings_for(crashable_postgres.url, **PATIENT)) as gateway,
        running_upstream(created_after_release()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        creating, call_id = await _dialling(tenant, upstream, "k")
        _crash(crashable_postgres)
        upstream.released.set()
        assert await creating in (201, 202)
        async with asyncio.timeout(TIMEOUT_S):
            while (again := await tenant.create("k")).status_code != 200:
                await asyncio.sleep(0.1)
        assert (again.json()["id"], again.json()["execution"]) == (call_id, "started")
        assert len(upstream.posts) == 1


@pytest.mark.parametrize("key_is_taken", [False, True])
async def test_a_record_that_is_lost_before_twilio_answers_is_written_again(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], key_is_taken: bool
) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        creating, call_id = await _dialling(tenant, upstream, "k")
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM call WHERE id = :id"), {"id": call_id})
        others = asyncio.create_task(tenant.create("k")) if key_is_taken else None
        while key_is_taken and len(upstream.posts) < 2:
            await asyncio.sleep(0.01)
        upstream.released.set()
        assert await creating == 201
        record = (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()
        assert record["execution"] == "started"
        again = await tenant.create("k")
        assert again.status_code == 200
        assert (again.json()["id"] == call_id) is not key_is_taken
        assert others is None or (await others).status_code == 201
        assert len(upstream.posts) == 1 + key_is_taken
    assert "record_lost" in capsys.readouterr().out
