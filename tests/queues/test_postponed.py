"""Tests that new calling hours and a pause take effect at once, also for calls that were postponed because of the hours.

The change waits for grants that have read the old settings.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.database.engine import Database
from app.tenants.administration_store import TenantSettings
from tests.queues.conftest import QueuedCalls
from tests.queues.test_queues import HOURS
from tests.support.gateway import Gateway
from tests.support.locks import SESSION_WAITS_FOR_LOCK

OTHER_HOURS = HOURS | {"to": "21:00"}


@pytest.fixture
async def calls(gateway: Gateway) -> QueuedCalls:
    made = QueuedCalls(gateway, await gateway.add_tenant(), "reminders")
    await put(made)
    return made


async def put(calls: QueuedCalls, **settings: Any) -> None:
    (await calls.tenant.http.put(f"/v1/queues/{calls.name}", json=settings)).raise_for_status()


@asynccontextmanager
async def granting(calls: QueuedCalls) -> AsyncIterator[None]:
    """Locks the account's pace in another session until the block ends, as a grant does."""
    await calls.set_pace(await calls.account_id())
    database = Database(calls.gateway.settings.require_database_url(), pool_size=1)
    try:
        async with database.transaction() as connection:
            await connection.execute("SELECT FROM pace WHERE subject_id = $1 FOR UPDATE", await calls.account_id())
            yield
    finally:
        await database.close()


async def test_other_hours_of_the_tenant_make_its_postponed_calls_due(calls: QueuedCalls, gateway: Gateway) -> None:
    other = QueuedCalls(gateway, await gateway.add_tenant(), "reminders")
    await put(other)
    postponed, others = await calls.waiting(due_s=3600, ring_by_s=7200), await other.waiting(due_s=3600, ring_by_s=7200)
    early = await calls.waiting(not_before_s=1800, due_s=3600, ring_by_s=7200)
    await gateway.tenants.update_tenant(calls.tenant.id, TenantSettings(name="another"))
    assert await calls.due_in(postponed) > 3500
    await gateway.tenants.update_tenant(calls.tenant.id, TenantSettings(hours=OTHER_HOURS))
    assert await calls.due_in(postponed) <= 0
    assert 1700 < await calls.due_in(early) <= 1800
    assert await other.due_in(others) > 3500


@pytest.mark.parametrize("settings", [{"paused": True}, {"hours": OTHER_HOURS}])
async def test_a_change_waits_for_grants_that_have_begun(calls: QueuedCalls, settings: dict[str, Any]) -> None:
    async with granting(calls):
        change = asyncio.create_task(put(calls, **settings))
        while not change.done() and not (await calls.gateway.database.fetch(SESSION_WAITS_FOR_LOCK))[0][0]:
            await asyncio.sleep(0.01)
        assert not change.done()
    await change


async def test_a_resumed_queue_waits_for_no_grant(calls: QueuedCalls) -> None:
    await put(calls, paused=True)
    async with granting(calls):
        await put(calls, paused=False, ring_within_s=60)
