"""A tenant sees only its own calls. Without a valid key nothing is shown."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.tenants.caller import COMMAND_LINE_CALLER
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import created, running_upstream

OPEN_ROUTES = {"/livez", "/readyz", "/metrics"}
# The other routes send requests to Twilio. tests/subresources covers what the owner gets from them.
OF_CALLS = {"/v1/calls/{id_or_sid}", "/v1/calls/{id_or_sid}/events"}


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL, key_attempts=1000)) as running:
        yield running


@pytest.fixture
async def owner_and_other(gateway: Gateway) -> AsyncIterator[tuple[Tenant, Tenant, dict[str, str]]]:
    """Returns the owner of a call, another tenant, and the call's record."""
    async with running_upstream(created()) as upstream:
        owner, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        record = (await owner.create("k", status_callback="https://own.example.com/")).json()
        await call_back(gateway, owner, record["id"], status_callback_fields(owner, record, "completed", 3))
        yield owner, other, record


async def _operations(gateway: Gateway) -> list[tuple[str, str]]:
    async with http_client(base_url=gateway.url) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods if path not in OPEN_ROUTES]


async def test_every_operation_needs_a_key(gateway: Gateway) -> None:
    operations = await _operations(gateway)
    assert len(operations) >= 4
    for authorization in ({}, {"Authorization": "Bearer cgk_000000000000_nonsense"}, {"Authorization": "Basic Zm9vOmJhcg=="}):
        async with http_client(base_url=gateway.url, headers=authorization) as http:
            for method, path in operations:
                response = await http.request(method, path.replace("{id_or_sid}", str(uuid4())), content=b"{not json")
                assert response.status_code == 401, (method, path)
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert response.json()["type"] == "urn:callgate:problem:unauthorized"


async def test_every_route_of_a_call_hides_the_calls_of_other_tenants(
    gateway: Gateway, owner_and_other: tuple[Tenant, Tenant, dict[str, str]]
) -> None:
    owner, other, record = owner_and_other
    (delivery,) = (await owner.http.get(f"/v1/calls/{record['id']}/deliveries")).json()["deliveries"]
    routes = [
        (method, path.replace("{delivery_id}", delivery["id"]))
        for method, path in await _operations(gateway)
        if "{id_or_sid}" in path
    ]
    assert len(routes) >= 4
    for method, path in routes:
        for name in (record["id"], record["sid"]):
            body = {"status": "completed"} if method == "PATCH" else None
            url = path.replace("{id_or_sid}", name).replace("{sid}", "RE" + "0" * 32)
            foreign = await other.http.request(method, url, json=body)
            if path in OF_CALLS:
                own = await owner.http.request(method, url, json=body)
                # The call has ended: it is found, but cannot be changed.
                assert own.status_code == (409 if method == "PATCH" else 200), (method, path)
            assert foreign.status_code == 404, (method, path)
            assert foreign.json()["type"] == "urn:callgate:problem:call-not-found"
            assert "execution" not in foreign.json()


async def test_the_list_shows_only_the_tenants_own_calls(owner_and_other: tuple[Tenant, Tenant, dict[str, str]]) -> None:
    owner, other, record = owner_and_other
    assert [call["id"] for call in (await owner.http.get("/v1/calls")).json()["calls"]] == [record["id"]]
    for query in ("", f"?to={record['to']}", f"?from={record['from']}", "?execution=started", "?status=queued"):
        assert (await other.http.get(f"/v1/calls{query}")).json()["calls"] == []


async def test_revoked_and_expired_keys_are_refused(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    assert (await tenant.http.get("/v1/calls")).status_code == 200
    await gateway.tenants.revoke_key(tenant.key)
    gateway.invalidate_cache()
    assert (await tenant.http.get("/v1/calls")).status_code == 401
    _, expired = await gateway.tenants.create_key(
        tenant.id, name=None, creator=COMMAND_LINE_CALLER, expires_at=datetime.now(UTC) - timedelta(seconds=1)
    )
    response = await tenant.http.get("/v1/calls", headers={"Authorization": f"Bearer {expired}"})
    assert response.status_code == 401


async def test_a_key_with_another_keys_prefix_is_refused(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    forged = tenant.key[:-4] + "AAAA"
    response = await tenant.http.get("/v1/calls", headers={"Authorization": f"Bearer {forged}"})
    assert response.status_code == 401


@pytest.mark.parametrize("name", ["nonsense", "CA123", "00000000-0000-0000-0000-00000000000g", "%00", "CA" + "0" * 31 + "%00"])
async def test_malformed_ids_are_not_found(gateway: Gateway, name: str) -> None:
    tenant = await gateway.add_tenant()
    response = await tenant.http.get(f"/v1/calls/{name}")
    assert (response.status_code, response.json()["type"]) == (404, "urn:callgate:problem:call-not-found")
