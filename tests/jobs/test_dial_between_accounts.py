"""Tests that an account with many calls or with failures does not keep a worker from dialling the calls of other accounts."""

import asyncio
from dataclasses import fields, replace
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from app.calls.creation.preparation import CallPreparer
from app.observability import Metrics
from app.services import open_services
from app.tenants.administration_store import TenantSettings
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import make_dialer, running_dialer
from tests.support.upstream import Upstream, created, hang, running_upstream


async def test_an_account_with_many_calls_does_not_keep_others_from_dialling(gateway: Gateway) -> None:
    """The worker dials one call at a time. After each call, it continues with the next account."""
    async with running_upstream(created()) as upstream, running_dialer(gateway, limit=1) as dialer:
        tenants = [await gateway.add_tenant(upstream.url) for _ in range(3)]
        for tenant in tenants:
            for _ in range(3):
                assert (await tenant.create(priority="normal")).status_code == 202
        dialled = []
        for number in range(1, 10):
            await dialer.step()
            await dialer.drain()
            assert len(upstream.posts) == number
            dialled.append(upstream.posts[-1].credentials[0])
    accounts = sorted(tenant.account_sid for tenant in tenants)
    assert [sorted(dialled[place : place + 3]) for place in (0, 3, 6)] == [accounts] * 3


@pytest.mark.parametrize("own_limit", [None, 1])
async def test_an_account_that_hangs_leaves_room_for_the_calls_of_other_tenants(
    gateway: Gateway, own_limit: int | None
) -> None:
    async with (
        running_upstream(hang) as hanging,
        running_upstream(created()) as answering,
        running_dialer(gateway, limit=4, per_tenant=2, twilio_read_timeout=60.0, request_budget=90.0) as dialer,
        asyncio.timeout(60),
    ):
        slow, fast = await gateway.add_tenant(hanging.url), await gateway.add_tenant(answering.url)
        await gateway.tenants.update_tenant(slow.id, TenantSettings(max_in_flight=own_limit))
        for _ in range(10):
            assert (await slow.create(priority="normal")).status_code == 202
        while len(hanging.posts) < (own_limit or 2):
            await dialer.step()
            await asyncio.sleep(0.01)
        for _ in range(10):
            assert (await fast.create(priority="normal")).status_code == 202
        while len(answering.posts) < 10:
            await dialer.step()
            await asyncio.sleep(0.01)
        assert len(hanging.posts) == (own_limit or 2)
        # The others are not dialled in later tests.
        await gateway.database.fetch("DELETE FROM scheduled_dial WHERE tenant_id = $1", slow.id)
        dialer.wake.clear()
        hanging.close_connections()
        # The tenant has room again, so the next step need not wait for the end of a pause.
        await dialer.wake.wait()
        await dialer.drain()


async def test_accounts_of_one_tenant_take_turns_at_the_limit_of_the_tenant(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream, running_dialer(gateway, per_tenant=1) as dialer:
        tenant, second = await gateway.add_tenant(upstream.url), f"AC{uuid4().hex}"
        await gateway.tenants.add_credential(
            tenant.id, account_sid=second, secret="s" * 32, key_sid=None, base_url=upstream.url
        )
        other = await gateway.add_tenant(upstream.url)
        for creator, account_sid in ((tenant, tenant.account_sid), (tenant, second), (other, other.account_sid)):
            for _ in range(2):
                assert (await creator.create(priority="normal", account_sid=account_sid)).status_code == 202
        for _ in range(4):
            await dialer.step()
            await dialer.drain()
        dialled = [post.credentials[0] for post in upstream.posts if post.credentials[0] != other.account_sid]
    assert sorted(dialled[:2]) == sorted(dialled[2:]) == sorted([tenant.account_sid, second])


async def test_an_account_whose_grants_fail_does_not_keep_others_from_dialling(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_upstream(created()) as upstream, running_dialer(gateway) as dialer:
        tenants = [await gateway.add_tenant(upstream.url) for _ in range(3)]
        calls = [(await tenant.create(priority="normal")).json()["id"] for tenant in tenants]
        await gateway.database.fetch(
            """UPDATE call SET parameters = parameters || '{"timeout": "unreadable"}' WHERE id = $1""", calls[0]
        )
        await dialer.step()
        await dialer.drain()
        dialled = {post.credentials[0] for post in upstream.posts}
    assert dialled == {tenant.account_sid for tenant in tenants[1:]}
    assert "grant_failed" in capsys.readouterr().out


class FailingPreparer(CallPreparer):
    """A preparation of calls that always fails, like a bug in the code."""

    def prepare_call(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a fault in the code")


async def test_a_call_whose_preparation_fails_unexpectedly_waits(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    call = (await tenant.create(priority="normal")).json()
    async with open_services(gateway.settings, Metrics()) as state:
        preparation = state["granted_call_dialer"].preparer
        failing = FailingPreparer(**{each.name: getattr(preparation, each.name) for each in fields(preparation)})
        dialer = make_dialer({**state, "granted_call_dialer": replace(state["granted_call_dialer"], preparer=failing)})
        await dialer.step()
        await dialer.drain()
        assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["execution"] == "scheduled"
        assert (await tenant.events(call["id"]))[-1]["data"]["problem"] == "internal-error"
        assert upstream.posts == []
        assert "scheduled_call_not_prepared" in capsys.readouterr().out
        await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now()")
        dialer = make_dialer(state)
        await dialer.step()
        await dialer.drain()
    assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["execution"] == "started"
    assert len(upstream.posts) == 1
