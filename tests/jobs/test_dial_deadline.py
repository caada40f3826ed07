"""Tests that nothing is sent to Twilio after a call's `ring_by`, whatever delays its dial, and that the call then expires."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.calls.creation.grants.service import grant_calls
from app.calls.creation.grants.store import DialGrant
from app.clock import monotonic_seconds
from app.jobs.dial import ScheduledCallDialer
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import running_dialer
from tests.support.upstream import created, created_after_release, error, running_upstream

# Twilio's answers and free connections may take longer than the calls may wait.
_PATIENT: dict[str, Any] = {"twilio_pool_timeout": 20.0, "twilio_read_timeout": 20.0, "request_budget": 90.0}


async def _schedule(tenant: Tenant, *, ring_in_s: float) -> str:
    ring_by = datetime.now(UTC) + timedelta(seconds=ring_in_s)
    call_id: str = (await tenant.create(ring_by=ring_by.isoformat())).json()["id"]
    return call_id


async def _grant(gateway: Gateway, tenant: Tenant) -> DialGrant:
    account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    (grant,) = (await grant_calls(gateway.database, account_id, limit=1)).grants
    return grant


async def _attempts_before_it_expired(gateway: Gateway, dialer: ScheduledCallDialer, tenant: Tenant, call_id: str) -> list[str]:
    """Asserts that the call waits again, and expires when its `ring_by` is set to now. Returns the results of the attempts."""
    event = (await tenant.events(call_id))[-1]
    assert event["type"] == "call.scheduled"
    await gateway.database.fetch("UPDATE scheduled_dial SET ring_by = now() WHERE call_id = $1", UUID(call_id))
    await dialer.step()
    call = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
    assert (call["execution"], call["settled_by"]) == ("not_started", "expired")
    return [attempt["result"] for attempt in event["data"]["attempts"]]


async def test_a_process_that_was_suspended_until_the_deadline_makes_no_attempt(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream, running_dialer(gateway, **_PATIENT) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _schedule(tenant, ring_in_s=30)
        grant = await _grant(gateway, tenant)
        await dialer.call_dialer.dial(grant, monotonic_seconds() - grant.ring_in_s)
        assert await _attempts_before_it_expired(gateway, dialer, tenant, call_id) == []
        assert upstream.posts == []


async def test_a_call_that_waits_for_a_connection_until_its_deadline_is_not_sent(gateway: Gateway) -> None:
    async with (
        running_upstream(created_after_release(), created()) as upstream,
        running_dialer(gateway, **_PATIENT, max_in_flight=1) as dialer,  # as many connections to Twilio
    ):
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create(priority="urgent")
        await dialer.step()
        await upstream.wait_for_post()
        call_id = await _schedule(tenant, ring_in_s=30)
        grant = await _grant(gateway, tenant)
        deadline = monotonic_seconds() + 0.5
        dialling = asyncio.create_task(dialer.call_dialer.dial(grant, deadline - grant.ring_in_s))
        while monotonic_seconds() < deadline:
            await asyncio.sleep(0.05)
        upstream.released.set()
        await dialling
        # No attempt if the machine was so slow that the deadline passed before the dial began.
        assert await _attempts_before_it_expired(gateway, dialer, tenant, call_id) in (["too_late"], [])
        assert len(upstream.posts) == 1


async def test_a_refusal_until_after_the_deadline_is_not_waited_for(gateway: Gateway) -> None:
    async with (
        running_upstream(error(429, 20429, headers={"Retry-After": "25"}), created()) as upstream,
        running_dialer(gateway, **_PATIENT) as dialer,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _schedule(tenant, ring_in_s=20)
        await dialer.step()
        await dialer.drain()
        assert await _attempts_before_it_expired(gateway, dialer, tenant, call_id) == ["throttled"]
        assert len(upstream.posts) == 1
