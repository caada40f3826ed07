"""Tests that a row of one account, locked by another session, does not keep the jobs from working for other accounts."""

from uuid import UUID

from app.jobs.deadlines import RingDeadlineEnforcer
from app.observability import Metrics
from app.services import open_services
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import dial_all, running_dialer
from tests.support.locks import locked_pace
from tests.support.upstream import created, running_upstream


async def queue_id_of(gateway: Gateway, tenant: Tenant) -> UUID:
    (row,) = await gateway.database.fetch("SELECT id FROM queue WHERE tenant_id = $1", tenant.id)
    queue_id: UUID = row["id"]
    return queue_id


async def accounts_with_slots(gateway: Gateway) -> set[UUID]:
    return {row["account_id"] for row in await gateway.database.fetch("SELECT account_id FROM dial_slot")}


async def tenants_with_queue(gateway: Gateway, url: str) -> dict[UUID, Tenant]:
    """Returns three tenants, by the id of the account, in the order of these ids. Each has a queue with a limit."""
    tenants = {}
    for _ in range(3):
        tenant = await gateway.add_tenant(url)
        (await tenant.http.put("/v1/queues/reminders", json={"pace": {"max_concurrent": 5}})).raise_for_status()
        account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
        assert account_id
        tenants[account_id] = tenant
    return dict(sorted(tenants.items()))


async def test_slots_of_other_accounts_are_freed_while_the_row_of_an_account_or_of_a_queue_is_locked(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream, running_dialer(gateway) as dialer:
        tenants = await tenants_with_queue(gateway, upstream.url)
        for tenant in tenants.values():
            assert (await tenant.create(queue="reminders")).status_code == 202
        await dial_all(dialer)
        assert await accounts_with_slots(gateway) == set(tenants)
        await gateway.database.fetch("UPDATE call SET status = 'completed'")
        first, second, _ = tenants
        async with (
            locked_pace(gateway, first),
            locked_pace(gateway, await queue_id_of(gateway, tenants[second])),
            open_services(gateway.settings, Metrics()) as state,
        ):
            await RingDeadlineEnforcer(state["database"], state["control"]).free_dial_slots()
            assert await accounts_with_slots(gateway) == {first, second}


async def test_calls_of_other_accounts_are_dialled_while_the_row_of_a_queue_is_locked(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream, running_dialer(gateway) as dialer:
        tenants = await tenants_with_queue(gateway, upstream.url)
        for tenant in tenants.values():
            assert (await tenant.create(queue="reminders")).status_code == 202
        first = next(iter(tenants))
        async with locked_pace(gateway, await queue_id_of(gateway, tenants[first])):
            await dialer.step()
            await dialer.drain()
            dialled = {post.credentials[0] for post in upstream.posts}
        assert dialled == {tenant.account_sid for account_id, tenant in tenants.items() if account_id != first}
        await dial_all(dialer)
        assert len(upstream.posts) == len(tenants)
