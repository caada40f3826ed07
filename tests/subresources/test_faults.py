"""Tests requests about subresources when Twilio cannot be reached, refuses the request, or does not finish its answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from twilio.base.exceptions import TwilioRestException

from tests.support.gateway import LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.twilio_sdk import SdkClients
from tests.support.upstream import (
    Behaviour,
    Upstream,
    answer,
    close,
    created,
    error,
    half_an_answer,
    hang,
    not_http,
    proxy_page,
    refused_url,
    reset,
    running_upstream,
)

MESSAGE = {"content": "{}"}
LOST = {
    "closed": close,
    "reset": reset,
    "half an answer": half_an_answer,
    "silence": hang,
    "not HTTP": not_http,
    "500": error(500, 20500),
    "408": error(408, 20408),
    "302": answer(302, {}),
    **{f"a proxy's {status}": proxy_page(status) for status in (400, 401, 403, 404, 429)},
    "no JSON": answer(201, body=b"<html>"),
}


@asynccontextmanager
async def live_call(gateway: Gateway, *script: Behaviour) -> AsyncIterator[tuple[Tenant, str, Upstream]]:
    """Yields the tenant, the id of a started call, and the server in place of Twilio. `script` has its further answers."""
    async with running_upstream(created(), *script) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        upstream.received.clear()
        yield tenant, record["id"], upstream


@asynccontextmanager
async def events_not_writable(gateway: Gateway) -> AsyncIterator[None]:
    """Makes it impossible to write events until the end of the block."""
    rename = "ALTER TABLE {} RENAME TO {}"
    async with gateway.database.engine.begin() as connection:
        await connection.exec_driver_sql(rename.format("call_event", "call_event_away"))
    try:
        yield
    finally:
        async with gateway.database.engine.begin() as connection:
            await connection.exec_driver_sql(rename.format("call_event_away", "call_event"))


async def last_event(tenant: Tenant, call_id: str) -> dict[str, Any]:
    event = (await tenant.events(call_id))[-1]
    return {"type": event["type"], **event["data"]}


@pytest.mark.parametrize("behaviour", LOST.values(), ids=LOST)
async def test_a_change_whose_answer_was_lost_is_unknown_and_never_repeated(gateway: Gateway, behaviour: Behaviour) -> None:
    async with live_call(gateway, behaviour) as (tenant, call_id, upstream):
        response = await tenant.http.post(f"/v1/calls/{call_id}/recordings", json={})
        assert (response.status_code, response.json()["type"]) == (409, "urn:callgate:problem:action-unknown")
        assert (response.json()["retry"]["safe"], response.json()["call_id"]) == (False, call_id)
        assert len(upstream.posts) == 1
        event = await last_event(tenant, call_id)
        assert (event["type"], event["action"], event["result"]) == ("call.recording", "create", "unknown")


@pytest.mark.parametrize("behaviour", [value for name, value in LOST.items() if name != "no JSON"])
async def test_a_read_without_an_answer_has_changed_nothing(gateway: Gateway, behaviour: Behaviour) -> None:
    async with live_call(gateway, behaviour) as (tenant, call_id, _):
        response = await tenant.http.get(f"/v1/calls/{call_id}/recordings")
        assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:upstream-unreachable")
        assert response.json()["retry"]["safe"] is True


async def test_the_sdk_does_not_repeat_a_change_that_may_have_been_made(gateway: Gateway) -> None:
    """The SDK's asynchronous client repeats a request after every 5xx, so Callgate answers with 409."""
    async with live_call(gateway, error(500, 20500)) as (tenant, call_id, upstream):
        sid = (await tenant.http.get(f"/v1/calls/{call_id}")).json()["sid"]
        async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key, max_retries=3) as sdk:
            with pytest.raises(TwilioRestException) as unknown:
                await sdk.asynchronous.calls(sid).recordings.create_async()
        assert (unknown.value.status, unknown.value.code) == (409, 900010)
        assert len(upstream.posts) == 1


async def test_nothing_is_sent_if_twilio_refuses_connections(gateway: Gateway) -> None:
    async with live_call(gateway, created()) as (tenant, call_id, _):
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="another", key_sid=None, base_url=refused_url()
        )
        gateway.invalidate_cache()
        response = await tenant.http.post(f"/v1/calls/{call_id}/streams", json={"url": "wss://x"})
        assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:upstream-unreachable")
        assert response.headers["retry-after"] == "5"
        event = await last_event(tenant, call_id)
        assert event == {"type": "call.stream", "action": "create", "result": "not_done", "reason": "connect_error"}


