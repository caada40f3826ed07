"""Checks what every route answers to every kind of API key.

A new route needs a row in the table. Run the test: it prints the missing rows with the answers that it got. Check each cell.
"""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts

from app.http.operations import CONSOLE_PREFIX
from app.http.routes import ScopedRoute, needs, require_access_declarations
from app.main import create_app
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import ALL_SCOPES, Scope
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_app

# The columns `call`, `read` and `admin` are keys of the call's tenant with this scope alone. `other` is another tenant's
# key, and `operator` an operator's; both have all scopes. `viewer` is an operator's key with `read` alone. In the cells,
# `2xx` and `3xx` mean that the request was answered, and `4xx` that something else than the key was wrong. `-call`, `-read` and
# `-admin` are a 403 that names this scope, `-tenant` and `-operator` a 403 that asks for the key of a tenant or an operator.
# `forged` is the 403 of a callback. Below `/console` a request has the session of the key instead of the key, and `login` is a
# redirect to the login.
TABLE = """
none    call    read    admin   other   operator viewer route
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /static-offline-docs
401     2xx     -call   -call   2xx     -tenant -tenant POST /v1/calls
401     -read   2xx     -read   2xx     -tenant -tenant GET /v1/calls
401     -read   2xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}
401     -read   2xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/events
401     -read   4xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/recordings/{sid}/media
401     -read   2xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/twilio_events
401     -read   2xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/notifications
401     -read   4xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/notifications/{sid}
401     -read   2xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/recordings
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/recordings
401     -read   4xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/recordings/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant PATCH /v1/calls/{id_or_sid}/recordings/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant DELETE /v1/calls/{id_or_sid}/recordings/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/payments
401     4xx     -call   -call   4xx     -tenant -tenant PATCH /v1/calls/{id_or_sid}/payments/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/transcriptions
401     4xx     -call   -call   4xx     -tenant -tenant PATCH /v1/calls/{id_or_sid}/transcriptions/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/siprec
401     4xx     -call   -call   4xx     -tenant -tenant PATCH /v1/calls/{id_or_sid}/siprec/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/streams
401     4xx     -call   -call   4xx     -tenant -tenant PATCH /v1/calls/{id_or_sid}/streams/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/user_defined_messages
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/user_defined_message_subscriptions
401     4xx     -call   -call   4xx     -tenant -tenant DELETE /v1/calls/{id_or_sid}/user_defined_message_subscriptions/{sid}
401     2xx     -call   -call   4xx     -tenant -tenant PATCH /v1/calls/{id_or_sid}
401     -read   2xx     -read   4xx     -tenant -tenant GET /v1/calls/{id_or_sid}/deliveries
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/calls/{id_or_sid}/deliveries/{delivery_id}/retry
401     2xx     -call   -call   2xx     -tenant -tenant POST /v1/deliveries/replay
401     -read   2xx     -read   2xx     -tenant -tenant GET /v1/queues
401     -read   4xx     -read   4xx     -tenant -tenant GET /v1/queues/{name}
401     2xx     -call   -call   2xx     -tenant -tenant PUT /v1/queues/{name}
401     2xx     -call   -call   2xx     -tenant -tenant POST /v1/queues/{name}/cancel
401     4xx     -call   -call   4xx     -tenant -tenant POST /v1/queues/{name}/calls
401     2xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls.json
401     2xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls.json
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{sid}.json
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant DELETE {twilio}/Calls/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant DELETE {twilio}/Calls/{sid}
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Recordings/{sid}.wav
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Recordings/{sid}.mp3
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Recordings/{sid}.wav
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Recordings/{sid}.mp3
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Recordings/{sid}.json
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Recordings/{sid}
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Events.json
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Events
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Notifications.json
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Notifications
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Notifications/{sid}.json
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Notifications/{sid}
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Recordings.json
401     -read   2xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Recordings
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Recordings.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Recordings
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Recordings/{sid}.json
401     -read   4xx     -read   4xx     -tenant -tenant GET {twilio}/Calls/{call_sid}/Recordings/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Recordings/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Recordings/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant DELETE {twilio}/Calls/{call_sid}/Recordings/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant DELETE {twilio}/Calls/{call_sid}/Recordings/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Payments.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Payments
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Payments/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Payments/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Transcriptions.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Transcriptions
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Transcriptions/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Transcriptions/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Siprec.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Siprec
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Siprec/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Siprec/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Streams.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Streams
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Streams/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/Streams/{sid}
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/UserDefinedMessages.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/UserDefinedMessages
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/UserDefinedMessageSubscriptions.json
401     4xx     -call   -call   4xx     -tenant -tenant POST {twilio}/Calls/{call_sid}/UserDefinedMessageSubscriptions
401     4xx     -call   -call   4xx     -tenant -tenant DELETE {twilio}/Calls/{call_sid}/{subscriptions}/{sid}.json
401     4xx     -call   -call   4xx     -tenant -tenant DELETE {twilio}/Calls/{call_sid}/{subscriptions}/{sid}
forged  forged  forged  forged  forged  forged  forged  GET /callbacks/twilio/{call_id}
forged  forged  forged  forged  forged  forged  forged  POST /callbacks/twilio/{call_id}
401     2xx     -call   -call   2xx     -tenant -tenant POST /v1/sip-uris
401     -admin  -admin  2xx     2xx     2xx     2xx     GET /v1/admin/tenants
401     -operator -operator -operator -operator 2xx     -admin  POST /v1/admin/tenants
401     -admin  -admin  2xx     4xx     2xx     2xx     GET {tenant}
401     -admin  -admin  2xx     4xx     2xx     -admin  PATCH {tenant}
401     -admin  -admin  2xx     4xx     2xx     2xx     GET {tenant}/accounts
401     -admin  -admin  2xx     4xx     2xx     -admin  POST {tenant}/accounts
401     -operator -operator -operator -operator 2xx     -admin  PATCH {tenant}/accounts/{account_sid}
401     -admin  -admin  2xx     4xx     2xx     -admin  POST {tenant}/accounts/{account_sid}/credentials
401     -admin  -admin  4xx     4xx     4xx     -admin  DELETE {tenant}/accounts/{account_sid}/credentials/{credential_id}
401     -admin  -admin  2xx     4xx     2xx     2xx     GET {tenant}/keys
401     -admin  -admin  2xx     4xx     2xx     -admin  POST {tenant}/keys
401     -admin  -admin  4xx     4xx     4xx     -admin  DELETE {tenant}/keys/{key_id}
401     -admin  -admin  2xx     4xx     2xx     2xx     GET {tenant}/sip-credentials
401     -admin  -admin  2xx     4xx     2xx     -admin  POST {tenant}/sip-credentials
401     -admin  -admin  4xx     4xx     4xx     -admin  PUT {tenant}/sip-credentials/{name}
401     -admin  -admin  4xx     4xx     4xx     -admin  DELETE {tenant}/sip-credentials/{name}
401     -admin  -admin  2xx     4xx     2xx     2xx     GET {tenant}/workloads
401     -operator -operator -operator -operator 2xx     -admin  POST {tenant}/workloads
401     -admin  -admin  4xx     4xx     4xx     -admin  DELETE {tenant}/workloads/{workload_id}
401     -admin  -admin  2xx     2xx     2xx     2xx     GET /v1/admin/audit-events
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /livez
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /readyz
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /metrics
3xx     3xx     3xx     3xx     3xx     3xx     3xx     GET /
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /docs
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /redoc
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /redoc.standalone.js
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /docs/{name}
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /openapi.json
login   -read   3xx     -read   3xx     3xx     3xx     GET /console
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /console/static/{digest}/{asset}
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /console/login
401     401     401     401     401     401     401     POST /console/login
2xx     2xx     2xx     2xx     2xx     2xx     2xx     GET /console/link/{link}
401     401     401     401     401     401     401     POST /console/link
login   login   login   login   login   login   login   POST /console/logout
4xx     4xx     4xx     4xx     4xx     4xx     4xx     GET /console/oidc/login
4xx     4xx     4xx     4xx     4xx     4xx     4xx     GET /console/oidc/callback
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/session
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/now
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/now/summary
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/now/figures
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/queues
login   -read   2xx     -read   4xx     2xx     2xx     GET /console/queues/{tenant_id}/{name}
login   -read   2xx     -read   4xx     2xx     2xx     GET /console/queues/{tenant_id}/{name}/live
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/queues/{tenant_id}/{name}/pause
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/queues/{tenant_id}/{name}/resume
login   -admin  -admin  -read   4xx     2xx     -admin  GET /console/queues/{tenant_id}/{name}/cancel
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/queues/{tenant_id}/{name}/cancel
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/deliveries
login   -read   3xx     -read   4xx     3xx     3xx     GET /console/deliveries/{tenant_id}/replay
login   -read   4xx     -read   4xx     4xx     4xx     GET /console/deliveries/{tenant_id}/{delivery_id}
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/deliveries/{tenant_id}/replay
401     -admin  -admin  -read   4xx     4xx     -admin  POST /console/deliveries/{tenant_id}/{call_id}/{delivery_id}/retry
login   -read   3xx     -read   3xx     2xx     2xx     GET /console/tenants
401     -operator -operator -operator -operator 3xx     -admin  POST /console/tenants
login   -read   2xx     -read   4xx     2xx     2xx     GET /console/tenants/{tenant_id}
login   -read   3xx     -read   4xx     3xx     3xx     GET /console/tenants/{tenant_id}/accounts
login   -read   3xx     -read   4xx     3xx     3xx     GET /console/tenants/{tenant_id}/accounts/{account_sid}/credentials
login   -read   3xx     -read   4xx     3xx     3xx     GET /console/tenants/{tenant_id}/keys
401     -operator -operator -operator -operator 3xx     -admin  POST /console/tenants/{tenant_id}/suspend
401     -operator -operator -operator -operator 3xx     -admin  POST /console/tenants/{tenant_id}/resume
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/tenants/{tenant_id}/accounts
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/tenants/{tenant_id}/accounts/{account_sid}/credentials
401     -admin  -admin  -read   4xx     4xx     -admin  POST /console/tenants/{tenant_id}/credentials/{credential_id}/revoke
401     -admin  -admin  -read   4xx     2xx     -admin  POST /console/tenants/{tenant_id}/keys
401     -admin  -admin  -read   4xx     4xx     -admin  POST /console/tenants/{tenant_id}/keys/{key_id}/revoke
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/audit
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/sip
401     -read   2xx     -read   2xx     2xx     2xx     POST /console/sip
login   -read   2xx     -read   2xx     2xx     2xx     GET /console/calls
login   -read   2xx     -read   4xx     2xx     2xx     GET /console/calls/{id_or_sid}
login   -read   2xx     -read   4xx     2xx     2xx     GET /console/calls/{id_or_sid}/live
login   -read   3xx     -read   3xx     3xx     3xx     GET /console/calls/{id_or_sid}/reveal
login   -read   3xx     -read   3xx     3xx     3xx     GET /console/calls/{id_or_sid}/end
401     -admin  -admin  -read   4xx     2xx     -admin  POST /console/calls/{id_or_sid}/reveal
401     -admin  -admin  -read   4xx     3xx     -admin  POST /console/calls/{id_or_sid}/end
401     -admin  -admin  -read   4xx     4xx     -admin  POST /console/calls/{id_or_sid}/deliveries/{delivery_id}/retry
login   -read   4xx     -read   4xx     4xx     4xx     GET /console/{path:path}
"""
TWILIO = "/2010-04-01/Accounts/{account_sid}"
SUBSCRIPTIONS = "UserDefinedMessageSubscriptions"
TENANT = "/v1/admin/tenants/{tenant_id}"
COLUMNS = ("none", "call", "read", "admin", "other", "operator", "viewer")

