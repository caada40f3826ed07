"""Tests that processes are notified of changes that they may have cached, and of nothing else.

Each notification empties the caches of all processes. So a request of a tenant that changes nothing must not cause one.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from app.tenants.administration_store import TenantSettings
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.models import TENANT_CHANGES_CHANNEL
from app.tenants.postponed_calls import wait_for_grant_transactions
from tests.queues.test_queues import HOURS
from tests.support.gateway import Gateway, Tenant


class Notifications:
    """Counts the notifications of changes."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._payloads = asyncio.Queue[str]()

    @classmethod
    async def listen(cls, connection: asyncpg.Connection) -> "Notifications":
        self = cls(connection)
        await connection.add_listener(TENANT_CHANGES_CHANNEL, lambda *arguments: self._payloads.put_nowait(arguments[-1]))
        return self

    async def count(self) -> int:
        """Returns the number of notifications since the last count. They arrive in the order of the commits."""
        await self._connection.execute("SELECT pg_notify($1, 'counted')", TENANT_CHANGES_CHANNEL)
        number = 0
        while await self._payloads.get() != "counted":
            number += 1
        return number


@pytest.fixture
async def notifications(gateway: Gateway) -> AsyncIterator[Notifications]:
    connection = await asyncpg.connect(gateway.settings.require_database_url().replace("+asyncpg", ""))
    yield await Notifications.listen(connection)
    await connection.close()


async def put_queue(tenant: Tenant, **settings: Any) -> None:
    (await tenant.http.put("/v1/queues/reminders", json=settings)).raise_for_status()


async def test_changes_of_queues_notify_nobody(gateway: Gateway, tenant: Tenant, notifications: Notifications) -> None:
    await notifications.count()
    for _ in range(2):
        await put_queue(tenant, paused=True)
        await put_queue(tenant, paused=False, hours=HOURS)
    for rate in (1, 2):
        await put_queue(tenant, pace={"calls_per_second": rate, "burst": 3, "max_concurrent": 10})
    await put_queue(tenant, pace=None)
    await wait_for_grant_transactions(gateway.database, tenant.id)
    assert await notifications.count() == 0


async def test_a_change_of_the_pace_of_an_account_notifies_once(
    gateway: Gateway, tenant: Tenant, notifications: Notifications
) -> None:
    await wait_for_grant_transactions(gateway.database, tenant.id)
    await notifications.count()
    setting = """UPDATE pace SET calls_per_second = $2, in_use = 0
        WHERE subject_id = (SELECT id FROM twilio_account WHERE tenant_id = $1)"""
    for rate, expected in ((1, 1), (1, 0), (2, 1), (None, 1), (None, 0)):
        await gateway.database.fetch(setting, tenant.id, rate)
        assert await notifications.count() == expected, rate
    deleting = "DELETE FROM pace WHERE subject_id IN (SELECT id FROM twilio_account WHERE tenant_id = $1)"
    await gateway.database.fetch(deleting, tenant.id)
    await notifications.count()
    inserting = "INSERT INTO pace (subject_id, max_concurrent) SELECT id, $2 FROM twilio_account WHERE tenant_id = $1"
    await gateway.database.fetch(inserting, tenant.id, 5)
    assert await notifications.count() == 1


@pytest.mark.parametrize(
    ("table", "changing", "unchanging"),
    [
        ("tenant", "suspended_at = now()", "name = 'other', hours = '{}'"),
        ("tenant", "status_callback = 'https://example.com/'", "max_in_flight = max_in_flight"),
        ("twilio_account", "base_url = 'https://example.com'", "base_url = base_url"),
        ("twilio_credential", "rejected_at = now()", "rejected_at = rejected_at"),
        ("api_key", "revoked_at = now()", "revoked_at = revoked_at"),
        ("sip_credential", "sealed_username = '\\x01'", "sealed_username = sealed_username"),
        ("workload", "scopes = '{read}'", "scopes = scopes"),
    ],
)
async def test_an_update_notifies_if_it_changes_what_is_cached(
    gateway: Gateway, notifications: Notifications, table: str, changing: str, unchanging: str
) -> None:
    tenant = await gateway.add_tenant()
    await gateway.tenants.create_sip_credential(tenant.id, "phone", username="kate", password="secret")
    adding = """INSERT INTO workload (id, issuer, namespace, service_account, tenant_id, scopes)
        VALUES (gen_random_uuid(), 'https://issuer.example.com', $1, 'app', $1, '{call}')"""
    await gateway.database.fetch(adding, tenant.id)
    await notifications.count()
    where = {"tenant": "id = $1", "twilio_credential": "account_id IN (SELECT id FROM twilio_account WHERE tenant_id = $1)"}
    for assignment, tenant_id, expected in (
        (unchanging, tenant.id, 0),
        (changing, "no-such-tenant", 0),
        (changing, tenant.id, 1),
    ):
        statement = f"UPDATE {table} SET {assignment} WHERE {where.get(table, 'tenant_id = $1')}"  # noqa: S608  # own constants
        await gateway.database.fetch(statement, tenant_id)
        assert await notifications.count() == expected, (assignment, tenant_id)


async def test_additions_and_deletions_notify(gateway: Gateway, tenant: Tenant, notifications: Notifications) -> None:
    await notifications.count()
    await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER)
    assert await notifications.count() == 1
    await gateway.tenants.create_sip_credential(tenant.id, "phone", username="kate", password="secret")
    assert await notifications.count() == 1
    await gateway.tenants.delete_sip_credential(tenant.id, "phone")
    assert await notifications.count() == 1
    await gateway.tenants.update_tenant(tenant.id, TenantSettings(max_in_flight=5))
    assert await notifications.count() == 1
    await gateway.tenants.update_tenant(tenant.id, TenantSettings(max_in_flight=5))
    assert await notifications.count() == 0