async def test_throttling_by_twilio_is_reported(gateway: Gateway) -> None:
    async with live_call(gateway, error(429, 20429, headers={"Retry-After": "7"})) as (tenant, call_id, upstream):
        for response in (
            await tenant.http.post(f"/v1/calls/{call_id}/recordings", json={}),
            await tenant.http.get(f"/v1/calls/{call_id}/recordings"),
        ):
            assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:upstream-throttled")
            assert response.headers["retry-after"] == "7"
        sid = (await tenant.http.get(f"/v1/calls/{call_id}")).json()["sid"]
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}/Recordings.json"
        response = await tenant.http.post(path)
        assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (429, 20429, "7")
        assert len(upstream.received) == 3


async def test_a_refusal_by_twilio_has_its_code_and_message(gateway: Gateway) -> None:
    async with live_call(gateway, error(400, 21220, "Not eligible"), error(400, 20001, "No")) as (tenant, call_id, _):
        path = f"/v1/calls/{call_id}/recordings"
        ended, refused = await tenant.http.post(path, json={}), await tenant.http.post(path, json={})
        assert (ended.status_code, ended.json()["type"]) == (409, "urn:callgate:problem:wrong-call-state")
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:callgate:problem:upstream-rejected")
        assert [one.json()["upstream"]["message"] for one in (ended, refused)] == ["Not eligible", "No"]
        assert (await last_event(tenant, call_id))["code"] == 20001


async def test_another_credential_is_tried_when_one_is_refused_with_the_same_idempotency_key(gateway: Gateway) -> None:
    async with live_call(gateway, error(401, 20003), answer(201, {"sid": "KX" + "1" * 32})) as (tenant, call_id, upstream):
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="another", key_sid=None, base_url=None
        )
        gateway.invalidate_cache()
        assert (await tenant.http.post(f"/v1/calls/{call_id}/user_defined_messages", json=MESSAGE)).status_code == 201
        first, second = upstream.posts
        assert [one.credentials[1] for one in (first, second)] == [tenant.auth_token, "another"]
        assert first.form == second.form
        assert dict(first.form).keys() == {"Content", "IdempotencyKey"}


async def test_nothing_is_changed_if_no_credential_is_accepted(gateway: Gateway) -> None:
    async with live_call(gateway, error(403, 20403)) as (tenant, call_id, _):
        for response in (
            await tenant.http.delete(f"/v1/calls/{call_id}/recordings/RE{'1' * 32}"),
            await tenant.http.get(f"/v1/calls/{call_id}/recordings"),
        ):
            assert (response.status_code, response.json()["type"]) == (
                502,
                "urn:callgate:problem:upstream-credentials-rejected",
            )
        # A credential that lacks this permission can still place calls.
        [(_, credentials)] = await gateway.tenants.list_accounts(tenant.id)
        assert [credential.rejected_at for credential in credentials] == [None]


async def test_a_repetition_has_the_same_idempotency_key_at_twilio(gateway: Gateway) -> None:
    async with live_call(gateway, close, answer(201, {"sid": "KX" + "1" * 32})) as (tenant, call_id, upstream):
        sid = (await tenant.http.get(f"/v1/calls/{call_id}")).json()["sid"]
        path = f"/v1/calls/{call_id}/user_defined_messages"
        twilios = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}/UserDefinedMessages.json"

        async def key_of(**request: Any) -> str:
            await tenant.http.post(path, **request)
            return dict(upstream.posts[-1].form)["IdempotencyKey"]

        lost = await tenant.http.post(path, json=MESSAGE, headers={"Idempotency-Key": "order-4711"})
        assert (lost.status_code, lost.json()["retry"]["safe"]) == (409, True)
        first = dict(upstream.posts[-1].form)["IdempotencyKey"]
        assert await key_of(json=MESSAGE, headers={"Idempotency-Key": "order-4711"}) == first
        await tenant.http.post(twilios, data={"Content": "{}"}, headers={"Idempotency-Key": "order-4711"})
        assert dict(upstream.posts[-1].form)["IdempotencyKey"] == first
        other = await key_of(json=MESSAGE, headers={"Idempotency-Key": "order-4712"})
        # Twilio would answer another message under the same key with the first one, and not send it.
        another_message = await key_of(json={"content": "[]"}, headers={"Idempotency-Key": "order-4711"})
        anew = await key_of(json=MESSAGE)
        assert len({first, other, another_message, anew, await key_of(json=MESSAGE)}) == 5
        assert await key_of(json=MESSAGE | {"idempotency_key": "mine"}, headers={"Idempotency-Key": "order-4711"}) == "mine"