PATH_PARAMETERS = {
    "name": "errors",
    "call_id": str(uuid4()),
    "delivery_id": str(uuid4()),
    "credential_id": str(uuid4()),
    "key_id": "cgk_000000000000",
    "workload_id": str(uuid4()),
    "sid": "RE" + "0" * 32,
    "digest": "0" * 16,
    "asset": "console.css",
    "link": "x",
}
FILES = {"/static-offline-docs": "/static-offline-docs/swagger-ui.css"}
BODIES: dict[str, Any] = {
    "POST /v1/calls": BASIC_CALL,
    "PATCH /v1/calls/{id_or_sid}": {"status": "completed"},
    "POST /v1/sip-uris": {"uri": BASIC_CALL["to"]},
    "POST /v1/deliveries/replay": {"since": "2026-01-01T00:00:00Z"},
    "PUT /v1/queues/{name}": {},
    "POST /v1/admin/tenants": {"id": "matrix", "name": "Matrix"},
    "PATCH /v1/admin/tenants/{tenant_id}": {"name": "Matrix"},
    "POST /v1/admin/tenants/{tenant_id}/accounts": {"account_sid": "AC" + "f" * 32, "auth_token": "t"},
    "PATCH /v1/admin/tenants/{tenant_id}/accounts/{account_sid}": {"pace": {"calls_per_second": 1000, "burst": 1000}},
    "POST /v1/admin/tenants/{tenant_id}/accounts/{account_sid}/credentials": {"auth_token": "t"},
    "POST /v1/admin/tenants/{tenant_id}/keys": {"scopes": ["admin"]},
    "POST /v1/admin/tenants/{tenant_id}/sip-credentials": {"name": "pbx", "username": "u", "password": "p"},
    "PUT /v1/admin/tenants/{tenant_id}/sip-credentials/{name}": {"username": "u", "password": "p"},
    "POST /v1/admin/tenants/{tenant_id}/workloads": {"namespace": "a", "service_account": "b", "issuer": "https://c"},
}
FORMS: dict[str, dict[str, str]] = {
    path: {"To": BASIC_CALL["to"], "From": BASIC_CALL["from"], "Url": BASIC_CALL["url"]}
    for path in (f"POST {TWILIO}/Calls", f"POST {TWILIO}/Calls.json")
} | {
    "POST /console/deliveries/{tenant_id}/replay": {"since": "2026-01-01T00:00"},
    "POST /console/tenants": {"id": "matrix-2", "name": "Matrix"},
    "POST /console/tenants/{tenant_id}/accounts": {"account_sid": "AC" + "e" * 32, "auth_token": "t"},
    "POST /console/tenants/{tenant_id}/accounts/{account_sid}/credentials": {"auth_token": "t2"},
    "POST /console/tenants/{tenant_id}/keys": {"once": str(uuid4()), "scopes": "admin"},
}


