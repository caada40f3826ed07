"""Tests that the audit log names the person who sends a delivery again in the console. Requests to the API are not logged."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from app.audit.events import Actor
from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.calls.service import CallService
from app.deliveries.service import DeliveryService
from app.errors import DeliveryNotFound
from app.http.concurrency import ConcurrencyLimit
from app.tenants.caller import command_caller
from tests.console.rows import add_delivery
from tests.support.gateway import Gateway, Tenant

PERSON = Actor("key", "cgk_0123456789ab", "request-1")


async def recorded(gateway: Gateway, tenant: Tenant) -> list[tuple[str, str, str | None, str | None]]:
    events, _ = await AuditLog(gateway.database).list(AuditFilter(tenant_id=tenant.id), limit=50)
    return [(each.action, each.subject, each.actor_name, each.request_id) for each in events if "delivery" in each.action]


async def test_acts_of_a_person_are_recorded(gateway: Gateway, tenant: Tenant) -> None:
    limit = ConcurrencyLimit(per_process=2, per_tenant=1)
    service = DeliveryService(gateway.database, CallService(gateway.database, limit), limit)
    caller = command_caller(tenant.id, suspended=False)
    call_id = (await tenant.create()).json()["id"]
    delivery_id = await add_delivery(gateway, tenant.id, call_id=UUID(call_id), state="gave_up", attempts=9)
    with pytest.raises(DeliveryNotFound):
        await service.retry(caller, call_id, uuid7(), actor=PERSON)
    since = datetime.now(UTC) - timedelta(minutes=5)
    assert await recorded(gateway, tenant) == []

    assert (await service.replay(caller, since=since, failed_only=True, actor=PERSON)).count == 1
    # Nothing was given up any more.
    assert (await service.replay(caller, since=since, failed_only=True, actor=PERSON)).count == 0
    assert (await service.retry(caller, call_id, delivery_id, actor=PERSON)).state == "pending"
    await service.retry(caller, call_id, delivery_id)
    rounded = since.replace(microsecond=since.microsecond // 1000 * 1000)
    (_, _, *who), (action, subject, *_) = events = await recorded(gateway, tenant)
    assert events[0][:2] == ("delivery.retry", str(delivery_id))
    assert who == ["cgk_0123456789ab", "request-1"]
    assert action == "delivery.replay"
    assert abs(datetime.fromisoformat(subject) - rounded) <= timedelta(milliseconds=1)
