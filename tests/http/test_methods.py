"""Every GET route answers HEAD, and the Allow header lists every method of a path."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.main import create_app
from app.observability.metrics import EXPOSITION_INTERVAL_S
from app.settings import Settings
from tests.support.gateway import Gateway, Tenant
from tests.support.raw import raw_connection, request_head
from tests.support.upstream import Upstream, answer, call_resource, created, running_upstream

SID = "CA" + "1" * 32
RECORDING = "RE" + "1" * 32
ACCOUNT = "/2010-04-01/Accounts/AC{0:032x}"
VARYING = {"date", "x-request-id", "server-timing", "age", "warning"}


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream(created()) as running:
        yield running


@pytest.fixture(scope="module")
async def tenant(gateway: Gateway, upstream: Upstream) -> Tenant:
    return await gateway.add_tenant(upstream.url)


def documented_gets() -> list[str]:
    return [path for path, operations in create_app(Settings()).openapi()["paths"].items() if "get" in operations]


@pytest.mark.parametrize(
    "path",
    [
        *documented_gets(),
        "/docs", "/redoc", "/openapi.json", "/static-offline-docs/favicon.png",
        "/2010-04-01/Accounts/{account}/Calls.json", "/2010-04-01/Accounts/{account}/Calls/{id_or_sid}.json",
        "/2010-04-01/Accounts/{account}/Calls/{id_or_sid}",
    ],
)  # fmt: skip
async def test_head_is_answered_like_get_without_content(gateway: Gateway, tenant: Tenant, path: str) -> None:
    """Sends all requests on one connection, on which unexpected content would be read as the next response."""
    sid = (await tenant.create()).json()["sid"]
    (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
    url = path.format(account=tenant.account_sid, id_or_sid=sid, sid=RECORDING, tenant_id=tenant.id, name="reminders")
    lines = (f"Authorization: Bearer {tenant.key}", "Accept: application/json")
    async with raw_connection(gateway.url) as connection:
        await connection.send(request_head("GET", url, *lines))
        got = await connection.answer()
        await connection.send(request_head("HEAD", url, *lines), request_head("GET", "/livez"))
        response = await connection.answer(content=False)
        assert response.status == got.status
        assert response.headers.keys() == got.headers.keys()
        if path != "/metrics":
            assert {**response.headers, **dict.fromkeys(VARYING)} == {**got.headers, **dict.fromkeys(VARYING)}
        assert (await connection.answer()).status == 200


async def test_head_of_a_recording_does_not_download_it(gateway: Gateway) -> None:
    resource = call_resource()
    sound = answer(200, body=b"ID3" * 1_000_000, headers={"Content-Type": "audio/mpeg"})
    async with running_upstream(answer(201, resource), answer(200, {"sid": RECORDING}), sound) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        response = await tenant.http.head(f"/v1/calls/{record['id']}/recordings/{RECORDING}/media")
        assert (response.status_code, response.headers["content-length"], response.content) == (200, "3000000", b"")


async def test_head_is_counted_under_its_route(gateway: Gateway, tenant: Tenant) -> None:
    assert (await tenant.http.head("/v1/calls")).status_code == 200
    await asyncio.sleep(EXPOSITION_INTERVAL_S)
    counted = (await tenant.http.get("/metrics")).text
    assert 'callgate_http_requests_total{method="HEAD",route="/v1/calls",status="200"}' in counted


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/calls", "GET, HEAD, POST"),
        ("PUT", "/v1/calls", "GET, HEAD, POST"),
        ("PUT", f"/v1/calls/{SID}", "GET, HEAD, PATCH"),
        ("DELETE", f"/v1/calls/{SID}/recordings", "GET, HEAD, POST"),
        ("PUT", f"/v1/calls/{SID}/recordings/{RECORDING}", "DELETE, GET, HEAD, PATCH"),
        ("GET", "/v1/sip-uris", "POST"),
        ("HEAD", "/v1/sip-uris", "POST"),
        ("PUT", f"{ACCOUNT}/Calls.json", "GET, HEAD, POST"),
        ("PATCH", f"{ACCOUNT}/Calls", "GET, HEAD, POST"),
        ("PATCH", f"{ACCOUNT}/Calls/{SID}.json", "DELETE, GET, HEAD, POST"),
        ("PUT", f"{ACCOUNT}/Calls/{SID}", "DELETE, GET, HEAD, POST"),
        ("DELETE", f"{ACCOUNT}/Calls/{SID}/Recordings.json", "GET, HEAD, POST"),
        ("PUT", f"{ACCOUNT}/Calls/{SID}/Recordings/{RECORDING}.json", "DELETE, GET, HEAD, POST"),
        ("POST", f"{ACCOUNT}/Recordings/{RECORDING}.mp3", "GET, HEAD"),
        ("DELETE", "/callbacks/twilio/0199e2f0-c7d2-7f0f-8f1d-8c1c0d6a4b11", "GET, HEAD, POST"),
        ("POST", "/livez", "GET, HEAD"),
        ("OPTIONS", "/docs", "GET, HEAD"),
        ("PUT", "/openapi.json", "GET, HEAD"),
        ("POST", "/static-offline-docs/favicon.png", "GET, HEAD"),
    ],
)
async def test_allow_names_every_method_of_a_path(tenant: Tenant, method: str, path: str, allowed: str) -> None:
    response = await tenant.http.request(method, path.format(1))
    assert (response.status_code, response.headers.get_list("allow")) == (405, [allowed])
