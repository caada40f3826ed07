"""Requests with service account tokens: what a workload may do, why a token is refused, and what metrics and logs show."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import pytest

from app.errors import OperatorKeyRequired
from app.tenants.caller import COMMAND_LINE_CALLER, Caller
from app.tenants.errors import InvalidValue, NoSuchResource, ResourceExists
from app.tenants.scopes import ALL_SCOPES, Scope
from app.tenants.workload_store import WorkloadRow
from app.workloads.service_accounts import ServiceAccount
from app.workloads.tokens import MAX_TOKEN_LENGTH
from tests.support.clients import http_client
from tests.support.cluster import ISSUER, KubernetesCluster, api_server, encode_segment, public_pem, rsa_key
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for, wait_until_ready
from tests.support.logs import logging_to
from tests.support.upstream import answer, created, running_upstream

CLUSTER = KubernetesCluster()


@pytest.fixture(scope="module")
async def gateway(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    key_set = tmp_path_factory.mktemp("keys") / "jwks.json"
    CLUSTER.write_to(key_set)
    async with running_gateway(settings_for(database_url, workload_issuer=ISSUER, workload_keys=str(key_set))) as running:
        # Without the fault, each token of REFUSALS would be accepted.
        await add(running, await running.add_tenant(), "checkout")
        yield running


async def add(
    gateway: Gateway,
    tenant: Tenant | None,
    name: str,
    *,
    namespace: str = "shop",
    issuer: str = ISSUER,
    scopes: list[Scope] | None = None,
) -> WorkloadRow:
    """Registers a Kubernetes service account as a client of Callgate: of the tenant, or as an operator without a tenant."""
    tenant_id, account = None if tenant is None else tenant.id, ServiceAccount(issuer, namespace, name)
    workload, _ = await gateway.tenants.create_workload(tenant_id, account, creator=COMMAND_LINE_CALLER, scopes=scopes)
    gateway.invalidate_cache()
    return workload


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def status_of(gateway: Gateway, token: str) -> int:
    async with http_client(base_url=gateway.url) as http:
        return (await http.get("/v1/calls", headers=bearer(token))).status_code


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_a_workload_places_calls_for_its_tenant(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        await add(gateway, tenant, "caller")
        async with http_client(base_url=gateway.url, headers=bearer(CLUSTER.token(name="caller"))) as http:
            response = await http.post("/v1/calls", json=BASIC_CALL)
            assert response.status_code == 201
            assert (await http.get(f"/v1/calls/{response.json()['id']}")).status_code == 200
            assert upstream.posts[-1].credentials == (tenant.account_sid, tenant.auth_token)
        assert (await tenant.http.get(f"/v1/calls/{response.json()['id']}")).status_code == 200
        assert (await other.http.get(f"/v1/calls/{response.json()['id']}")).status_code == 404


async def test_the_token_is_the_password_under_twilios_paths(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        await add(gateway, tenant, "basic")
        token = CLUSTER.token(name="basic")
        form = {"To": BASIC_CALL["to"], "From": BASIC_CALL["from"], "Url": BASIC_CALL["url"]}
        async with http_client(base_url=gateway.url, auth=(tenant.account_sid, token)) as http:
            assert (await http.post(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json", data=form)).status_code == 201
            assert (await http.get(f"/2010-04-01/Accounts/{other.account_sid}/Calls.json")).status_code == 404
        async with http_client(base_url=gateway.url, auth=("stranger", token)) as http:
            assert (await http.get(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json")).status_code == 401
        async with http_client(base_url=gateway.url, auth=(tenant.account_sid, CLUSTER.token(aud="api"))) as http:
            refused = await http.get(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json")
        assert (refused.status_code, refused.json()["code"]) == (401, 20003)
        assert refused.json()["message"] == "The service account token is not for the audience `callgate`."
        assert refused.headers["WWW-Authenticate"].startswith("Basic")


def _unsigned(**header: str) -> str:
    return f"{encode_segment({'typ': 'JWT', 'kid': 'first'} | header)}.{encode_segment(CLUSTER.claims())}."


def _signed_with_the_public_key() -> str:
    head, body = encode_segment({"alg": "HS256", "typ": "JWT", "kid": "first"}), encode_segment(CLUSTER.claims())
    hmac = jwt.get_algorithm_by_name("HS256")
    signature = base64.urlsafe_b64encode(hmac.sign(f"{head}.{body}".encode(), public_pem(CLUSTER.keys["first"])))
    return f"{head}.{body}.{signature.decode().rstrip('=')}"


REFUSALS: dict[str, tuple[str, Callable[[], str]]] = {
    "another audience": ("audience", lambda: CLUSTER.token(aud=["https://kubernetes.default.svc"])),
    "another issuer": ("issuer", lambda: CLUSTER.token(iss="https://oidc.example.com")),
    "no algorithm": ("algorithm", lambda: _unsigned(alg="none")),
    "the public key as a secret": ("algorithm", _signed_with_the_public_key),
    "expired": ("expired", lambda: CLUSTER.token(iat=1, exp=3601, nbf=1)),
    "not yet valid": ("not_yet_valid", lambda: CLUSTER.token(nbf=4_000_000_000)),
    "too long-lived": ("lifetime", lambda: CLUSTER.token(lifetime_s=365 * 24 * 3600)),
    "unknown key": ("unknown_key", lambda: CLUSTER.token(key_id="unknown", key=rsa_key("another"))),
    "another signature": ("signature", lambda: CLUSTER.token(key_id="first", key=rsa_key("another"))),
    "another namespace": ("no_workload", lambda: CLUSTER.token(namespace="other")),
    "no workload": ("no_workload", lambda: CLUSTER.token(name="stranger")),
    "too long": ("too_long", lambda: CLUSTER.token(padding="x" * MAX_TOKEN_LENGTH)),
    "no token": ("malformed", lambda: "a.b.c"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_says_which_check_failed_and_is_logged_once(gateway: Gateway, case: str) -> None:
    reason, make = REFUSALS[case]
    token = make()
    log = io.StringIO()
    with logging_to(log, format_="json"):
        async with http_client(base_url=gateway.url, headers=bearer(token)) as http:
            response = await http.get("/v1/calls")
    problem = response.json()
    assert (response.status_code, problem["type"]) == (401, "urn:callgate:problem:unauthorized")
    assert "service account" in problem["detail"]
    assert problem["detail"].endswith((".", ")"))
    lines = [line for line in map(json.loads, log.getvalue().splitlines()) if "token_refused" in line]
    assert [(line["event"], line["token_refused"]) for line in lines] == [("request", reason)]
    for part in filter(None, token.split(".")):
        assert len(part) < 9 or part not in response.text + log.getvalue()


async def test_a_deleted_workload_and_a_suspended_tenant_take_effect_at_once(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    workload = await add(gateway, tenant, "deleted")
    token = CLUSTER.token(name="deleted")
    assert await status_of(gateway, token) == 200
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)

    async def is_suspended() -> bool:
        async with http_client(base_url=gateway.url) as http:
            return (await http.post("/v1/calls", json=BASIC_CALL, headers=bearer(token))).status_code == 403

    await until(is_suspended)
    await gateway.tenants.delete_workload(workload.id)

    async def is_refused() -> bool:
        return await status_of(gateway, token) == 401

    await until(is_refused)


async def test_an_operators_workload_acts_for_no_tenant(gateway: Gateway) -> None:
    await add(gateway, None, "operator")
    async with http_client(base_url=gateway.url) as http:
        response = await http.get("/v1/calls", headers=bearer(CLUSTER.token(name="operator")))
    assert (response.status_code, response.json()["type"]) == (403, "urn:callgate:problem:tenant-key-required")


async def test_the_signature_is_checked_once_for_each_token(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    await add(gateway, tenant, "cached")
    token = CLUSTER.token(name="cached")

    async def is_cached() -> bool:
        async with http_client(base_url=gateway.url) as http:
            response = await http.post("/v1/sip-uris", json={"uri": "sip:kate@example.com"}, headers=bearer(token))
        assert response.status_code == 200
        return "database" not in response.headers["server-timing"]

    await until(is_cached)


async def test_a_flood_of_refused_tokens_has_to_wait_and_a_token_that_was_valid_does_not(
    gateway: Gateway, tmp_path: Path
) -> None:
    CLUSTER.write_to(tmp_path / "jwks.json")
    keys = {"workload_issuer": ISSUER, "workload_keys": str(tmp_path / "jwks.json")}
    await add(gateway, await gateway.add_tenant(), "flooded")
    valid = CLUSTER.token(name="flooded")
    settings = settings_for(gateway.settings.require_database_url(), key_attempts=2, **keys)
    async with running_gateway(settings) as limited, http_client(base_url=limited.url) as http:
        assert await status_of(limited, valid) == 200
        answers = [await http.get("/v1/calls", headers=bearer(CLUSTER.token(aud=f"other-{number}"))) for number in range(3)]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert answers[-1].json()["type"] == "urn:callgate:problem:too-many-attempts"
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert await status_of(limited, valid) == 200
        assert await status_of(limited, CLUSTER.token(name="flooded", jti="new to the process")) == 429


async def test_without_an_issuer_no_token_is_accepted(gateway: Gateway) -> None:
    settings = settings_for(gateway.settings.require_database_url())
    async with running_gateway(settings) as without, http_client(base_url=without.url) as http:
        response = await http.get("/v1/calls", headers=bearer(CLUSTER.token()))
        assert "workload_keys" not in (await http.get("/readyz")).json()
    assert response.status_code == 401
    assert response.json()["detail"] == "This Callgate accepts no service account tokens: send an API key."


async def test_an_unreachable_key_set_is_reported_and_the_last_good_one_used(gateway: Gateway) -> None:
    cluster = KubernetesCluster()
    tenant = await gateway.add_tenant()
    await add(gateway, tenant, "unreachable")
    async with running_upstream(answer(500)) as server:
        url = gateway.settings.require_database_url()
        keys = {"workload_issuer": ISSUER, "workload_keys": f"{server.url}/openid/v1/jwks"}
        async with running_gateway(settings_for(url, **keys)) as running, http_client(base_url=running.url) as http:
            token = cluster.token(name="unreachable")
            early = await http.get("/v1/calls", headers=bearer(token))
            assert (early.status_code, early.json()["type"]) == (503, "urn:callgate:problem:workload-keys-unavailable")
            assert early.headers["Retry-After"] == "5"
            await wait_until_ready(http)
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["workload_keys"]) == (200, "unavailable")
            server.script[:] = [api_server(cluster)]
            await until(lambda: is_accepted(running, token))
            assert (await http.get("/readyz")).json()["workload_keys"] == "ok"
            server.script[:] = [answer(500)]
            cluster.rotate("second")
            await until(lambda: has_key_set_state(http, "stale", cluster.token(name="unreachable")))
            assert await status_of(running, token) == 200
            await wait_until_ready(http)
            assert "callgate_workload_key_set_stale 1.0" in (await http.get("/metrics")).text


async def is_accepted(gateway: Gateway, token: str) -> bool:
    return await status_of(gateway, token) == 200


async def has_key_set_state(http: httpx.AsyncClient, state: str, token: str) -> bool:
    assert (await http.get("/v1/calls", headers=bearer(token))).status_code == 503
    return bool((await http.get("/readyz")).json()["workload_keys"] == state)


async def test_a_service_account_acts_for_one_tenant(gateway: Gateway) -> None:
    tenant, other = await gateway.add_tenant(), await gateway.add_tenant()
    first = await add(gateway, tenant, "once")
    assert await add(gateway, tenant, "once") == first
    assert await add(gateway, other, "once", issuer="https://another.example.com")
    for owner in (other, None):
        with pytest.raises(ResourceExists, match="acts for another tenant or for operators already"):
            await add(gateway, owner, "once")
    with pytest.raises(ResourceExists, match="acts for this tenant with other scopes already"):
        await add(gateway, tenant, "once", scopes=[Scope.CALL])
    claimed = Caller(other.id, uuid4(), "cgk_x", False, ALL_SCOPES)
    with pytest.raises(OperatorKeyRequired):
        await gateway.tenants.create_workload(other.id, ServiceAccount(ISSUER, "shop", "claimed"), creator=claimed)
    for account in (("", "a", "b"), ("i", "a:b", "c"), ("i", "a", "B")):
        with pytest.raises(InvalidValue):
            await gateway.tenants.create_workload(tenant.id, ServiceAccount(*account), creator=COMMAND_LINE_CALLER)
    names = [(one.issuer, one.service_account) for one in await gateway.tenants.list_workloads(other.id)]
    assert names == [("https://another.example.com", "once")]
    with pytest.raises(NoSuchResource):
        await gateway.tenants.delete_workload(first.id, tenant_id=other.id)
    await gateway.tenants.delete_workload(first.id, tenant_id=tenant.id)
