"""Tests the cancellation of all waiting calls of a queue: none of them is dialled afterwards."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.calls.creation.grants.service import grant_calls
from app.database.engine import Database
from app.observability.metrics import EXPOSITION_INTERVAL_S
from tests.queues.conftest import QueuedCalls
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant


@pytest.fixture
async def tenant(gateway: Gateway) -> Tenant:
    made = await gateway.add_tenant()
    for name in ("reminders", "others"):
        (await made.http.put(f"/v1/queues/{name}", json={})).raise_for_status()
    return made


@pytest.fixture
async def other_worker(gateway: Gateway) -> AsyncIterator[Database]:
    database = Database(gateway.settings.require_database_url(), pool_size=1)
    yield database
    await database.close()


async def schedule(tenant: Tenant, queue: str = "reminders", **members: Any) -> str:
    answer = await tenant.create(queue=queue, **members)
    assert answer.status_code == 202, answer.text
    call_id: str = answer.json()["id"]
    return call_id


async def cancel(tenant: Tenant) -> int:
    answer = await tenant.http.post("/v1/queues/reminders/cancel")
    assert answer.status_code == 200, answer.text
    canceled: int = answer.json()["canceled"]
    return canceled


async def test_waiting_calls_of_the_queue_are_canceled_and_no_other(gateway: Gateway, tenant: Tenant) -> None:
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    waiting = [await schedule(tenant), await schedule(tenant, not_before=in_an_hour)]
    other = await schedule(tenant, "others")
    assert await cancel(tenant) == 2
    for call_id in waiting:
        record = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
        assert (record["execution"], record["settled_by"]) == ("not_started", "canceled")
        assert record["problem"]["slug"] == "canceled-before-dial"
    assert (await tenant.http.get(f"/v1/calls/{other}")).json()["execution"] == "scheduled"
    assert await cancel(tenant) == 0
    actions = await gateway.database.fetch(
        "SELECT subject FROM audit_event WHERE tenant_id = $1 AND action = 'queue.cancel'", tenant.id
    )
    assert [row["subject"] for row in actions] == ["reminders"]


@pytest.mark.parametrize(
    ("request_parts", "fault"),
    [
        ({"json": {"priority": "bulk"}}, ("", "not_supported")),
        ({"json": {}}, ("", "not_supported")),
        ({"headers": {"Idempotency-Key": "k"}}, ("Idempotency-Key", "not_supported")),
    ],
)
async def test_what_would_be_ignored_is_refused_and_the_calls_still_wait(
    tenant: Tenant, request_parts: dict[str, Any], fault: tuple[str, str]
) -> None:
    call_id = await schedule(tenant)
    refused = await tenant.http.post("/v1/queues/reminders/cancel", **request_parts)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:callgate:problem:invalid-request")
    assert [(each["pointer"], each["code"]) for each in refused.json()["errors"]] == [fault]
    assert (await tenant.http.get(f"/v1/calls/{call_id}")).json()["execution"] == "scheduled"
    assert (await tenant.http.get("/v1/queues/reminders")).json()["waiting"] == 1


async def _canceled_so_far(gateway: Gateway) -> float:
    await asyncio.sleep(EXPOSITION_INTERVAL_S)
    async with http_client() as prometheus:
        exposed = (await prometheus.get(f"{gateway.url}/metrics")).text
    (found,) = re.findall(r'^callgate_settled_total{by="canceled"} (\S+)$', exposed, re.MULTILINE)
    return float(found)


async def test_canceled_calls_are_counted_and_who_wants_to_know_is_told(gateway: Gateway, tenant: Tenant) -> None:
    before = await _canceled_so_far(gateway)
    events: dict[str, Any] = {"status_callback": "https://own.example.com/", "status_callback_event": ["settled"]}
    told, silent = await schedule(tenant, **events), await schedule(tenant)
    assert await cancel(tenant) == 2
    deliveries = [(await tenant.http.get(f"/v1/calls/{each}/deliveries")).json()["deliveries"] for each in (told, silent)]
    assert [[(each["event"], each["fields"]["CallgateProblem"]) for each in of_call] for of_call in deliveries] == [
        [("settled", "canceled-before-dial")],
        [],
    ]
    assert await _canceled_so_far(gateway) - before == 2
    details = (await tenant.http.get("/v1/queues/reminders")).json()
    assert (details["waiting"], details["counts"]["problem"]) == (0, {"canceled-before-dial": 2})


async def test_calls_of_many_batches_are_canceled(gateway: Gateway, tenant: Tenant) -> None:
    calls = QueuedCalls(gateway, tenant, "reminders")
    await calls.waiting_many(1_234)
    assert await cancel(tenant) == 1_234


async def test_a_call_that_was_granted_goes_on(gateway: Gateway, tenant: Tenant) -> None:
    call_id = await schedule(tenant)
    account_id = await QueuedCalls(gateway, tenant, "reminders").account_id()
    granted = await grant_calls(gateway.database, account_id, limit=1)
    assert [str(grant.call.id) for grant in granted.grants] == [call_id]
    assert await cancel(tenant) == 0
    assert (await tenant.http.get(f"/v1/calls/{call_id}")).json()["execution"] == "pending"


async def test_a_call_whose_grant_fails_is_canceled(gateway: Gateway, tenant: Tenant, other_worker: Database) -> None:
    """The cancellation waits for another worker's open grant of the call, and cancels the call if this grant is rolled back."""
    call_id = UUID(await schedule(tenant))
    locked, release = asyncio.Event(), asyncio.Event()

    async def fail_to_grant() -> None:
        async with other_worker.transaction() as connection:
            await connection.execute("DELETE FROM scheduled_dial WHERE call_id = $1", call_id)
            locked.set()
            await release.wait()
            await connection.execute("ROLLBACK AND CHAIN")

    grant = asyncio.create_task(fail_to_grant())
    await locked.wait()
    canceling = asyncio.create_task(cancel(tenant))
    await asyncio.wait([canceling], timeout=0.3)
    assert not canceling.done()
    release.set()
    assert await canceling == 1
    await grant


async def test_a_suspended_tenant_can_cancel(gateway: Gateway, tenant: Tenant) -> None:
    await schedule(tenant)
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
    gateway.invalidate_cache()
    assert await cancel(tenant) == 1


async def test_a_queue_of_another_tenant_is_not_found(gateway: Gateway, tenant: Tenant) -> None:
    await schedule(tenant)
    other = await gateway.add_tenant()
    answer = await other.http.post("/v1/queues/reminders/cancel")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:callgate:problem:queue-not-found")
    assert await cancel(tenant) == 1
