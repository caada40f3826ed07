"""A replica that disappears during a transaction leaves a locked row. Only requests for this row wait, for some seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from app.database.connection import SESSION_SETTINGS, Connector
from tests.scheduling.test_pacing import set_pace
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.locks import locked_pace
from tests.support.upstream import Upstream, created, created_after_release, running_upstream

# Everything has recovered within this time, because Postgres ends the idle session that holds the lock.
RECOVERY_S = 15.0
UNRELATED = 40


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    settings = settings_for(database_url, public_url=PUBLIC_URL, twilio_read_timeout=20, request_budget=30)
    async with running_gateway(settings) as running:
        yield running


@asynccontextmanager
async def _silent_session(database_url: str, statement: str, *arguments: object) -> AsyncIterator[None]:
    """Opens a session with Callgate's settings, executes the statement in a transaction, and then sends nothing more."""
    connection = await Connector(database_url, SESSION_SETTINGS, statement_timeout_s=15).connect()
    try:
        await connection.transaction().start()
        await connection.execute(statement, *arguments)
        yield
    finally:
        connection.terminate()


async def _pending(tenant: Tenant, upstream: Upstream, key: str | None = None) -> tuple[asyncio.Task[int], str]:
    """Starts a creation. Returns its task once Twilio has received the POST, and the id of the call's record."""

    async def create() -> int:
        return (await tenant.create(key)).status_code

    creating = asyncio.create_task(create())
    await upstream.wait_for_post()
    (call,) = (await tenant.http.get("/v1/calls")).json()["calls"]
    return creating, str(call["id"])


async def test_a_locked_call_delays_neither_other_creations_nor_their_callbacks(gateway: Gateway, database_url: str) -> None:
    async with running_upstream(created_after_release()) as slow, running_upstream(created()) as quick:
        stuck, other = await gateway.add_tenant(slow.url), await gateway.add_tenant(quick.url)
        creating, stuck_id = await _pending(stuck, slow)
        started = time.monotonic()
        async with _silent_session(database_url, "SELECT FROM call WHERE id = $1 FOR UPDATE", stuck_id):
            fields = status_callback_fields(stuck, {"sid": f"CA{uuid4().hex}"}, "ringing", 1)
            calling_back = asyncio.create_task(call_back(gateway, stuck, stuck_id, fields))
            slow.released.set()
            await asyncio.sleep(0.2)
            answers = await asyncio.gather(*(other.create() for _ in range(UNRELATED)))
            assert {answer.status_code for answer in answers} == {201}
            for answer in answers[:5]:
                response = await call_back(
                    gateway, other, answer.json()["id"], status_callback_fields(other, answer.json(), "ringing", 1)
                )
                assert response.status_code == 204
            assert not creating.done()
            assert not calling_back.done()
            assert await creating == 201
            assert (await calling_back).status_code == 204
        assert time.monotonic() - started < RECOVERY_S


async def test_a_key_that_another_session_is_inserting_delays_no_other_creation(gateway: Gateway, database_url: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = (await tenant.create("first")).json()
        insert = """
            INSERT INTO call SELECT written.* FROM call, jsonb_populate_record(call, jsonb_build_object(
                'id', gen_random_uuid(), 'idempotency_key', 'stuck', 'execution', 'pending', 'sid', NULL)) AS written
            WHERE call.id = $1
        """
        started = time.monotonic()
        async with _silent_session(database_url, insert, first["id"]):
            stuck = asyncio.create_task(tenant.create("stuck"))
            answers = await asyncio.gather(*(tenant.create() for _ in range(UNRELATED)))
            assert {answer.status_code for answer in answers} == {201}
            refused = await stuck
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:callgate:problem:database-unavailable")
            while (answer := await tenant.create("stuck")).status_code == 503:
                assert time.monotonic() - started < RECOVERY_S
                await asyncio.sleep(0.2)
        assert answer.status_code == 201
        assert time.monotonic() - started < RECOVERY_S
        assert len(upstream.posts) == UNRELATED + 2


async def test_a_locked_pace_delays_only_the_creations_of_its_account(gateway: Gateway) -> None:
    """More creations wait for the lock than there are connections."""
    async with running_upstream(created()) as upstream:
        stuck, paced, free = [await gateway.add_tenant(upstream.url) for _ in range(3)]
        account_id, _ = [await set_pace(gateway, tenant, calls_per_second=1000, burst=100) for tenant in (stuck, paced)]
        async with locked_pace(gateway, account_id) as connection:
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            waiting = [asyncio.create_task(stuck.create()) for _ in range(60)]
            await asyncio.sleep(0.2)
            answers = await asyncio.gather(*(tenant.create() for _ in range(UNRELATED // 2) for tenant in (paced, free)))
            assert {answer.status_code for answer in answers} == {201}
            assert not any(creating.done() for creating in waiting)
        assert len(upstream.posts) == UNRELATED
        # A creation waits for some seconds at most.
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} <= {201, 503}
