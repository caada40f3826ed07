"""Creates, lists and revokes API keys over the admin API."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import IdempotencyKeyReused
from app.tenants.administration_store import ApiKeyRow
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.gateway import Gateway


@pytest.fixture
async def tenant_id(gateway: Gateway) -> str:
    return (await gateway.add_tenant(with_account=False)).id


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/keys"
    created = await operator.post(
        path, {"name": "dialler", "scopes": ["read", "call"], "expires_at": "2100-01-01T00:00:00+01:00"}
    )
    assert created.status_code == 201
    assert created.headers["Cache-Control"] == "no-store"
    record = created.json()
    key = record.pop("key")
    assert key.startswith(record["id"] + "_")
    assert record == {
        "id": record["id"],
        "name": "dialler",
        "scopes": ["call", "read"],
        "state": "active",
        "created_at": record["created_at"],
        "expires_at": "2099-12-31T23:00:00Z",
        "revoked_at": None,
        "last_used_at": None,
    }
    listed = await operator.get(path)
    assert record in listed.json()["keys"]
    assert key not in listed.text
    bearer = {"Authorization": f"Bearer {key}"}
    assert (await operator.http.get("/v1/calls", headers=bearer)).status_code == 200
    for _ in range(2):
        assert (await operator.delete(f"{path}/{record['id']}")).status_code == 204
    gateway.invalidate_cache()
    assert (await operator.http.get("/v1/calls", headers=bearer)).status_code == 401
    states = {each["id"]: each["state"] for each in (await operator.get(path)).json()["keys"]}
    assert states[record["id"]] == "revoked"


async def test_defaults_and_twilios_form(operator: Admin, tenant_id: str) -> None:
    plain = (await operator.post(f"/tenants/{tenant_id}/keys", {})).json()
    assert (plain["scopes"], plain["name"], plain["expires_at"]) == (["call", "read"], None, None)
    like_twilio = (await operator.post(f"/tenants/{tenant_id}/keys", {"format": "twilio"})).json()
    assert len(like_twilio["key"]) == 32
    assert like_twilio["key"] not in like_twilio["id"]


async def test_an_idempotency_key_creates_one_key_which_is_not_shown_again(operator: Admin, tenant_id: str) -> None:
    path, body = f"/tenants/{tenant_id}/keys", {"name": "x", "expires_at": "2100-01-01T00:00:00Z"}
    raced = await asyncio.gather(*(operator.post(path, body, "once") for _ in range(4)))
    assert sorted(answer.status_code for answer in raced) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in raced}) == 1
    (shown,) = (answer.json()["key"] for answer in raced if answer.status_code == 201)
    for answer in raced:
        if answer.status_code == 200:
            assert answer.json()["key"] is None
            assert answer.headers["Idempotent-Replayed"] == "true"
            assert shown not in answer.text
    for other in ({"name": "y"}, {}, body | {"scopes": ["call"]}, {"name": "x"}):
        reused = await operator.post(path, other, "once")
        assert slug_of(reused) == (422, "idempotency-key-reused")
    assert (await operator.post(path, body, "another")).status_code == 201
    assert [(await operator.post(path, body)).status_code for _ in range(2)] == [201, 201]
    events = (await operator.get(f"/audit-events?tenant={tenant_id}&action=key.create")).json()["audit_events"]
    assert len(events) == 4 + 1  # and the one of the fixture


@pytest.mark.parametrize("lifetime", [None, timedelta(days=90)])
async def test_a_key_without_an_expiry_has_the_default_and_is_created_once(
    gateway: Gateway, tenant_id: str, lifetime: timedelta | None
) -> None:
    administration = replace(gateway.tenants, default_lifetime=lifetime)

    async def create(expires_at: datetime | None) -> tuple[ApiKeyRow, str | None]:
        return await administration.create_key_idempotently(
            tenant_id,
            name="x",
            creator=COMMAND_LINE_CALLER,
            scopes=None,
            expires_at=expires_at,
            key_format="callgate",
            idempotency_key="once",
        )

    row, key = await create(None)
    assert key is not None
    assert row.expires_at == (None if lifetime is None else row.created_at + lifetime)
    assert await create(None) == (row, None)
    with pytest.raises(IdempotencyKeyReused):
        await create(datetime(2100, 1, 1, tzinfo=UTC))


async def test_an_idempotency_key_belongs_to_its_tenant(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    other = (await gateway.add_tenant()).id
    answers = [await operator.post(f"/tenants/{tenant}/keys", {}, "shared") for tenant in (tenant_id, other)]
    assert [answer.status_code for answer in answers] == [201, 201]
    invalid = await operator.post(f"/tenants/{tenant_id}/keys", {}, "x" * 256)
    assert faults_of(invalid)[0][0] == "Idempotency-Key"


async def test_nobody_gives_more_than_they_have(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/keys"
    own = await admin_of(gateway, tenant_id, Scope.ADMIN)
    for scopes, missing in ((["call"], "call"), (["read", "admin"], "read"), (None, "call")):
        refused = await own.post(path, {"scopes": scopes})
        assert slug_of(refused) == (403, "scope-required")
        assert refused.json()["scope"] == missing
    assert (await own.post(path, {"scopes": ["admin"]})).status_code == 201
    # An operator's admin key gives every scope within a tenant.
    only_admin = await admin_of(gateway, None, Scope.ADMIN)
    assert (await only_admin.post(path, {"scopes": ["call", "read", "admin"]})).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["write"]}, "/scopes/0"),
        ({"scopes": "call"}, "/scopes"),
        ({"expires_at": "tomorrow"}, "/expires_at"),
        ({"expires_at": "2100-01-01T00:00:00"}, "/expires_at"),
        ({"name": ""}, "/name"),
        ({"name": "x\x00"}, "/name"),
        ({"format": "uuid"}, "/format"),
        ({"tenant": "other"}, "/tenant"),
    ],
)
async def test_an_invalid_key_is_refused_by_member(operator: Admin, tenant_id: str, body: dict[str, Any], pointer: str) -> None:
    before = (await operator.get(f"/tenants/{tenant_id}/keys")).json()
    refused = await operator.post(f"/tenants/{tenant_id}/keys", body)
    assert [each for each, _ in faults_of(refused)] == [pointer]
    assert (await operator.get(f"/tenants/{tenant_id}/keys")).json() == before


async def test_a_key_that_has_expired_is_not_created(operator: Admin, tenant_id: str) -> None:
    refused = await operator.post(f"/tenants/{tenant_id}/keys", {"expires_at": "2020-01-01T00:00:00Z"})
    assert faults_of(refused) == [("/expires_at", "not_in_future")]


async def test_keys_of_other_tenants_and_operators_are_not_found(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    other = await gateway.add_tenant()
    own = await admin_of(gateway, tenant_id)
    (foreign, *_) = (await operator.get(f"/tenants/{other.id}/keys")).json()["keys"]
    for client, path in (
        (own, f"/tenants/{tenant_id}/keys/{foreign['id']}"),
        (own, f"/tenants/{tenant_id}/keys/{operator.key_id}"),
        (operator, f"/tenants/{tenant_id}/keys/{foreign['id']}"),
        (operator, f"/tenants/{tenant_id}/keys/cgk_000000000000"),
    ):
        refused = await client.delete(path)
        assert slug_of(refused) == (404, "resource-not-found")
    assert slug_of(await own.delete(f"/tenants/{other.id}/keys/{foreign['id']}")) == (404, "tenant-not-found")
    assert slug_of(await own.get(f"/tenants/{other.id}/keys")) == (404, "tenant-not-found")
    assert slug_of(await own.post(f"/tenants/{other.id}/keys", {})) == (404, "tenant-not-found")
    assert (await other.http.get("/v1/calls")).status_code == 200


async def test_lists_are_pages_by_key(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/keys"
    for number in range(4):
        await operator.post(path, {"name": str(number)})
    first = (await operator.get(f"{path}?limit=3")).json()
    rest = (await operator.get(f"{path}?limit=3&cursor={first['next_cursor']}")).json()
    assert [key["name"] for key in first["keys"] + rest["keys"]] == [None, "0", "1", "2", "3"]
    assert rest["next_cursor"] is None
