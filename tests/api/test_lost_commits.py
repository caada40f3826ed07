"""A commit that Postgres has acknowledged survives a crash. An outcome is kept even if Postgres has lost the call's record."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from tests.support.clients import metric_value
from tests.support.gateway import LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import running_dialer
from tests.support.upstream import Behaviour, Upstream, after_release, created_after_release, error, reset, running_upstream

TIMEOUT_S = 30


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, **LONG_TIMEOUTS)) as running:
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
        running_gateway(settings_for(crashable_postgres.url, **LONG_TIMEOUTS)) as gateway,
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


async def _stored(gateway: Gateway, call_id: str, columns: str) -> Any:
    async with gateway.database.begin() as session:
        return (await session.execute(text(f"SELECT {columns} FROM call WHERE id = :id"), {"id": call_id})).one()  # noqa: S608


async def _records_lost(gateway: Gateway) -> float:
    return await metric_value(gateway.url, "callgate_records_lost_total")


async def _slot(gateway: Gateway, call_id: str) -> tuple[UUID | None, datetime]:
    """Returns the queue and the deadline of the call's dial slot."""
    (row,) = await gateway.database.fetch("SELECT queue_id, ring_by FROM dial_slot WHERE call_id = $1", UUID(call_id))
    return row["queue_id"], row["ring_by"]


