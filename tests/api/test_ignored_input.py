"""Tests that a change under /v1 refuses what it would otherwise ignore: a body it does not have, and query parameters."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import ALL_SCOPES
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import Upstream

INVALID_REQUEST = "urn:callgate:problem:invalid-request"
OPERATOR_KEY_REQUIRED = "urn:callgate:problem:operator-key-required"
ITEMS = {
    "sid": "RE" + "0" * 32,
    "name": "reminders",
    "delivery_id": str(uuid4()),
    "credential_id": str(uuid4()),
    "key_id": "cgk_000000000000",
    "workload_id": str(uuid4()),
}


@dataclass
class ApiClient:
    """Sends requests with a key of all scopes to the operations of the OpenAPI document."""

    tenant: Tenant
    key: str
    path_values: dict[str, str]
    paths: dict[str, Any]

    def changes(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Returns the method, the path and the description of each operation under /v1 that changes something."""
        return [
            (method, path, operation)
            for path, operations in self.paths.items()
            for method, operation in operations.items()
            if path.startswith("/v1/") and method != "get"
        ]

    async def refusal(self, method: str, path: str, query: str = "", **request: Any) -> tuple[str, list[tuple[str, str]]]:
        """Returns the type of the problem, and the pointer and the code of each error."""
        url = re.sub(r"{(\w+)}", lambda found: self.path_values[found[1]], path) + query
        headers = {"Authorization": f"Bearer {self.key}"} | request.pop("headers", {})
        problem = (await self.tenant.http.request(method, url, headers=headers, **request)).json()
        return problem["type"], [(each["pointer"], each["code"]) for each in problem.get("errors", [])]


@pytest.fixture
async def client(gateway: Gateway, tenant: Tenant) -> ApiClient:
    _, key = await gateway.tenants.create_key(tenant.id, name=None, scopes=ALL_SCOPES, creator=COMMAND_LINE_CALLER)
    call_id = (await tenant.create()).raise_for_status().json()["id"]
    values = ITEMS | {"id_or_sid": call_id, "tenant_id": tenant.id, "account_sid": tenant.account_sid}
    return ApiClient(tenant, key, values, (await tenant.http.get("/openapi.json")).json()["paths"])


async def test_requests_that_take_no_body_refuse_a_body(client: ApiClient, upstream: Upstream) -> None:
    changes = [(method, path) for method, path, operation in client.changes() if "requestBody" not in operation]
    assert len(changes) == 8
    for method, path in changes:
        refused = await client.refusal(method, path, json={"priority": "bulk"})
        assert refused == (INVALID_REQUEST, [("", "not_supported")]), (method, path)
    assert [request.method for request in upstream.received] == ["POST"]


async def test_every_change_refuses_unknown_query_parameters(client: ApiClient, upstream: Upstream) -> None:
    for method, path, operation in client.changes():
        body: dict[str, Any] = {}
        if "requestBody" in operation:
            media_type = next(iter(operation["requestBody"]["content"]))
            body = {"content": b"{}", "headers": {"Content-Type": media_type}}
        problem, errors = await client.refusal(method, path, "?misspelt=1", **body)
        if problem == OPERATOR_KEY_REQUIRED:
            continue
        assert problem == INVALID_REQUEST, (method, path)
        assert ("?misspelt", "unknown_parameter") in errors, (method, path)
    assert [request.method for request in upstream.received] == ["POST"]