def expected() -> dict[str, list[str]]:
    """Returns the cells of TABLE by route, which is a method and a path."""
    lines = [
        line.split()
        for line in TABLE.replace("{twilio}", TWILIO)
        .replace("{tenant}", TENANT)
        .replace("{subscriptions}", SUBSCRIPTIONS)
        .strip()
        .splitlines()[1:]
    ]
    return {f"{method} {path}": cells for *cells, method, path in lines}


@pytest.fixture
async def keys(gateway: Gateway) -> AsyncIterator[tuple[Tenant, dict[str, str | None]]]:
    """Yields a tenant whose calls go to the simulator, and the API key of each column of TABLE."""
    async with running_app(create_simulator(SimulatorConfig(open_mode=True))) as simulator_url:
        own, other = await gateway.add_tenant(simulator_url), await gateway.add_tenant(simulator_url)

        async def key(tenant_id: str | None, *scopes: Scope) -> str:
            return (await gateway.tenants.create_key(tenant_id, name=None, scopes=scopes, creator=COMMAND_LINE_CALLER))[1]

        of_scopes: dict[str, str | None] = {scope.value: await key(own.id, scope) for scope in Scope}
        operators = {"operator": await key(None, *ALL_SCOPES), "viewer": await key(None, Scope.READ)}
        yield own, {"none": None, **of_scopes, "other": await key(other.id, *ALL_SCOPES), **operators}


