"""Tests the turns of callers. A caller that schedules no more calls loses its turn, and comes last when it returns."""

import asyncio
from datetime import timedelta
from uuid import UUID

from app.calls.creation.deadlines.store import delete_idle_dial_turn_rows
from app.calls.creation.grants.service import grant_calls
from app.calls.repository import requeue_call
from app.tenants.caller import COMMAND_LINE_CALLER
from tests.scheduling.test_grants import account_of
from tests.support.gateway import BASIC_CALL, Gateway, Tenant
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.upstream import created, running_upstream

HOUR = timedelta(hours=1)


async def new_caller(gateway: Gateway, tenant: Tenant) -> str:
    _, key = await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER)
    return key


async def schedule(tenant: Tenant, key: str) -> None:
    answer = await tenant.http.post(
        "/v1/calls", json=BASIC_CALL | {"priority": "normal"}, headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 202


async def turns(gateway: Gateway, account_id: UUID) -> list[UUID]:
    """Returns the ids of the callers in the order of their turns."""
    rows = await gateway.database.fetch(
        "SELECT caller_id FROM dial_turn WHERE account_id = $1 ORDER BY last_grant_at", account_id
    )
    return [row["caller_id"] for row in rows]


async def age(gateway: Gateway, account_id: UUID, hours: int) -> None:
    statement = "UPDATE dial_turn SET last_grant_at = last_grant_at - make_interval(hours => $2) WHERE account_id = $1"
    await gateway.database.fetch(statement, account_id, hours)


async def granted_callers(gateway: Gateway, account_id: UUID, count: int) -> list[UUID]:
    """Grants `count` calls, one after the other. Returns the ids of their callers."""
    batches = [await grant_calls(gateway.database, account_id, limit=1) for _ in range(count)]
    return [batch.grants[0].dial_row["caller_id"] for batch in batches]


async def test_idle_turns_are_deleted_and_who_comes_back_goes_last(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    first, second, third = [await new_caller(gateway, tenant) for _ in range(3)]
    await schedule(tenant, first)
    account_id = await account_of(gateway, tenant)
    (gone,) = await turns(gateway, account_id)
    assert len((await grant_calls(gateway.database, account_id, limit=1)).grants) == 1
    await age(gateway, account_id, 2)
    await schedule(tenant, second)
    await age(gateway, account_id, 2)
    await schedule(tenant, third)
    assert len(await turns(gateway, account_id)) == 3

    assert await delete_idle_dial_turn_rows(gateway.database, HOUR, limit=500) >= 1

    # The second one's call waits; the third one's turn is new.
    left = await turns(gateway, account_id)
    assert (len(left), gone in left) == (2, False)
    await schedule(tenant, first)
    assert await turns(gateway, account_id) == [*left, gone]
    assert await granted_callers(gateway, account_id, 3) == [*left, gone]


async def test_callers_take_turns_after_a_backward_clock_step(gateway: Gateway) -> None:
    """Postgres's clock has stepped back by an hour. One caller schedules its first call after that."""
    tenant = await gateway.add_tenant()
    first, second, new = [await new_caller(gateway, tenant) for _ in range(3)]
    for key in (first, second, first, second, first, second):
        await schedule(tenant, key)
    account_id = await account_of(gateway, tenant)
    one, other = await granted_callers(gateway, account_id, 2)
    await age(gateway, account_id, -1)
    assert await granted_callers(gateway, account_id, 2) == [one, other]
    for _ in range(2):
        await schedule(tenant, new)
    (newest,) = set(await turns(gateway, account_id)) - {one, other}
    assert await granted_callers(gateway, account_id, 4) == [newest, one, other, newest]


async def test_who_schedules_its_first_call_before_a_backward_clock_step_waits_for_one_turn_of_each_other(
    gateway: Gateway,
) -> None:
    tenant = await gateway.add_tenant()
    old, new = [await new_caller(gateway, tenant) for _ in range(2)]
    for key in (old, old, new):
        await schedule(tenant, key)
    account_id = await account_of(gateway, tenant)
    waiting, newest = await turns(gateway, account_id)
    statement = "UPDATE dial_turn SET last_grant_at = last_grant_at + interval '1 hour' WHERE caller_id = $1"
    await gateway.database.fetch(statement, newest)
    assert await granted_callers(gateway, account_id, 3) == [waiting, newest, waiting]


async def test_no_turn_is_deleted_while_its_caller_schedules_a_call(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    key = await new_caller(gateway, tenant)
    await schedule(tenant, key)
    account_id = await account_of(gateway, tenant)
    assert len((await grant_calls(gateway.database, account_id, limit=1)).grants) == 1
    await age(gateway, account_id, 2)
    copied = """
        INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
        SELECT call.id, tenant_id, dial_turn.account_id, '00000000-0000-0000-0000-000000000000', caller_id, 1, now(),
            now() + interval '1 h', now()
        FROM call JOIN dial_turn USING (account_id) WHERE call.account_id = $1
    """
    async with gateway.database.transaction() as connection:
        await connection.execute(copied, account_id)
        assert await delete_idle_dial_turn_rows(gateway.database, HOUR, limit=500) == 0
    await delete_idle_dial_turn_rows(gateway.database, HOUR, limit=500)
    assert len(await turns(gateway, account_id)) == 1
    await gateway.database.fetch("DELETE FROM scheduled_dial WHERE account_id = $1", account_id)
    await delete_idle_dial_turn_rows(gateway.database, HOUR, limit=500)
    assert await turns(gateway, account_id) == []


async def test_a_call_that_waits_again_after_hours_has_a_turn(gateway: Gateway) -> None:
    """The outcome of a dial may be written hours later, after an outage of Postgres. The caller's turn is deleted by then."""
    tenant = await gateway.add_tenant()
    await schedule(tenant, await new_caller(gateway, tenant))
    account_id = await account_of(gateway, tenant)
    (grant,) = (await grant_calls(gateway.database, account_id, limit=1)).grants
    await age(gateway, account_id, 2)
    await delete_idle_dial_turn_rows(gateway.database, HOUR, limit=500)
    assert await turns(gateway, account_id) == []
    async with gateway.database.begin() as session:
        await requeue_call(session, {**grant.dial_row, "due_in": 0}, now=grant.dial_row["not_before"])
    assert await turns(gateway, account_id) == [grant.dial_row["caller_id"]]


async def test_a_redial_has_a_turn_that_was_deleted_while_its_call_ended(gateway: Gateway) -> None:
    """The job that deletes idle turns locks `scheduled_dial`. No worker grants the calls of a caller without a turn."""
    caller = UUID(int=0)  # the caller of a redial whose call had no dial slot
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        redial = {"on": ["busy"], "times": 1, "after_s": 60}
        call_id = UUID((await tenant.create(priority="normal", redial=redial)).json()["id"])
        account_id = await account_of(gateway, tenant)
        await gateway.database.fetch("INSERT INTO dial_turn (account_id, caller_id) VALUES ($1, $2)", account_id, caller)
        async with gateway.database.transaction() as connection:
            await connection.execute("LOCK TABLE scheduled_dial IN SHARE MODE")
            ended = asyncio.create_task(gateway.database.fetch("UPDATE call SET status = 'busy' WHERE id = $1", call_id))
            while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
                await asyncio.sleep(0.01)
            await connection.execute("DELETE FROM dial_turn WHERE caller_id = $1", caller)
        await ended
        assert caller in await turns(gateway, account_id)
