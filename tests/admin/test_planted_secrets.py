"""Secrets in requests of the admin API appear in no log, span, answer, metric, audit event or unencrypted column."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from app.admin.router import ROUTERS
from app.http.operations import ADMIN_PREFIX
from tests.admin.conftest import ADMIN, Admin, admin_of
from tests.api.test_secrets import InstrumentedGateway, every_cell, instrumented
from tests.support.gateway import Gateway

PLANTED = "pl4nted-s3cret"
TOKEN, SECRET, URL_PASSWORD, STRAY = (f"{PLANTED}-{name}" for name in ("t0ken", "k3y", "url", "stray"))
# A problem names the path of its request; nothing else does.
IN_PATH = f"{PLANTED}-path"
SID, KEY_SID = "AC" + "e" * 32, "SK" + "e" * 32
WRONG: list[Any] = [{"secret": STRAY, "name": [STRAY], "auth_token": {"x": STRAY}}, [STRAY]]
CREDENTIALS: list[Any] = [{"auth_token": TOKEN}, {"key_sid": KEY_SID, "secret": SECRET}]
ACCOUNTS: list[Any] = [
    {"account_sid": SID, "auth_token": TOKEN},
    {"account_sid": SID, "auth_token": SECRET},  # conflicts
    {"account_sid": SID, "auth_token": TOKEN, "base_url": f"https://user:{URL_PASSWORD}@api.twilio.com"},
    {"account_sid": STRAY, "auth_token": TOKEN, "key_sid": STRAY, "secret": SECRET},
]
WORKLOAD = {"issuer": "https://cluster.example.com", "namespace": "dialling", "service_account": "dialler"}
SIP = {"username": TOKEN, "password": SECRET}
URL = {"callbacks": {"url": f"https://user:{URL_PASSWORD}@hooks.example.com/"}}
HOURS = {"time_zone": STRAY, "days": [STRAY], "from": STRAY, "to": STRAY}
# By route, the bodies that are sent to it: valid ones first. Each route also gets WRONG.
REQUESTS: dict[str, list[Any]] = {
    "GET /tenants": [],
    "POST /tenants": [
        {"id": "planted", "name": "x"},
        {"id": "planted-2", "name": "x"} | URL,
        {"id": STRAY, "name": {"x": STRAY}},
    ],
    "GET /tenants/{tenant_id}": [],
    "PATCH /tenants/{tenant_id}": [{"name": "y"}, URL, {"limits": {"max_in_flight": STRAY}}, {"hours": HOURS}],
    "GET /tenants/{tenant_id}/accounts": [],
    "POST /tenants/{tenant_id}/accounts": ACCOUNTS,
    "PATCH /tenants/{tenant_id}/accounts/{account_sid}": [{"pace": {"max_concurrent": 5}}, {"pace": {"burst": STRAY}}],
    "POST /tenants/{tenant_id}/accounts/{account_sid}/credentials": CREDENTIALS,
    "DELETE /tenants/{tenant_id}/accounts/{account_sid}/credentials/{credential_id}": [],
    "GET /tenants/{tenant_id}/keys": [],
    "POST /tenants/{tenant_id}/keys": [{"name": "x"}, {"scopes": [STRAY]}, {"expires_at": STRAY}],
    "DELETE /tenants/{tenant_id}/keys/{key_id}": [],
    "GET /tenants/{tenant_id}/sip-credentials": [],
    "POST /tenants/{tenant_id}/sip-credentials": [{"name": "pbx"} | SIP, {"name": STRAY, "password": SECRET}],
    "PUT /tenants/{tenant_id}/sip-credentials/{name}": [SIP, {"username": [TOKEN]}],
    "DELETE /tenants/{tenant_id}/sip-credentials/{name}": [],
    "GET /tenants/{tenant_id}/workloads": [],
    "POST /tenants/{tenant_id}/workloads": [WORKLOAD, WORKLOAD | {"scopes": [STRAY]}, WORKLOAD | {"token": STRAY}],
    "DELETE /tenants/{tenant_id}/workloads/{workload_id}": [],
    "GET /audit-events": [],
}
QUERIES = ("", f"?cursor={STRAY}", f"?limit={STRAY}&since={STRAY}", f"?actor={STRAY}&action={STRAY}")


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[InstrumentedGateway]:
    async with instrumented(database_url) as running:
        yield running


async def _send_all(client: Admin, tenant_id: str) -> list[httpx.Response]:
    named = {
        "tenant_id": tenant_id,
        "account_sid": SID,
        "credential_id": str(uuid4()),
        "key_id": "cgk_000000000000",
        "workload_id": str(uuid4()),
        "name": "pbx",
    }
    answers = []
    for route, bodies in REQUESTS.items():
        method, template = route.split(" ")
        path = ADMIN + re.sub(r"{(\w+)}", lambda found: named[found[1]], template)
        stray_path = ADMIN + re.sub(r"{(\w+)}", IN_PATH, template)
        sent = [*bodies, *WRONG] if method in ("POST", "PATCH", "PUT") else []
        answers += [await client.http.request(method, path, json=body) for body in sent]
        answers.append(await client.http.request(method, stray_path, json=WRONG[0], headers={"If-Match": STRAY}))
        queries = QUERIES if method == "GET" else ("",)
        answers += [await client.http.request(method, path + query) for query in queries]
    return answers


async def test_every_route_is_tried() -> None:
    routes = {f"{method} {route.path}" for router in ROUTERS for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    assert {route.replace(ADMIN_PREFIX, "") for route in routes} == REQUESTS.keys()


async def test_planted_secrets_appear_nowhere(watched: InstrumentedGateway, database_url: str) -> None:
    gateway: Gateway = watched.gateway
    tenant = await gateway.add_tenant(with_account=False)
    second = await gateway.add_tenant(with_account=False)
    operator, own = await admin_of(gateway, None), await admin_of(gateway, tenant.id)
    answers = await _send_all(operator, tenant.id) + await _send_all(own, tenant.id)
    # Every change fails after its statement, and the error of Postgres has the values of the row.
    async with gateway.database.begin() as session:
        await session.execute(text("ALTER TABLE audit_event ADD CONSTRAINT broken CHECK (false) NOT VALID"))
    answers += await _send_all(operator, second.id)
    assert {201, 409, 422, 500} <= {answer.status_code for answer in answers}

    created = [answer.json()["key"] for answer in answers if answer.status_code == 201 and answer.json().get("key")]
    assert created
    metrics = (await operator.http.get("/metrics")).text
    spans = "".join(span.to_json() for span in watched.spans.get_finished_spans())
    stored = await every_cell(database_url)
    assert "credential.add" in stored
    assert "/v1/admin/tenants/{tenant_id}/accounts" in watched.log.getvalue()
    for secret in (TOKEN, SECRET, URL_PASSWORD, STRAY, IN_PATH, *created, *(key.split("_", 2)[2] for key in created)):
        shown = [answer for answer in answers if secret in f"{answer.text} {answer.headers}" and secret != IN_PATH]
        assert [answer.status_code for answer in shown] == [201] * any(secret in key for key in created), secret
        assert secret not in watched.log.getvalue()
        assert secret not in spans
        assert secret not in metrics
        assert secret not in stored
        assert secret.encode().hex() not in stored