def routes_of(gateway: Gateway) -> list[str]:
    return [
        f"{method} {route.path}"
        for route in iter_route_contexts(create_app(gateway.settings).routes)
        for method in sorted(route.methods or {"GET"})
        if method != "HEAD"
    ]


async def answered(http: httpx.AsyncClient, name: str, tenant: Tenant, key: str | None) -> str:
    """Sends a request with the key to the route `name`, and returns the cell that describes the answer.

    If the route is about a call, first creates a call of the tenant for it.
    """
    method, path = name.split(" ")
    call = (await tenant.create()).raise_for_status().json() if "sid}" in path else {"id": "", "sid": ""}
    named = PATH_PARAMETERS | {
        "tenant_id": tenant.id,
        "account_sid": tenant.account_sid,
        "id_or_sid": call["id"],
        "call_sid": call["sid"],
    }
    if path.endswith(("/Calls/{sid}", "/Calls/{sid}.json")):
        named["sid"] = call["sid"]
    url = FILES.get(path) or re.sub(r"{(\w+)}", lambda found: named[found[1]], path)
    headers = await console_headers(http, key) if path.startswith(CONSOLE_PREFIX) else bearer(key)
    bodies: dict[str, Any] = {"json": BODIES[name]} if name in BODIES else {"data": FORMS[name]} if name in FORMS else {}
    response = await http.request(method, url, headers=headers, **bodies)
    return cell_of(response)


