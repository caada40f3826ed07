"""Tests that a change under /v1 whose request has no body refuses one, instead of ignoring it."""

import re
from uuid import uuid4

from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import ALL_SCOPES
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import Upstream

ITEMS = {
    "sid": "RE" + "0" * 32,
    "name": "reminders",
    "delivery_id": str(uuid4()),
    "credential_id": str(uuid4()),
    "key_id": "cgk_000000000000",
    "workload_id": str(uuid4()),
}


async def test_every_change_without_a_body_refuses_one(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    _, key = await gateway.tenants.create_key(tenant.id, name=None, scopes=ALL_SCOPES, creator=COMMAND_LINE_CALLER)
    headers = {"Authorization": f"Bearer {key}"}
    call_id = (await tenant.create()).raise_for_status().json()["id"]
    named = ITEMS | {"id_or_sid": call_id, "tenant_id": tenant.id, "account_sid": tenant.account_sid}
    paths = (await tenant.http.get("/openapi.json")).json()["paths"]
    changes = [
        (method, path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if path.startswith("/v1/") and method != "get" and "requestBody" not in operation
    ]
    assert len(changes) == 8
    for method, path in changes:
        url = re.sub(r"{(\w+)}", lambda found: named[found[1]], path)
        refused = (await tenant.http.request(method, url, headers=headers, json={"priority": "bulk"})).json()
        assert refused["type"] == "urn:callgate:problem:invalid-request", (method, path)
        assert [(each["pointer"], each["code"]) for each in refused["errors"]] == [("", "not_supported")], (method, path)
    assert [request.method for request in upstream.received] == ["POST"]
