"""A process drops its cached data of tenants when any process changes these data, even if the notification is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import text

from app.tenants.cache import TTLCache
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import created, running_upstream

# The last statement of a listener's connection: LISTEN, or a check that it is alive.
_KILL_LISTENERS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND (query = 'SELECT 1' OR query LIKE 'LISTEN %')
"""


@pytest.fixture
async def replica(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A second API over the same database."""
    async with running_gateway(settings_for(gateway.settings.require_database_url())) as running:
        yield running


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


def answers(tenant: Tenant, url: str, status: int) -> Callable[[], Awaitable[bool]]:
    async def does() -> bool:
        return (await tenant.http.get(f"{url}/v1/calls?limit=1")).status_code == status

    return does


async def test_the_caller_of_an_api_key_is_cached(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()

    async def is_cached() -> bool:
        # This request needs the database only for the caller. Server-Timing shows whether it was queried.
        response = await tenant.http.post("/v1/sip-uris", json={"uri": "sip:kate@example.com"})
        return "database" not in response.headers["server-timing"]

    await until(is_cached)


async def test_a_revoked_key_is_refused_by_every_replica(gateway: Gateway, replica: Gateway) -> None:
    tenant = await gateway.add_tenant()
    for url in (gateway.url, replica.url):
        for _ in range(3):
            await until(answers(tenant, url, 200))
    await gateway.tenants.revoke_key(tenant.key)
    for url in (gateway.url, replica.url):
        await until(answers(tenant, url, 401))


async def test_a_new_credential_is_used_at_once_by_every_replica(gateway: Gateway, replica: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for url in (gateway.url, replica.url):
            assert (await tenant.http.post(f"{url}/v1/calls", json=BASIC_CALL)).status_code == 201
        (_, (old,)), *_ = await gateway.tenants.list_accounts(tenant.id)
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="the-new-token", key_sid=None, base_url=None
        )
        await gateway.tenants.revoke_credential(tenant.id, old.id)
        for url in (gateway.url, replica.url):

            async def uses_the_new_one(url: str = url) -> bool:
                assert (await tenant.http.post(f"{url}/v1/calls", json=BASIC_CALL)).status_code == 201
                return upstream.posts[-1].credentials[1] == "the-new-token"

            await until(uses_the_new_one)


async def test_a_change_whose_notification_is_lost_still_takes_effect(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    for _ in range(3):
        await until(answers(tenant, gateway.url, 200))
    async with gateway.database.begin() as session:
        # In one transaction, so that the notification is sent while no listener is connected.
        assert await session.scalar(text(_KILL_LISTENERS))
        await session.execute(text("UPDATE api_key SET revoked_at = now() WHERE tenant_id = :id"), {"id": tenant.id})
    await until(answers(tenant, gateway.url, 401))


async def test_a_value_that_changes_while_it_is_read_is_not_cached() -> None:
    memory = TTLCache[str](is_coherent=lambda: True)

    async def read_what_is_changing() -> str:
        memory.invalidate()
        return "old"

    assert await memory.get_or_read("name", read_what_is_changing) == "old"
    assert await memory.get_or_read("name", _read_new) == "new"
    assert await memory.get_or_read("name", read_what_is_changing) == "new"


async def test_nothing_is_served_from_the_cache_while_it_is_not_coherent() -> None:
    coherent = True
    memory = TTLCache[str](is_coherent=lambda: coherent, max_entries=2)
    assert await memory.get_or_read("name", _read_old) == "old"
    assert await memory.get_or_read("name", _read_new) == "old"
    coherent = False
    assert await memory.get_or_read("name", _read_new) == "new"


async def test_the_cache_is_bounded() -> None:
    memory = TTLCache[str](is_coherent=lambda: True, max_entries=2)
    for name in ("first", "second", "third"):
        await memory.get_or_read(name, _read_old)
    assert await memory.get_or_read("third", _read_new) == "old"
    assert await memory.get_or_read("first", _read_new) == "new"


async def _read_old() -> str:
    return "old"


async def _read_new() -> str:
    return "new"
