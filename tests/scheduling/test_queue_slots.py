"""Tests that a queue never has more slots than its `max_concurrent`, also if a slot was added without counting it."""

from uuid import UUID

from app.calls.creation.grants.service import grant_calls
from app.jobs.release.store import replace_scheduled_dial_with_slot
from app.scheduling.dial_slots import lock_pace_and_free_slots
from app.scheduling.pace_limits import PaceLimits
from app.scheduling.pace_store import lock_pace, write_pace
from tests.scheduling.test_grants import account_of
from tests.support.gateway import Gateway, Tenant


async def _set(gateway: Gateway, call_id: UUID, execution: str) -> None:
    await gateway.database.fetch("UPDATE call SET execution = $2 WHERE id = $1", call_id, execution)


async def _in_use(gateway: Gateway, subject_id: UUID) -> int:
    rows = await gateway.database.fetch("SELECT in_use FROM pace WHERE subject_id = $1", subject_id)
    in_use: int = rows[0]["in_use"]
    return in_use


async def _queue_for_one_call(gateway: Gateway, tenant: Tenant) -> UUID:
    (await tenant.http.put("/v1/queues/one", json={"pace": {"max_concurrent": 1}})).raise_for_status()
    rows = await gateway.database.fetch("SELECT id FROM queue WHERE tenant_id = $1", tenant.id)
    queue_id: UUID = rows[0]["id"]
    return queue_id


async def _release_as_unknown(gateway: Gateway, tenant: Tenant) -> UUID:
    """Schedules a call in the queue, and makes it `unknown` with a slot as `callgate queues release` does."""
    call_id = UUID((await tenant.create(queue="one")).json()["id"])
    async with gateway.database.begin() as session:
        await replace_scheduled_dial_with_slot(session, call_id)
    await _set(gateway, call_id, "unknown")
    return call_id


async def _assert_queue_is_full(gateway: Gateway, tenant: Tenant, account: UUID) -> None:
    assert (await tenant.create(queue="one")).status_code == 202
    assert (await grant_calls(gateway.database, account, limit=1)).grants == []


async def test_a_released_call_takes_the_only_slot_of_its_queue(gateway: Gateway) -> None:
    """No other call of the queue waits when the slots are counted."""
    tenant = await gateway.add_tenant()
    account, queue = await account_of(gateway, tenant), await _queue_for_one_call(gateway, tenant)
    await gateway.database.fetch("INSERT INTO pace (subject_id) VALUES ($1)", account)
    await _release_as_unknown(gateway, tenant)
    assert await lock_pace_and_free_slots(gateway.database, account) == -1
    assert await _in_use(gateway, queue) == 1
    await _assert_queue_is_full(gateway, tenant, account)


async def test_a_released_call_takes_a_slot_while_one_of_another_call_is_freed(gateway: Gateway) -> None:
    """The account has as many slots as before, and so the same count."""
    tenant = await gateway.add_tenant()
    account, queue = await account_of(gateway, tenant), await _queue_for_one_call(gateway, tenant)
    ended = UUID((await tenant.create(priority="normal")).json()["id"])
    assert len((await grant_calls(gateway.database, account, limit=1)).grants) == 1
    released = await _release_as_unknown(gateway, tenant)
    await _set(gateway, ended, "not_started")
    assert await lock_pace_and_free_slots(gateway.database, account) == 0
    rows = await gateway.database.fetch("SELECT call_id FROM dial_slot WHERE account_id = $1", account)
    assert [row["call_id"] for row in rows] == [released]
    assert await _in_use(gateway, queue) == 1
    await _assert_queue_is_full(gateway, tenant, account)


async def test_a_released_call_takes_a_slot_that_only_its_account_has_counted(gateway: Gateway) -> None:
    """A change of the account's pace counts the slots of the account."""
    tenant = await gateway.add_tenant()
    account = await account_of(gateway, tenant)
    await _queue_for_one_call(gateway, tenant)
    await _release_as_unknown(gateway, tenant)
    async with gateway.database.transaction() as connection:
        await lock_pace(connection, account)
        await write_pace(connection, account, PaceLimits(max_concurrent=5))
    assert await _in_use(gateway, account) == 1
    await _assert_queue_is_full(gateway, tenant, account)
