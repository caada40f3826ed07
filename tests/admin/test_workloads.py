"""Creates, lists and deletes workloads (Kubernetes service accounts that may use Callgate) over the admin API."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.tenants.caller import COMMAND_LINE_CALLER
from app.workloads.service_accounts import ServiceAccount
from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.cluster import ISSUER, KubernetesCluster
from tests.support.gateway import Gateway, running_gateway, settings_for

CLUSTER = KubernetesCluster()


@pytest.fixture(scope="module")
async def gateway(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    key_set: Path = tmp_path_factory.mktemp("keys") / "jwks.json"
    CLUSTER.write_to(key_set)
    async with running_gateway(settings_for(database_url, workload_issuer=ISSUER, workload_keys=str(key_set))) as running:
        yield running


@pytest.fixture
async def tenant_id(gateway: Gateway) -> str:
    return (await gateway.add_tenant(with_account=False)).id


def named(name: str, **members: Any) -> dict[str, Any]:
    return {"namespace": "shop", "service_account": name} | members


async def test_a_workload_is_created_once_used_listed_and_deleted(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/workloads"
    created = await operator.post(path, named("checkout"))
    record = created.json()
    assert (created.status_code, record) == (
        201,
        named("checkout", id=record["id"], issuer=ISSUER, scopes=["call", "read"], created_at=record["created_at"]),
    )
    again = await operator.post(path, named("checkout", scopes=["read", "call"]))
    assert (again.status_code, again.json(), again.headers["Idempotent-Replayed"]) == (200, record, "true")
    assert slug_of(await operator.post(path, named("checkout", scopes=["read"]))) == (409, "already-exists")
    assert (await operator.get(path)).json() == {"workloads": [record], "next_cursor": None}
    gateway.invalidate_cache()
    bearer = {"Authorization": f"Bearer {CLUSTER.token()}"}
    assert (await operator.http.get("/v1/calls", headers=bearer)).status_code == 200
    assert (await operator.delete(f"{path}/{record['id']}")).status_code == 204
    assert slug_of(await operator.delete(f"{path}/{record['id']}")) == (404, "resource-not-found")
    gateway.invalidate_cache()
    assert (await operator.http.get("/v1/calls", headers=bearer)).status_code == 401
    events = (await operator.get(f"/audit-events?tenant={tenant_id}")).json()["audit_events"]
    assert [(event["action"], event["subject"]) for event in events[:2]] == [
        ("workload.delete", "shop/checkout"),
        ("workload.create", "shop/checkout"),
    ]


async def test_only_an_operator_says_for_whom_a_service_account_acts(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    own, other = await admin_of(gateway, tenant_id), (await gateway.add_tenant(with_account=False)).id
    workload = (await operator.post(f"/tenants/{other}/workloads", named("theirs"))).json()
    assert slug_of(await own.post(f"/tenants/{tenant_id}/workloads", named("mine"))) == (403, "operator-key-required")
    assert slug_of(await operator.post(f"/tenants/{tenant_id}/workloads", named("theirs"))) == (409, "already-exists")
    assert slug_of(await operator.post("/tenants/nobody/workloads", named("x"))) == (404, "tenant-not-found")
    assert (await own.get(f"/tenants/{tenant_id}/workloads")).json()["workloads"] == []
    assert slug_of(await own.delete(f"/tenants/{tenant_id}/workloads/{workload['id']}")) == (404, "resource-not-found")
    assert slug_of(await own.delete(f"/tenants/{other}/workloads/{workload['id']}")) == (404, "tenant-not-found")
    assert slug_of(await own.delete(f"/tenants/{tenant_id}/workloads/{uuid4()}")) == (404, "resource-not-found")
    assert (await operator.get(f"/tenants/{other}/workloads")).json()["workloads"] == [workload]


async def test_a_workload_with_the_scope_administrates_and_is_named_in_the_audit_log(
    gateway: Gateway, operator: Admin, tenant_id: str
) -> None:
    account = ServiceAccount(ISSUER, "ops", "fleet")
    await gateway.tenants.create_workload(None, account, creator=COMMAND_LINE_CALLER)
    gateway.invalidate_cache()
    bearer = {"Authorization": f"Bearer {CLUSTER.token(namespace='ops', name='fleet')}"}
    changed = await operator.http.patch(f"/v1/admin/tenants/{tenant_id}", json={"name": "New"}, headers=bearer)
    assert changed.status_code == 200
    (event, *_) = (await operator.get(f"/audit-events?tenant={tenant_id}")).json()["audit_events"]
    assert (event["action"], event["actor"]) == ("tenant.update", {"kind": "workload", "name": "ops/fleet"})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"namespace": "shop"}, "/service_account"),
        (named("Checkout"), "/service_account"),
        (named("checkout\n"), "/service_account"),
        (named("x", namespace="a:b"), "/namespace"),
        (named("x", namespace="a" * 64), "/namespace"),
        (named("x", scopes=[]), "/scopes"),
        (named("x", scopes=["write"]), "/scopes/0"),
        (named("x", issuer=""), "/issuer"),
        (named("x", tenant_id="y"), "/tenant_id"),
    ],
)
async def test_an_invalid_workload_is_refused_by_member(
    operator: Admin, tenant_id: str, body: dict[str, Any], pointer: str
) -> None:
    refused = await operator.post(f"/tenants/{tenant_id}/workloads", body)
    assert [at for at, _ in faults_of(refused)] == [pointer]
    assert (await operator.get(f"/tenants/{tenant_id}/workloads")).json()["workloads"] == []


async def test_lists_are_pages_by_key(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/workloads"
    created = [(await operator.post(path, named(f"page-{number}"))).json() for number in range(3)]
    first = (await operator.get(f"{path}?limit=2")).json()
    last = (await operator.get(f"{path}?limit=2&cursor={first['next_cursor']}")).json()
    assert (first["workloads"], last) == (created[:2], {"workloads": created[2:], "next_cursor": None})
