"""The admin API sets a Twilio account's pace: its limits of calls per second and of concurrent calls."""

import asyncio
from typing import Any

import pytest

from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.gateway import Gateway

NONE: dict[str, Any] = {"calls_per_second": None, "burst": 2, "max_concurrent": None}


class Account:
    """An account of a tenant, as an operator sees and changes it."""

    def __init__(self, operator: Admin, tenant_id: str, sid: str) -> None:
        self.operator = operator
        self.tenant_id = tenant_id
        self.path = f"/tenants/{tenant_id}/accounts/{sid}"

    async def change(self, pace: Any) -> Any:
        answer = await self.operator.patch(self.path, {"pace": pace})
        assert answer.status_code == 200, answer.text
        return answer.json()["pace"]

    async def pace(self) -> Any:
        (account,) = (await self.operator.get(f"/tenants/{self.tenant_id}/accounts")).json()["accounts"]
        return account["pace"]

    async def audited(self) -> list[list[str]]:
        answer = await self.operator.get(f"/audit-events?tenant={self.tenant_id}&action=account.update")
        return [event["changed"] for event in answer.json()["audit_events"]]


@pytest.fixture
async def account(gateway: Gateway, operator: Admin) -> Account:
    tenant = await gateway.add_tenant()
    return Account(operator, tenant.id, tenant.account_sid)


async def test_a_pace_is_set_changed_and_removed(account: Account, operator: Admin) -> None:
    assert await account.pace() is None
    pace = {"calls_per_second": 0.1, "burst": 5, "max_concurrent": 10}
    assert await account.change(pace) == await account.pace() == pace
    assert await account.change({"max_concurrent": 20}) == pace | {"max_concurrent": 20}
    assert await account.change({"burst": 7}) == pace | {"max_concurrent": 20, "burst": 7}
    assert await account.change({"calls_per_second": None}) == NONE | {"max_concurrent": 20}
    assert await account.change({"max_concurrent": None}) is None
    assert await account.change({"calls_per_second": 1}) == NONE | {"calls_per_second": 1}
    assert await account.change(None) is None
    assert await account.pace() is None
    answer = await operator.patch(account.path, {"pace": pace})
    assert answer.json() == (await operator.get(f"/tenants/{account.tenant_id}/accounts")).json()["accounts"][0]


async def test_changes_are_audited_by_member_and_what_is_so_already_is_not(account: Account) -> None:
    pace = {"calls_per_second": 1.5, "max_concurrent": 10}
    for change in (pace, pace, {}, {"burst": 2}, {"max_concurrent": 11}, None, None):
        await account.change(change)
    assert (await account.operator.patch(account.path, {})).status_code == 200
    assert await account.audited() == [
        ["calls_per_second", "max_concurrent"],
        ["max_concurrent"],
        ["calls_per_second", "max_concurrent"],
    ]


@pytest.mark.parametrize(
    ("pace", "fault"),
    [
        ({"calls_per_second": 0}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": -1}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": 1000.5}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": 1e308}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": 10**400}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": 0.0001}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": "1"}, ("/pace/calls_per_second", "out_of_range")),
        ({"calls_per_second": True}, ("/pace/calls_per_second", "out_of_range")),
        ({"burst": 0}, ("/pace/burst", "greater_than_equal")),
        ({"burst": 1001}, ("/pace/burst", "less_than_equal")),
        ({"burst": None}, ("/pace/burst", "int_type")),
        ({"burst": 1.5}, ("/pace/burst", "int_type")),
        ({"burst": 3}, ("/pace/burst", "missing")),
        ({"calls_per_second": None, "burst": 3}, ("/pace/burst", "missing")),
        ({"max_concurrent": 0}, ("/pace/max_concurrent", "greater_than_equal")),
        ({"max_concurrent": 100_001}, ("/pace/max_concurrent", "less_than_equal")),
        ({"max_concurrent": 10**400}, ("/pace/max_concurrent", "less_than_equal")),
        ({"max_calls": 1}, ("/pace/max_calls", "unknown_member")),
        (1, ("/pace", "model_type")),
    ],
)
async def test_an_invalid_pace_is_refused_by_member_and_changes_nothing(
    account: Account, pace: Any, fault: tuple[str, str]
) -> None:
    refused = await account.operator.patch(account.path, {"pace": pace})
    assert faults_of(refused) == [fault]
    assert await account.pace() is None
    assert await account.audited() == []


async def test_all_faults_are_named_at_once(account: Account) -> None:
    refused = await account.operator.patch(account.path, {"pace": {"burst": 0, "max_concurrent": 0}, "base_url": "x"})
    assert faults_of(refused) == [
        ("/pace/burst", "greater_than_equal"),
        ("/pace/max_concurrent", "greater_than_equal"),
        ("/base_url", "unknown_member"),
    ]


async def test_an_account_that_exists_is_answered_with_its_pace(gateway: Gateway, operator: Admin) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    path, body = f"/tenants/{tenant.id}/accounts", {"account_sid": "AC" + "0" * 32, "auth_token": "t"}
    assert (await operator.post(path, body)).json()["pace"] is None
    await operator.patch(f"{path}/{body['account_sid']}", {"pace": {"max_concurrent": 3}})
    again = await operator.post(path, body)
    assert (again.status_code, again.json()["pace"]) == (200, NONE | {"max_concurrent": 3})


async def test_a_pace_is_a_limit_and_an_operators(gateway: Gateway, account: Account, operator: Admin) -> None:
    own, other = await admin_of(gateway, account.tenant_id), await gateway.add_tenant()
    await account.change({"calls_per_second": 1})
    for client in (own, await admin_of(gateway, other.id)):
        assert slug_of(await client.patch(account.path, {"pace": None})) == (403, "operator-key-required")
    assert (await own.get(f"/tenants/{account.tenant_id}/accounts")).json()["accounts"][0]["pace"]["calls_per_second"] == 1
    foreign = f"/tenants/{other.id}/accounts/{account.path.rpartition('/')[2]}"
    assert slug_of(await operator.patch(foreign, {"pace": None})) == (404, "resource-not-found")
    assert slug_of(await operator.patch("/tenants/missing/accounts/x", {"pace": None})) == (404, "tenant-not-found")


async def test_racing_changes_of_different_members_are_all_made(account: Account) -> None:
    await asyncio.gather(
        account.change({"calls_per_second": 1}), account.change({"max_concurrent": 5}), account.change({"max_concurrent": 5})
    )
    assert await account.pace() == {"calls_per_second": 1, "burst": 2, "max_concurrent": 5}
