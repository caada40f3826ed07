"""Tests that secrets typed into the console appear in no log, span, metric or unencrypted column.

The test sends every form of `REQUESTS`, also with wrong values, and a GET to every route. A new form needs an entry in it.
"""

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from app.audit.events import command_actor
from app.console.router import ROUTERS
from app.console.sessions.service import add_login_link
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.api.test_secrets import InstrumentedGateway, every_cell, instrumented
from tests.console.conftest import browser, cookie_of

PLANTED = "pl4nted-s3cret"
KEY, STRAY, TOKEN, IN_PATH = (f"{PLANTED}-{name}" for name in ("k3y", "stray", "t0ken", "path"))
SID, KEY_SID, ONCE = "AC" + "e" * 32, "SK" + "e" * 32, str(uuid4())
PATH_VALUES = {"digest": "0" * 16, "asset": "console.js", "account_sid": SID}
# By form, what is sent to it. A field of the form that may hold a secret is named. Each form also gets STRAY_FIELDS.
REQUESTS: dict[str, list[dict[str, str]]] = {
    "POST /console/login": [{"key": KEY}, {"key": f"cgk_000000000000_{KEY}", "next": f"/console/{STRAY}"}],
    "POST /console/logout": [{}],
    "POST /console/link": [{"link": KEY}],
    "POST /console/deliveries/{tenant_id}/replay": [{"since": "2026-01-01T00:00"}, {"since": STRAY}],
    "POST /console/deliveries/{tenant_id}/{call_id}/{delivery_id}/retry": [{}],
    "POST /console/queues/{tenant_id}/{name}/pause": [{}],
    "POST /console/queues/{tenant_id}/{name}/resume": [{}],
    "POST /console/queues/{tenant_id}/{name}/cancel": [{}],
    "POST /console/tenants": [{"id": "planted", "name": "x"}, {"id": f"{STRAY} x", "name": "x"}],
    "POST /console/tenants/{tenant_id}/suspend": [{}],
    "POST /console/tenants/{tenant_id}/resume": [{}],
    "POST /console/tenants/{tenant_id}/accounts": [
        {"account_sid": SID, "auth_token": KEY},
        {"account_sid": SID, "key_sid": KEY_SID, "secret": KEY},  # conflicts
        {"account_sid": STRAY, "key_sid": STRAY, "secret": f"{KEY} x"},
        {"account_sid": SID, "auth_token": KEY, "base_url": f"https://user:{STRAY}@api.twilio.com"},
    ],
    "POST /console/tenants/{tenant_id}/accounts/{account_sid}/credentials": [
        {"key_sid": KEY_SID, "secret": KEY},
        {"auth_token": f"{KEY} x"},
        {"auth_token": KEY, "secret": KEY},
    ],
    "POST /console/tenants/{tenant_id}/credentials/{credential_id}/revoke": [{}],
    "POST /console/tenants/{tenant_id}/keys": [
        {"once": ONCE, "scopes": "read", "name": "x"},
        {"once": STRAY, "scopes": STRAY, "expires_at": STRAY, "format": STRAY},
    ],
    "POST /console/tenants/{tenant_id}/keys/{key_id}/revoke": [{}],
    "POST /console/sip": [{"address": f"sip:{STRAY}:{KEY}@example.com"}, {"address": f"{STRAY}:{KEY}@{STRAY} {STRAY}"}],
    "POST /console/calls/{id_or_sid}/reveal": [{}],
    "POST /console/calls/{id_or_sid}/end": [{}],
    "POST /console/calls/{id_or_sid}/deliveries/{delivery_id}/retry": [{}],
}
STRAY_FIELDS = {STRAY: STRAY, "key": STRAY, "name": STRAY}


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[InstrumentedGateway]:
    async with instrumented(database_url) as running:
        yield running


def routes() -> list[str]:
    return [f"{method} {route.path}" for router in ROUTERS for route in router.routes for method in route.methods]  # type: ignore[attr-defined]


def test_every_form_is_tried() -> None:
    assert {route for route in routes() if not route.startswith("GET ")} == REQUESTS.keys()


async def test_planted_secrets_appear_nowhere(watched: InstrumentedGateway, database_url: str) -> None:
    gateway = watched.gateway
    tenant = await gateway.add_tenant(with_account=False)
    _, key = await gateway.tenants.create_key(None, name=None, creator=COMMAND_LINE_CALLER, scopes=tuple(Scope))
    answers, cookies = [], []
    named = {"tenant_id": tenant.id} | PATH_VALUES
    for route in routes():
        method, template = route.split(" ")
        paths = [
            re.sub(r"{(\w+)(?::\w+)?}", lambda found: named.get(found[1], str(uuid4())), template),
            re.sub(r"{(\w+)(?::\w+)?}", IN_PATH, template),
        ]
        cookies.append(await cookie_of(gateway, key))
        for http in (await browser(gateway, cookies[-1]), await browser(gateway, TOKEN), await browser(gateway)):
            for path in paths:
                queries = ("", f"?q={STRAY}&next={STRAY}&cursor={STRAY}&tenant={STRAY}")
                sent = [*REQUESTS.get(route, []), STRAY_FIELDS]
                answers += [await http.get(path + query) for query in queries] if method == "GET" else []
                answers += [await http.post(path, data=fields) for fields in sent] if method == "POST" else []
    assert {200, 303, 401} <= {answer.status_code for answer in answers}

    link = await add_login_link(gateway.database, command_actor())
    anyone = await browser(gateway)
    assert link in (await anyone.get(f"/console/link/{link}")).text
    answers.append(await anyone.post("/console/link", data={"link": link}))
    cookies.append(answers[-1].headers["Set-Cookie"].partition("=")[2].partition(";")[0])
    assert answers[-1].status_code == 303

    metrics = (await gateway.clients[0].get("/metrics")).text
    spans = "".join(span.to_json() for span in watched.spans.get_finished_spans())
    stored = await every_cell(database_url)
    assert "console.login" in stored
    assert "/console/login" in watched.log.getvalue()
    for secret in (KEY, STRAY, TOKEN, IN_PATH, key, key.split("_", 2)[2], *cookies, link):
        assert secret not in watched.log.getvalue(), secret
        assert secret not in spans, secret
        assert secret not in metrics, secret
        assert secret not in stored, secret
        assert secret.encode().hex() not in stored, secret
    for secret in (KEY, TOKEN, key, *cookies, link):
        assert not [answer.url for answer in answers if secret in answer.text], secret
