"""Stores, lists and deletes SIP credentials over the admin API, which never returns user names and passwords."""

from typing import Any

import pytest

from app.tenants.scopes import Scope
from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.gateway import Gateway
from tests.support.upstream import created, running_upstream

PAIR = {"username": "planted-user", "password": "planted-password"}


@pytest.fixture
async def tenant_id(gateway: Gateway) -> str:
    return (await gateway.add_tenant(with_account=False)).id


async def test_a_credential_is_created_used_replaced_and_deleted(gateway: Gateway, operator: Admin) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        path = f"/tenants/{tenant.id}/sip-credentials"
        made = await operator.post(path, {"name": "pbx-berlin"} | PAIR)
        assert made.status_code == 201
        record = made.json()
        assert record == {
            "name": "pbx-berlin",
            "created_at": record["created_at"],
            "updated_at": record["created_at"],
        }
        again = await operator.post(path, {"name": "pbx-berlin"} | PAIR)
        assert (again.status_code, again.headers["Idempotent-Replayed"], again.json()) == (200, "true", record)
        differs = await operator.post(path, {"name": "pbx-berlin", "username": "u", "password": "p"})
        assert slug_of(differs) == (409, "already-exists")

        async def sent() -> tuple[str, str]:
            gateway.invalidate_cache()
            assert (await tenant.create(sip_credential="pbx-berlin")).status_code == 201
            form = dict(upstream.posts[-1].form)
            return form["SipAuthUsername"], form["SipAuthPassword"]

        assert await sent() == ("planted-user", "planted-password")
        replaced = await operator.http.put(f"/v1/admin{path}/pbx-berlin", json=PAIR | {"password": "planted-second"})
        assert replaced.status_code == 200
        assert replaced.json()["updated_at"] > record["updated_at"]
        assert await sent() == ("planted-user", "planted-second")
        listed = await operator.get(path)
        assert listed.json() == {"sip_credentials": [replaced.json()], "next_cursor": None}
        events = await operator.get(f"/audit-events?tenant={tenant.id}")
        assert "sip_credential.update" in events.text
        for answer in (made, again, differs, replaced, listed, events):
            assert "planted" not in answer.text
        assert (await operator.delete(f"{path}/pbx-berlin")).status_code == 204
        assert slug_of(await operator.delete(f"{path}/pbx-berlin")) == (404, "resource-not-found")
        assert slug_of(await operator.http.put(f"/v1/admin{path}/pbx-berlin", json=PAIR)) == (404, "resource-not-found")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "p b x"}, "/name"),
        ({"name": "p" * 64}, "/name"),
        ({"name": None}, "/name"),
        ({"username": ""}, "/username"),
        ({"username": "planted" * 40}, "/username"),
        ({"username": "planted\n"}, "/username"),
        ({"password": ""}, "/password"),
        ({"password": 7}, "/password"),
        ({"password": "planted\ud800"}, "/password"),
        ({"realm": "planted"}, "/realm"),
    ],
)
async def test_an_invalid_credential_is_refused_by_member_and_without_its_value(
    operator: Admin, tenant_id: str, change: dict[str, Any], pointer: str
) -> None:
    path = f"/tenants/{tenant_id}/sip-credentials"
    refused = await operator.post(path, {"name": "pbx"} | PAIR | change)
    assert [each for each, _ in faults_of(refused)] == [pointer]
    assert "planted" not in refused.text
    assert (await operator.get(path)).json()["sip_credentials"] == []


async def test_a_tenants_own_key_reaches_its_own_credentials_only(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    other = (await gateway.add_tenant()).id
    own = await admin_of(gateway, tenant_id, Scope.ADMIN)
    for tenant in (tenant_id, other):
        assert (await operator.post(f"/tenants/{tenant}/sip-credentials", {"name": "pbx"} | PAIR)).status_code == 201
    assert len((await own.get(f"/tenants/{tenant_id}/sip-credentials")).json()["sip_credentials"]) == 1
    foreign = f"/tenants/{other}/sip-credentials"
    answers = [
        await own.get(foreign),
        await own.post(foreign, {"name": "mine"} | PAIR),
        await own.http.put(f"/v1/admin{foreign}/pbx", json=PAIR),
        await own.delete(f"{foreign}/pbx"),
        await operator.get("/tenants/nobody/sip-credentials"),
        await operator.post("/tenants/nobody/sip-credentials", {"name": "pbx"} | PAIR),
    ]
    assert {slug_of(answer) for answer in answers} == {(404, "tenant-not-found")}
    assert len((await operator.get(foreign)).json()["sip_credentials"]) == 1


async def test_lists_are_pages_by_name(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/sip-credentials"
    for name in ("c", "a", "d", "b"):
        await operator.post(path, {"name": name} | PAIR)
    first = (await operator.get(f"{path}?limit=3")).json()
    rest = (await operator.get(f"{path}?limit=3&cursor={first['next_cursor']}")).json()
    assert [each["name"] for each in first["sip_credentials"] + rest["sip_credentials"]] == ["a", "b", "c", "d"]
    assert rest["next_cursor"] is None