async def test_an_unsupported_key_is_refused_under_v1_and_ignored_on_twilios_paths(gateway: Gateway) -> None:
    async with live_call(gateway, answer(201, {"sid": "RE" + "1" * 32})) as (tenant, call_id, upstream):
        headers = {"Idempotency-Key": "order-4711"}
        response = await tenant.http.post(f"/v1/calls/{call_id}/recordings", json={}, headers=headers)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "not_supported")
        assert upstream.posts == []
        sid = (await tenant.http.get(f"/v1/calls/{call_id}")).json()["sid"]
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}/Recordings.json"
        assert (await tenant.http.post(path, headers=headers)).status_code == 201
        assert upstream.posts[-1].form == []


async def test_a_form_is_forwarded_unchanged(gateway: Gateway) -> None:
    """Twilio validates it, so parameters that are newer than this gateway work."""
    async with live_call(gateway, answer(200, {"sid": "MZ" + "1" * 32})) as (tenant, call_id, upstream):
        sid = (await tenant.http.get(f"/v1/calls/{call_id}")).json()["sid"]
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}/Streams"
        form = {"Url": "wss://x/?a=b&c=d", "Parameter1.Name": "naïve & ?", "Newer": ["1", "2"]}
        accepted = await tenant.http.post(path, data=form, headers={"Accept": "application/json"})
        assert (accepted.status_code, accepted.json()["sid"]) == (200, "MZ" + "1" * 32)
        assert upstream.posts[-1].path == f"{path}.json"
        assert upstream.posts[-1].form == [
            ("Url", "wss://x/?a=b&c=d"),
            ("Parameter1.Name", "naïve & ?"),
            ("Newer", "1"),
            ("Newer", "2"),
        ]
        refused = await tenant.http.post(path, data=form, headers={"Accept": "application/xml"})
        assert refused.json()["code"] == 900006


async def test_a_body_that_is_too_large_is_refused_before_twilio(gateway: Gateway) -> None:
    async with live_call(gateway, created()) as (tenant, call_id, upstream):
        response = await tenant.http.post(f"/v1/calls/{call_id}/user_defined_messages", json={"content": "x" * 70_000})
        assert response.status_code == 413
        assert upstream.received == []


async def test_nothing_is_sent_if_the_event_cannot_be_written(gateway: Gateway) -> None:
    async with live_call(gateway, created()) as (tenant, call_id, upstream):
        async with events_not_writable(gateway):
            response = await tenant.http.post(f"/v1/calls/{call_id}/recordings", json={})
        assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:database-unavailable")
        assert upstream.received == []


async def test_a_change_is_reported_even_if_its_event_cannot_be_written(gateway: Gateway) -> None:
    async with AsyncExitStack() as outage:

        async def done_while_the_database_goes(*connection: Any) -> None:
            await outage.enter_async_context(events_not_writable(gateway))
            await answer(201, {"sid": "RE" + "1" * 32})(*connection)

        async with live_call(gateway, done_while_the_database_goes) as (tenant, call_id, _):
            response = await tenant.http.post(f"/v1/calls/{call_id}/recordings", json={})
            assert (response.status_code, response.json()["sid"]) == (201, "RE" + "1" * 32)
            await outage.aclose()
            assert (await last_event(tenant, call_id))["result"] == "sent"


async def test_a_change_aborted_by_a_shutdown_is_answered_as_unknown(database_url: str) -> None:
    settings = settings_for(database_url, **LONG_TIMEOUTS)
    async with running_upstream(created(), hang) as upstream, httpx.AsyncClient(timeout=30) as http:
        async with running_gateway(settings, grace=1) as stopping:
            tenant = await stopping.add_tenant(upstream.url)
            record = (await tenant.create()).json()
            path = f"{stopping.url}/v1/calls/{record['id']}/recordings"
            asked = asyncio.create_task(http.post(path, json={}, headers=tenant.http.headers))
            while len(upstream.posts) < 2:
                await asyncio.sleep(0.01)
        response = await asked
    assert (response.status_code, response.json()["type"]) == (409, "urn:callgate:problem:action-unknown")