def bearer(key: str | None) -> dict[str, str]:
    return {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


async def console_headers(http: httpx.AsyncClient, key: str | None) -> dict[str, str]:
    """Logs in to the console with the key. Returns the headers that a browser sends in this session."""
    headers = {"Origin": str(http.base_url).rstrip("/")}
    if key is None:
        return headers
    login = await http.post(f"{CONSOLE_PREFIX}/login", data={"key": key}, headers=headers)
    return headers | {"Cookie": login.headers["Set-Cookie"].partition(";")[0]}


def cell_of(response: httpx.Response) -> str:
    if response.status_code == 401:
        return "401"
    if response.headers.get("Location", "").startswith(f"{CONSOLE_PREFIX}/login"):
        return "login"
    if response.status_code != 403:
        return f"{response.status_code // 100}xx"
    is_page = response.headers["Content-Type"].startswith("text/html")
    problem = {"detail": re.sub("</?code>", "`", response.text)} if is_page else response.json()
    text = problem.get("detail") or problem["message"]
    if lacking := re.search(r"the scope `(\w+)`", text):
        assert problem.get("scope", lacking[1]) == lacking[1]
        assert problem.get("type", "scope-required").endswith("scope-required")
        return f"-{lacking[1]}"
    if required := re.search(r"send an API key of (the tenant|an operator)\.", text):
        return {"the tenant": "-tenant", "an operator": "-operator"}[required[1]]
    return "forged" if problem["type"].endswith("callback-forged") else text


async def test_every_route_answers_each_kind_of_key_as_the_table_says(
    gateway: Gateway, keys: tuple[Tenant, dict[str, str | None]]
) -> None:
    tenant, of_columns = keys
    async with http_client(base_url=gateway.url) as http:
        seen = {
            name: [await answered(http, name, tenant, of_columns[column]) for column in COLUMNS] for name in routes_of(gateway)
        }
    other = {name: cells for name, cells in seen.items() if expected().get(name) != cells}
    lines = [
        " ".join([*(f"{cell:<7}" for cell in cells), name.replace(TWILIO, "{twilio}").replace(TENANT, "{tenant}")])
        for name, cells in other.items()
    ]
    assert not other, "\n" + "\n".join(lines)
    assert expected().keys() == seen.keys()


def test_a_route_without_a_declaration_fails() -> None:
    async def list_things() -> None: ...

    with pytest.raises(TypeError, match="list_things does not declare"):
        APIRouter(route_class=ScopedRoute).get("/things")(list_things)

    undeclared, unchecked, private = FastAPI(openapi_url=None), FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    undeclared.get("/things")(list_things)
    # A route of another class does not check what its endpoint declares.
    unchecked.get("/things")(needs(Scope.READ)(list_things))
    private.include_router(router := APIRouter(route_class=ScopedRoute))
    router.get("/things")(list_things)
    for app in (undeclared, unchecked):
        for unsafe in (app.routes, _included(app).routes):
            with pytest.raises(TypeError, match="/things"):
                require_access_declarations(unsafe)
    require_access_declarations(private.routes)


def _included(app: FastAPI) -> FastAPI:
    outer = FastAPI(openapi_url=None)
    outer.include_router(app.router)
    return outer