@pytest.mark.parametrize("key_is_taken", [False, True])
async def test_a_record_that_is_lost_before_twilio_answers_is_written_again(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], key_is_taken: bool
) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost_before = await _records_lost(gateway)
        creating, call_id = await _dialling(tenant, upstream, "k")
        dialled_at = await _stored(gateway, call_id, "pending_since")
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM call WHERE id = :id"), {"id": call_id})
        others = asyncio.create_task(tenant.create("k")) if key_is_taken else None
        while key_is_taken and len(upstream.posts) < 2:
            await asyncio.sleep(0.01)
        upstream.released.set()
        assert await creating == 201
        record = (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()
        assert record["execution"] == "started"
        assert await _stored(gateway, call_id, "pending_since") == dialled_at
        again = await tenant.create("k")
        assert again.status_code == 200
        assert (again.json()["id"] == call_id) is not key_is_taken
        assert others is None or (await others).status_code == 201
        assert len(upstream.posts) == 1 + key_is_taken
    assert await _records_lost(gateway) - lost_before == 1
    assert capsys.readouterr().out.count("record_lost") == 1


@pytest.mark.parametrize(
    ("behaviour", "status", "execution", "repeated"),
    [
        (after_release(reset), 202, "unknown", 200),
        (created_after_release(), 201, "started", 200),
        (after_release(error(400, 21211)), 422, "not_started", 422),
    ],
)
async def test_a_further_attempt_that_is_lost_before_twilio_answers_is_written_again(
    gateway: Gateway,
    capsys: pytest.CaptureFixture[str],
    behaviour: Behaviour,
    status: int,
    execution: str,
    repeated: int,
) -> None:
    """Covers a standby that is promoted with the record as the first attempt has left it: `not_started`, to be tried again."""
    async with running_upstream(error(401, 20003), behaviour) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost_before = await _records_lost(gateway)
        call_id = (await tenant.create("k")).json()["call_id"]
        (first,) = await _stored(gateway, call_id, "to_jsonb(call)::text")
        creating = asyncio.create_task(tenant.create("k"))
        async with asyncio.timeout(TIMEOUT_S):
            while len(upstream.posts) < 2:
                await asyncio.sleep(0.01)
        dialled_at = await _stored(gateway, call_id, "pending_since")
        lost = """UPDATE call SET (execution, settled_by, settled_at, problem, attempt, pending_since)
            = (SELECT execution, settled_by, settled_at, problem, attempt, pending_since
               FROM jsonb_populate_record(NULL::call, CAST(:first AS jsonb))) WHERE id = :id"""
        async with gateway.database.begin() as session:
            await session.execute(text(lost), {"first": first, "id": call_id})
        assert await _stored(gateway, call_id, "execution, attempt") == ("not_started", 1)
        upstream.released.set()
        answer = await creating
        assert (answer.status_code, answer.json()["execution"]) == (status, execution)
        assert await _stored(gateway, call_id, "execution, attempt") == (execution, 2)
        assert await _stored(gateway, call_id, "pending_since") == dialled_at
        assert await _stored(gateway, call_id, "problem ->> 'slug' IS NULL") == (execution != "not_started",)
        assert (await tenant.create("k")).status_code == repeated
        assert len(upstream.posts) == 2
        assert [event["type"] for event in await tenant.events(call_id)][-2:] == ["call.pending", f"call.{execution}"]
    assert await _records_lost(gateway) - lost_before == 1
    assert capsys.readouterr().out.count("record_lost") == 1


async def test_a_call_that_was_canceled_after_its_attempt_was_lost_stays_canceled(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), after_release(error(401, 20003))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["call_id"]
        creating = asyncio.create_task(tenant.create("k"))
        async with asyncio.timeout(TIMEOUT_S):
            while len(upstream.posts) < 2:
                await asyncio.sleep(0.01)
        canceled = """UPDATE call SET execution = 'not_started', settled_by = 'canceled', attempt = 1,
            problem = '{"slug": "canceled-before-dial", "detail": "", "after_s": null}', pending_since = created_at
            WHERE id = :id"""
        async with gateway.database.begin() as session:
            await session.execute(text(canceled), {"id": call_id})
        upstream.released.set()
        assert (await creating).json()["type"].endswith("canceled-before-dial")
        assert await _stored(gateway, call_id, "execution, settled_by, attempt") == ("not_started", "canceled", 1)


@pytest.mark.parametrize("has_another_redial", [False, True])
async def test_the_lost_record_of_a_dialled_redial_is_in_its_queue_again(gateway: Gateway, has_another_redial: bool) -> None:
    """Expects the redial to be the only one of its call, so that the end of that call makes no other."""
    async with running_upstream(created_after_release()) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
        call_id = (await tenant.create(queue="reminders")).json()["id"]
        (queue_id,) = await _stored(gateway, call_id, "queue_id")
        (ring_by,) = await _stored(gateway, call_id, "CAST(parameters ->> 'ring_by' AS timestamptz)")
        redialled_id = uuid7()
        plant = text("UPDATE call SET redial_of = :redialled WHERE id = :id")
        async with gateway.database.begin() as session:
            await session.execute(plant, {"redialled": redialled_id, "id": call_id})
        await dialer.step()
        await upstream.wait_for_post()
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM call WHERE id = :id"), {"id": call_id})
        if has_another_redial:
            other_id = (await tenant.create(priority="normal")).json()["id"]
            async with gateway.database.begin() as session:
                await session.execute(plant, {"redialled": redialled_id, "id": other_id})
        upstream.released.set()
        await dialer.drain()
        expected = ("started", queue_id, None if has_another_redial else redialled_id)
        assert await _stored(gateway, call_id, "execution, queue_id, redial_of") == expected
        assert await _slot(gateway, call_id) == (queue_id, ring_by)
        assert len(upstream.posts) == 1


async def test_a_lost_attempt_of_a_dialled_call_has_a_slot_again(gateway: Gateway) -> None:
    """Covers a scheduled call that was refused, requested again and dialled, and whose second request was lost."""
    async with running_upstream(error(401, 20003), created_after_release()) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create(priority="normal")).json()["id"]
        await dialer.step()
        await dialer.drain()
        await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now()")
        await gateway.database.fetch("UPDATE pace SET probe_at = now() WHERE probe_at IS NOT NULL")
        await dialer.step()
        async with asyncio.timeout(TIMEOUT_S):
            while len(upstream.posts) < 2:
                await asyncio.sleep(0.01)
        lost = """UPDATE call SET execution = 'not_started', settled_by = 'response', attempt = 1, pending_since = created_at
            WHERE id = $1"""
        await gateway.database.fetch(lost, UUID(call_id))
        before = await gateway.database.fetch("DELETE FROM dial_slot WHERE call_id = $1 RETURNING ring_by", UUID(call_id))
        upstream.released.set()
        await dialer.drain()
        assert await _stored(gateway, call_id, "execution, attempt") == ("started", 2)
        assert await _slot(gateway, call_id) == (None, before[0]["ring_by"])
