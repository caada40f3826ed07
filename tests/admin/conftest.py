"""Clients of the admin API, each with an API key of an operator or of a tenant."""

import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.support.clients import http_client
from tests.support.gateway import Gateway

ADMIN = "/v1/admin"


@dataclass
class Admin:
    """A client of the admin API with a key of its own."""

    http: httpx.AsyncClient
    key_id: str

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(ADMIN + path, **options)

    async def post(self, path: str, body: Any, key: str | None = None) -> httpx.Response:
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return await self.http.post(ADMIN + path, content=json.dumps(body), headers=headers)

    async def patch(self, path: str, body: Any, etag: str | None = None) -> httpx.Response:
        return await self.http.patch(ADMIN + path, json=body, headers={"If-Match": etag} if etag else {})

    async def delete(self, path: str) -> httpx.Response:
        return await self.http.delete(ADMIN + path)


async def admin_of(gateway: Gateway, tenant_id: str | None, *scopes: Scope) -> Admin:
    """Returns a client with a new key of this tenant, or of an operator if `tenant_id` is None.

    If no scopes are given, the key has all scopes.
    """
    row, key = await gateway.tenants.create_key(
        tenant_id, name="admin", creator=COMMAND_LINE_CALLER, scopes=scopes or tuple(Scope)
    )
    http = http_client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"})
    gateway.clients.append(http)
    return Admin(http, row.prefix)


def slug_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:callgate:problem:")


def faults_of(answer: httpx.Response) -> list[tuple[str, str]]:
    """Returns the JSON pointer and the code of each fault that a 422 answer names."""
    assert slug_of(answer) == (422, "invalid-request"), answer.text
    return [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]]


@pytest.fixture
async def operator(gateway: Gateway) -> Admin:
    return await admin_of(gateway, None)
