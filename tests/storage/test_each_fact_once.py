"""Tests that a row without columns that others imply is shown with exactly the same bytes as a row with all columns."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from app.calls.left_out import OmissibleMembers
from app.deliveries.addresses import AllowList
from app.deliveries.sender import DeliveryHttpClient
from app.jobs.deliver import DeliverySender
from app.observability import Metrics
from app.security.keyring import Keyring
from app.tenants.delivery_signing import SigningSettingsCache
from app.twilio.subresources import SUBRESOURCES
from tests.support.callbacks import PUBLIC_URL, call_back
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Behaviour, Upstream, answer, running_upstream

LOOPBACK = "127.0.0.0/8"
TIME = "Tue, 31 Aug 2010 20:36:28 +0000"


def usual(account_sid: str, sid: str) -> dict[str, Any]:
    """Returns a typical answer of Twilio to a creation. Most values are null. The member `annotation` is undocumented."""
    uri = f"/2010-04-01/Accounts/{account_sid}/Calls/{sid}"
    return {
        "sid": sid,
        "date_created": None,
        "date_updated": None,
        "parent_call_sid": None,
        "account_sid": account_sid,
        "to": BASIC_CALL["to"],
        "to_formatted": BASIC_CALL["to"],
        "from": BASIC_CALL["from"],
        "from_formatted": BASIC_CALL["from"],
        "phone_number_sid": None,
        "status": "queued",
        "start_time": None,
        "end_time": None,
        "duration": None,
        "price": None,
        "price_unit": "USD",
        "direction": "outbound-api",
        "answered_by": None,
        "annotation": None,
        "api_version": "2010-04-01",
        "forwarded_from": None,
        "group_sid": None,
        "caller_name": None,
        "queue_time": "0",
        "trunk_sid": None,
        "uri": f"{uri}.json",
        "subresource_uris": {one.snake_case_name: f"{uri}/{one.segment}.json" for one in SUBRESOURCES},
    }


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: {name: value for name, value in document.items() if name not in names}


ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "usual": lambda document: document,
    "all that Twilio documents": lambda document: (
        document
        | dict.fromkeys(("date_created", "date_updated", "start_time", "end_time"), TIME)
        | {
            "status": "completed",
            "duration": "15",
            "price": "-0.03000",
            "answered_by": "human",
            "caller_name": "",
            "trunk_sid": "",
        }
        | {"forwarded_from": "+141586753093", "phone_number_sid": "PN" + "a" * 32, "queue_time": "1000"}
    ),
    "unknown keys": lambda document: document | {"née": [1.0, {"b": None}], "x": True, "subresource": {}},
    "other uris": lambda document: document | {"uri": "/z.json", "subresource_uris": {"recordings": "/x.json"}},
    "one uri more": lambda document: document | {"subresource_uris": document["subresource_uris"] | {"twiml_sessions": "/y"}},
    "no uris": lambda document: document | {"uri": None, "subresource_uris": None},
    "uris of other kinds": lambda document: document | {"uri": ["/z.json"], "subresource_uris": "/x.json"},
    "few keys": without("group_sid", "uri", "subresource_uris", "annotation", "to", "from", "queue_time"),
    "other spellings": lambda document: (
        document | {"queue_time": 0, "duration": "0015", "price": "-0.00000", "date_created": "31 Aug 2010 20:36:28 GMT"}
    ),
    "other numbers": lambda document: document | {"price": "1E2", "queue_time": True, "duration": "99999999999"},
    "other times": lambda document: document | {"start_time": "Tue, 31 Aug 2010 22:36:28 +0200", "end_time": "soon"},
    "another destination": lambda document: document | {"to": "sip:Kate@example.com:5060", "from": "sip:Jack@example.com"},
    "another account": lambda document: document | {"account_sid": "AC" + "f" * 32},
    "long": lambda document: document | {"caller_name": "x" * 600},
}


def creating(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Behaviour:
    """Returns a behaviour that answers a creation with the result of `change` for the usual answer."""

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        account_sid = upstream.received[-1].path.split("/")[3]
        await answer(201, change(usual(account_sid, f"CA{uuid4().hex}")))(upstream, reader, writer)

    return behave


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL, delivery_allow=LOOPBACK)) as running:
        yield running


async def _shown(tenant: Tenant, record: dict[str, Any]) -> dict[str, bytes]:
    """Returns the bytes of each response that shows the call, by path."""
    twilio = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls"
    one = f"/v1/calls/{record['id']}"
    paths = (one, "/v1/calls", f"{one}/events", f"{one}/deliveries", f"{twilio}.json")
    return {path: (await tenant.http.get(path)).raise_for_status().content for path in paths}


async def _row(gateway: Gateway, record: dict[str, Any]) -> dict[str, Any]:
    async with gateway.database.begin() as session:
        found = await session.execute(
            text("SELECT uri, subresource_uris, resource, resource_left_out FROM call WHERE id = :id"), {"id": record["id"]}
        )
        return dict(found.one()._mapping)


async def _store_whole(gateway: Gateway, shown: dict[str, Any]) -> None:
    """Fills the columns that the call's row leaves out, like version 0.1.0 did."""
    async with gateway.database.begin() as session:
        await session.execute(
            text(
                "UPDATE call SET uri = :uri, subresource_uris = CAST(:uris AS jsonb), resource = CAST(:resource AS jsonb),"
                " resource_left_out = NULL WHERE id = :id"
            ),
            {
                "uri": shown["uri"],
                "uris": None if shown["subresource_uris"] is None else json.dumps(shown["subresource_uris"]),
                "resource": json.dumps(shown["resource"]),
                "id": shown["id"],
            },
        )


