"""Grants take tokens from the account and the queue at one time, which is read after both are locked."""

import asyncio
from datetime import timedelta

from app.calls.creation.grants.service import grant_calls
from tests.support.gateway import Gateway

_WAITS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_LOCK_QUEUE = "SELECT FROM pace JOIN queue ON queue.id = subject_id WHERE tenant_id = $1 FOR UPDATE OF pace"
_NEXT_AT = "SELECT next_at FROM pace JOIN queue ON queue.id = subject_id WHERE tenant_id = $1"


async def test_a_grant_that_waited_for_its_queue_spends_the_token_after_the_wait(gateway: Gateway) -> None:
    """Otherwise the time of the wait would refill the queue's bucket, and its next calls would exceed the pace."""
    tenant = await gateway.add_tenant()
    pace = {"calls_per_second": 0.01, "burst": 1}
    (await tenant.http.put("/v1/queues/slow", json={"pace": pace})).raise_for_status()
    assert (await tenant.create(queue="slow")).status_code == 202
    account_id = await gateway.directory.account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    async with gateway.database.transaction() as connection:
        await connection.execute(_LOCK_QUEUE, tenant.id)
        granting = asyncio.create_task(grant_calls(gateway.database, account_id, limit=1))
        while not await gateway.database.fetch(_WAITS):
            await asyncio.sleep(0.01)
        released_at = await connection.fetchval("SELECT clock_timestamp()")
    assert len((await granting).grants) == 1
    (row,) = await gateway.database.fetch(_NEXT_AT, tenant.id)
    assert row["next_at"] >= released_at + timedelta(seconds=100)
