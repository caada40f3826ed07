"""Tests that an account with many calls or with failures does not keep a worker from dialling the calls of other accounts."""

from dataclasses import fields, replace
from typing import Any, NoReturn

import pytest

from app.calls.creation.preparation import Preparation
from app.jobs.dial import Dialer
from app.observability import Metrics
from app.services import services
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import Upstream, created, running_upstream


async def test_an_account_with_many_calls_does_not_keep_others_from_dialling(gateway: Gateway) -> None:
    """The worker dials one call at a time. After each call, it continues with the next account."""
    async with running_upstream(created()) as upstream, services(gateway.settings, Metrics()) as state:
        dialer = Dialer(state["database"], state["granted"], state["settlement"], max_in_flight=1)
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


async def test_an_account_whose_grants_fail_does_not_keep_others_from_dialling(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_upstream(created()) as upstream, services(gateway.settings, Metrics()) as state:
        tenants = [await gateway.add_tenant(upstream.url) for _ in range(3)]
        calls = [(await tenant.create(priority="normal")).json()["id"] for tenant in tenants]
        await gateway.database.fetch(
            """UPDATE call SET parameters = parameters || '{"timeout": "unreadable"}' WHERE id = $1""", calls[0]
        )
        dialer = Dialer(state["database"], state["granted"], state["settlement"], max_in_flight=50)
        await dialer.step()
        await dialer.drain()
        dialled = {post.credentials[0] for post in upstream.posts}
    assert dialled == {tenant.account_sid for tenant in tenants[1:]}
    assert "grant_failed" in capsys.readouterr().out


class FailingPreparation(Preparation):
    """A preparation of calls that always fails, like a bug in the code."""

    def prepare_call(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a fault in the code")


async def test_a_call_whose_preparation_fails_unexpectedly_waits(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    call = (await tenant.create(priority="normal")).json()
    async with services(gateway.settings, Metrics()) as state:
        preparation = state["granted"].preparation
        failing = FailingPreparation(**{each.name: getattr(preparation, each.name) for each in fields(preparation)})
        dialer = Dialer(
            state["database"], replace(state["granted"], preparation=failing), state["settlement"], max_in_flight=50
        )
        await dialer.step()
        await dialer.drain()
        assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["execution"] == "scheduled"
        assert (await tenant.events(call["id"]))[-1]["data"]["problem"] == "internal-error"
        assert upstream.posts == []
        assert "scheduled_call_not_prepared" in capsys.readouterr().out
        await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now()")
        dialer = Dialer(state["database"], state["granted"], state["settlement"], max_in_flight=50)
        await dialer.step()
        await dialer.drain()
    assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["execution"] == "started"
    assert len(upstream.posts) == 1