@pytest.mark.parametrize("change", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_is_shown_whole(gateway: Gateway, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    async with running_upstream(creating(change)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        created = (await tenant.create()).json()
    answered = change(usual(tenant.account_sid, created["sid"]))
    shown = await _shown(tenant, created)
    assert json.loads(shown[f"/v1/calls/{created['id']}"]) == created
    assert created["resource"] == answered
    assert created["uri"] == (answered.get("uri") if isinstance(answered.get("uri"), str) else None)
    uris = answered.get("subresource_uris")
    assert created["subresource_uris"] == (uris if isinstance(uris, dict) else None)

    await _store_whole(gateway, created)

    assert await _shown(tenant, created) == shown


async def test_of_a_usual_answer_only_unknown_members_are_stored(gateway: Gateway) -> None:
    async with running_upstream(creating(ANSWERS["usual"])) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        created = (await tenant.create()).json()
    row = await _row(gateway, created)
    assert row == {"uri": None, "subresource_uris": None, "resource": {"annotation": None}, "resource_left_out": 2**26 - 1}


async def test_the_answer_stays_as_it_was_when_callbacks_change_the_record(gateway: Gateway) -> None:
    async with running_upstream(creating(ANSWERS["usual"])) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        created = (await tenant.create()).json()
        for number, status in enumerate(("ringing", "in-progress", "completed")):
            more = {"AnsweredBy": "human", "CallDuration": "7"} if status == "completed" else {}
            fields = _fields(tenant, created, status, number) | more
            assert (await call_back(gateway, tenant, created["id"], fields)).status_code == 204
    shown = await _shown(tenant, created)
    record = json.loads(shown[f"/v1/calls/{created['id']}"])
    assert (record["status"], record["answered_by"], record["duration"]) == ("completed", "human", 7)
    assert record["resource"] == created["resource"]
    assert (await _row(gateway, created))["resource"].keys() == {"annotation", "status", "answered_by", "duration"}

    await _store_whole(gateway, record)

    assert await _shown(tenant, created) == shown


def _fields(tenant: Tenant, record: dict[str, Any], status: str, number: int) -> dict[str, str]:
    """Returns the fields of a callback as Twilio sends them."""
    return {
        "CallSid": record["sid"],
        "AccountSid": tenant.account_sid,
        "From": BASIC_CALL["from"],
        "To": BASIC_CALL["to"],
        "Caller": BASIC_CALL["from"],
        "Called": BASIC_CALL["to"],
        "CallStatus": status,
        "ApiVersion": "2010-04-01",
        "Direction": "outbound-api",
        "Timestamp": TIME,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(number),
    }


CALLBACKS: dict[str, dict[str, str | None]] = {
    "usual": {},
    "another address": {"From": "sip:Jack@example.com", "Caller": "sip:Jack@example.com"},
    "more fields": {"SipResponseCode": "200", "née": "x", "": "y"},
    "fewer fields": {"From": None, "Direction": None},
}


@pytest.mark.parametrize("callback_format", ["json", "twilio"])
@pytest.mark.parametrize("changes", CALLBACKS.values(), ids=CALLBACKS.keys())
async def test_a_callback_is_shown_and_delivered_whole(
    gateway: Gateway, changes: dict[str, str | None], callback_format: Any
) -> None:
    async with running_upstream(creating(ANSWERS["usual"])) as upstream, running_upstream(answer(200)) as receiver:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.configure_callbacks(tenant.id, callback_format=callback_format)
        secret = await gateway.tenants.renew_callback_secret(tenant.id)
        created = (await tenant.create(status_callback=receiver.url, status_callback_event=["ringing"])).json()
        given = _fields(tenant, created, "ringing", 1) | changes
        fields = {name: value for name, value in given.items() if value is not None}
        assert (await call_back(gateway, tenant, created["id"], fields)).status_code == 204
        await _deliver_again(gateway, tenant)
        shown = await _shown(tenant, created)
        [event] = [event for event in await tenant.events(created["id"]) if event["type"] == "call.callback"]
        assert event["data"] == fields
        [delivery] = json.loads(shown[f"/v1/calls/{created['id']}/deliveries"])["deliveries"]
        assert (delivery["fields"], delivery["url"], delivery["method"]) == (fields, receiver.url, "POST")
        assert delivery["id"] == event["id"]

        async with gateway.database.begin() as session:
            stored = (await session.execute(text("SELECT * FROM delivery WHERE id = :id"), event)).one()
            assert (stored.fields, stored.url, stored.method, stored.webhook_id) == (None, None, None, None)
            left = await session.scalar(text("SELECT data FROM call_event WHERE id = :id"), event)
            assert left.keys() & {"CallSid", "AccountSid", "To", "Called"} == set()
            # Now as rows that hold everything.
            update = "UPDATE call_event SET data = CAST(:fields AS jsonb), data_left_out = NULL WHERE id = :id"
            await session.execute(text(update), {"fields": json.dumps(fields), "id": event["id"]})
            update = (
                "UPDATE delivery SET fields = CAST(:fields AS jsonb), url = :url, method = :method, webhook_id = :webhook_id"
                " WHERE id = :id"
            )
            await session.execute(text(update), delivery | {"fields": json.dumps(fields)})
        assert await _shown(tenant, created) == shown
        await _deliver_again(gateway, tenant)
        before, after = receiver.received
    if callback_format == "json":
        assert Webhook(secret).verify(before.body, before.headers)["data"]["fields"] == fields
        # The time and the signature differ.
        one, other = json.loads(before.body), json.loads(after.body)
        assert json.dumps(one["data"]) == json.dumps(other["data"])
    else:
        assert dict(before.form) == fields
        assert (before.body, before.headers) == (after.body, after.headers | {"host": before.headers["host"]})


async def _deliver_again(gateway: Gateway, tenant: Tenant) -> None:
    """Makes all deliveries of the tenant due again, and sends them."""
    async with gateway.database.begin() as session:
        await session.execute(
            text("UPDATE delivery SET state = 'pending', next_attempt_at = now() WHERE tenant_id = :id"), {"id": tenant.id}
        )
    signing = SigningSettingsCache(gateway.database, Keyring(gateway.settings.require_secret_keys()))
    async with DeliveryHttpClient(AllowList.parse(LOOPBACK), read_timeout_s=2) as sender:
        deliverer = DeliverySender(gateway.database, signing, sender, Metrics())
        while await deliverer.step():
            await deliverer.drain()
        await deliverer.drain()


async def test_a_delivery_whose_call_is_deleted_is_given_up_and_not_replayed(gateway: Gateway) -> None:
    async with running_upstream(creating(ANSWERS["usual"])) as upstream, running_upstream(answer(200)) as receiver:
        tenant = await gateway.add_tenant(upstream.url)
        created = (await tenant.create(status_callback=receiver.url)).json()
        fields = _fields(tenant, created, "completed", 0)
        assert (await call_back(gateway, tenant, created["id"], fields)).status_code == 204
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM call WHERE id = :id"), created)
        await _deliver_again(gateway, tenant)
        assert receiver.received == []
    async with gateway.database.begin() as session:
        select = text("SELECT state, last_error FROM delivery WHERE tenant_id = :id")
        assert [tuple(row) for row in await session.execute(select, {"id": tenant.id})] == [("gave_up", "deleted")]
    replayed: httpx.Response = await tenant.http.post("/v1/deliveries/replay", json={"since": "2026-01-01T00:00:00Z"})
    assert replayed.json()["replayed"] == 0


def test_only_members_with_exactly_the_implied_value_are_left_out() -> None:
    members = OmissibleMembers(("a", "b", "c", "d"))
    implied = {"a": "1", "b": "1", "c": None, "d": "1"}
    rest, left_out = members.leave_out_members({"a": "1", "b": 1, "c": None, "e": "1"}, implied)
    assert (rest, left_out) == ({"b": 1, "e": "1"}, 0b101)
    assert members.put_back_members(rest, left_out, implied.get) == {"a": "1", "b": 1, "c": None, "e": "1"}
    assert list(members.put_back_members({"bb": 1, "é": 2, "z": 3}, 0b1, implied.get)) == ["a", "z", "bb", "é"]
