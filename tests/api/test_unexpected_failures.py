"""Unusual values and database errors neither lose a call nor change its response."""

import json
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from app.calls.parameters import CallParameters
from app.twilio.schemas import form_field_name
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.refusals import refused_by_postgres
from tests.support.upstream import answer, call_resource, created, error, running_upstream

PARAMETERS = [field.alias or name for name, field in CallParameters.model_fields.items()]
TEXTS = [
    "http://[x@y",
    "http://u:p@[z",
    "https://u:p@example.com/@",
    "x\0y",
    "a\r\nb",
    "\x01\x7f\u2028",
    "http://example.com:99999/",
    "é" * 3000,
    "sip:kate%25%2530%2530@example.com",
]
VALUES: list[Any] = [*TEXTS, "\ud800", "http://\udfff@example.com", 10**400, 1e300, ["\ud800"], {}]


async def _records(tenant: Tenant) -> int:
    return len((await tenant.http.get("/v1/calls", params={"limit": 200})).raise_for_status().json()["calls"])


@pytest.mark.parametrize("name", PARAMETERS)
async def test_any_value_of_a_parameter_is_either_refused_or_sent(gateway: Gateway, name: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sent = 0
        for value in VALUES:
            # As content, because httpx cannot encode a lone surrogate.
            content = json.dumps(BASIC_CALL | {name: value})
            response = await tenant.http.post("/v1/calls", content=content, headers={"Content-Type": "application/json"})
            assert response.status_code in (201, 422), (value, response.text)
            sent += response.status_code == 201
        assert len(upstream.posts) == sent == await _records(tenant)


async def test_any_value_in_a_form_is_either_refused_or_sent(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
        sent = 0
        for name in PARAMETERS:
            for text in TEXTS:
                form = {form_field_name(key): value for key, value in BASIC_CALL.items()} | {form_field_name(name): text}
                response = await tenant.http.post(path, data=form)
                assert response.status_code in (201, 400), (name, text, response.text)
                sent += response.status_code == 201
        assert len(upstream.posts) == sent


WEIRD: list[dict[str, Any]] = [
    {"x": 10**400, "y": {"z": [10**30, -1, 1e-320]}},
    {"x": "\ud800", "\udfff": "\0", "status": "\ud83d"},
    {"date_created": "Thu, 01 Jan 0001 00:00:00 +2359", "price": "1e29", "queue_time": 10**50},
    {"duration": [], "price": {}, "subresource_uris": [], "status": {"queued": 1}, "uri": None},
    {"status": "é" * 512, "parent_call_sid": "\x7f" * 512, "answered_by": "\u2028\r\n"},
]


@pytest.mark.parametrize("fields", WEIRD)
async def test_any_resource_that_twilio_returns_is_stored_and_shown(gateway: Gateway, fields: dict[str, Any]) -> None:
    async with running_upstream(answer(201, call_resource() | fields)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create("k")
        assert (response.status_code, response.json()["execution"]) == (201, "started")
        assert (await tenant.create("k")).json()["sid"] == response.json()["sid"]
        assert (await tenant.http.get(f"/v1/calls/{response.json()['id']}")).status_code == 200
    async with running_upstream(answer(201, call_resource() | fields)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        form = {form_field_name(key): value for key, value in BASIC_CALL.items()}
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
        assert (await tenant.http.post(path, data=form)).status_code == 201


async def test_a_credential_that_cannot_be_marked_does_not_change_the_response(gateway: Gateway, database_url: str) -> None:
    async with (
        running_upstream(error(401, 20003), created()) as upstream,
        refused_by_postgres(database_url, "UPDATE ON twilio_credential"),
    ):
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="s" * 32, key_sid="SK" + "1" * 32, base_url=None
        )
        gateway.invalidate_cache()
        response = await tenant.create("k")
        assert (response.status_code, response.json()["execution"]) == (201, "started")
        assert len(upstream.posts) == 2


async def test_a_database_role_that_cannot_update_credentials_does_not_change_the_response(database_url: str) -> None:
    owner = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        await owner.execute("""
            CREATE ROLE callgate_limited LOGIN PASSWORD 'limited';
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO callgate_limited;
            REVOKE UPDATE ON twilio_credential FROM callgate_limited;
        """)
        limited = make_url(database_url).set(username="callgate_limited", password="limited")
        async with (
            running_upstream(error(401, 20003)) as upstream,
            running_gateway(settings_for(limited.render_as_string(hide_password=False))) as gateway,
        ):
            tenant = await gateway.add_tenant(upstream.url)
            response = await tenant.create("k")
            assert response.json()["type"] == "urn:callgate:problem:upstream-credentials-rejected"
    finally:
        await owner.execute("DROP OWNED BY callgate_limited; DROP ROLE callgate_limited")
        await owner.close()


async def test_an_outcome_that_cannot_be_written_is_reported_as_unknown_by_both_apis(
    gateway: Gateway, database_url: str
) -> None:
    async with running_upstream(created()) as upstream, refused_by_postgres(database_url, "UPDATE ON call"):
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create()
        assert (response.status_code, response.json()["execution"]) == (202, "unknown")
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
        response = await tenant.http.post(path, data={form_field_name(key): value for key, value in BASIC_CALL.items()})
        assert response.status_code == 409
        assert len(upstream.posts) == 2
