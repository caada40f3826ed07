"""The event `settled` tells a tenant how the creation of a call ended, once for each call, however Callgate has learned it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator

from app.calls.creation.store import AttemptOutcome, write_outcomes
from app.calls.models import Call
from app.calls.record_change import make_record_change
from app.calls.repository import lock_call
from app.calls.store import DELIVERIES_CHANNEL
from app.database.listener import Listener
from app.deliveries.addresses import AllowList
from app.deliveries.sender import DeliveryHttpClient
from app.jobs.deliver import DeliverySender
from app.jobs.dial import ScheduledCallDialer
from app.jobs.resolve import OutcomeResolver
from app.observability import Metrics
from app.security.keyring import Keyring
from app.tenants.delivery_signing import SigningSettingsCache
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import BASIC_CALL, LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import deliver_all, dial_all, run_search, running_dialer, running_resolver
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.upstream import (
    Behaviour,
    ReceivedRequest,
    answer,
    call_resource,
    created,
    created_after_release,
    error,
    reset,
    running_upstream,
)

LOOPBACK = "127.0.0.0/8"
URL = "https://own.example.com/hook"
SETTLED: dict[str, Any] = {"status_callback": URL, "status_callback_event": ["settled"]}
SID = "CA" + "7" * 32
TIMEOUT_S = 30


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(
        settings_for(database_url, public_url=PUBLIC_URL, delivery_allow=LOOPBACK, **LONG_TIMEOUTS)
    ) as running:
        yield running


@pytest.fixture
async def resolver(gateway: Gateway) -> AsyncIterator[OutcomeResolver]:
    async with running_resolver(gateway, searches=1, timeout_s=1) as running:
        yield running


async def _deliveries(tenant: Tenant, call_id: str) -> list[dict[str, Any]]:
    response = await tenant.http.get(f"/v1/calls/{call_id}/deliveries")
    deliveries: list[dict[str, Any]] = response.raise_for_status().json()["deliveries"]
    return deliveries


async def _reported(tenant: Tenant, call_id: str) -> list[tuple[str, str | None, str | None]]:
    """Returns event, execution and cause of each delivery of the call, in order.

    The cause is the problem that prevented the call, else how Callgate has learned the outcome (`settled_by`).
    """
    fields = [(each["event"], each["fields"]) for each in await _deliveries(tenant, call_id)]
    return [
        (event, given.get("CallgateExecution"), given.get("CallgateProblem", given.get("CallgateSettledBy")))
        for event, given in fields
    ]


async def _unknown(tenant: Tenant, **members: Any) -> dict[str, Any]:
    lost: dict[str, Any] = (await tenant.create(**(SETTLED | members))).json()
    assert lost["execution"] == "unknown"
    return lost


async def _search(gateway: Gateway, resolver: OutcomeResolver, call_id: str) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET search_at = NULL WHERE id <> :id"), {"id": call_id})
        await session.execute(text("UPDATE call SET search_at = now() WHERE id = :id"), {"id": call_id})
    await run_search(resolver)


async def _deliver(gateway: Gateway, tenant: Tenant) -> None:
    """Sends all deliveries that wait for this tenant. Deletes those of other tenants before."""
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM delivery WHERE tenant_id <> :id"), {"id": tenant.id})
    signing = SigningSettingsCache(gateway.database, Keyring(gateway.settings.require_secret_keys()))
    async with DeliveryHttpClient(AllowList.parse(LOOPBACK), read_timeout_s=5) as sender:
        deliverer = DeliverySender(gateway.database, signing, sender, Metrics())
        await deliver_all(deliverer)


# ---- each way of settling


async def test_twilios_answer_settles_and_is_delivered_before_any_event_of_the_call(gateway: Gateway) -> None:
    async with running_upstream(created(sid=SID)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(status_callback=URL, status_callback_event=["completed", "settled", "initiated"])).json()
        events = dict(upstream.posts[0].form).keys() & {"StatusCallbackEvent"}
        sent = [value for name, value in upstream.posts[0].form if name == "StatusCallbackEvent"]
    assert (call["execution"], call["parameters"]["status_callback_event"]) == (
        "started",
        ["completed", "settled", "initiated"],
    )
    assert events
    assert "settled" not in sent
    [delivery] = await _deliveries(tenant, call["id"])
    timestamp = delivery["fields"].pop("Timestamp")
    assert timestamp.endswith(" +0000")
    assert delivery["fields"] == {
        "CallSid": SID,
        "AccountSid": tenant.account_sid,
        "From": BASIC_CALL["from"],
        "To": BASIC_CALL["to"],
        "CallgateEvent": "settled",
        "CallgateCallId": call["id"],
        "CallgateExecution": "started",
        "CallgateSettledBy": "response",
    }
    assert (delivery["event"], delivery["sequence"], delivery["state"]) == ("settled", None, "pending")
    for status, sequence in (("initiated", 0), ("completed", 3)):
        fields = status_callback_fields(tenant, call, status, sequence)
        assert (await call_back(gateway, tenant, call["id"], fields)).status_code == 204
    assert [each["event"] for each in await _deliveries(tenant, call["id"])] == ["settled", "initiated", "completed"]


REFUSALS: dict[str, tuple[Behaviour, str]] = {
    "lasting": (error(400, 21211), "upstream-rejected"),
    "passing": (error(401, 20003), "upstream-credentials-rejected"),
}


@pytest.mark.parametrize(("refusal", "problem"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_is_delivered_with_its_problem(gateway: Gateway, refusal: Behaviour, problem: str) -> None:
    async with running_upstream(refusal) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create(**SETTLED)).json()["call_id"]
    assert await _reported(tenant, call_id) == [("settled", "not_started", problem)]
    [delivery] = await _deliveries(tenant, call_id)
    assert "CallSid" not in delivery["fields"]


async def test_who_does_not_request_it_gets_none(gateway: Gateway) -> None:
    async with running_upstream(created(), error(400, 21211)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        started = (await tenant.create(status_callback=URL)).json()["id"]
        refused = (await tenant.create(status_callback=URL, status_callback_event=["completed"])).json()["call_id"]
        assert await _deliveries(tenant, started) == await _deliveries(tenant, refused) == []


async def test_a_callback_settles_and_both_events_are_delivered(gateway: Gateway) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = await _unknown(tenant, status_callback_event=["settled", "ringing"])
        assert await _deliveries(tenant, lost["id"]) == []
        fields = status_callback_fields(tenant, {"sid": SID[:-1] + "1"}, "ringing", 1)
        assert (await call_back(gateway, tenant, lost["id"], fields)).status_code == 204
        assert (await call_back(gateway, tenant, lost["id"], fields)).status_code == 204
    assert await _reported(tenant, lost["id"]) == [("settled", "started", "callback"), ("ringing", None, None)]


async def test_a_callback_before_the_answer_settles_and_the_answer_adds_nothing(gateway: Gateway) -> None:
    sid = SID[:-1] + "2"
    async with running_upstream(created_after_release(sid=sid)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        creating = asyncio.create_task(tenant.create(**SETTLED))
        await upstream.wait_for_post()
        (call,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        fields = status_callback_fields(tenant, {"sid": sid}, "ringing", 1)
        assert (await call_back(gateway, tenant, call["id"], fields)).status_code == 204
        upstream.released.set()
        assert (await creating).status_code == 201
    assert await _reported(tenant, call["id"]) == [("settled", "started", "callback")]


async def test_twilios_list_settles(gateway: Gateway, resolver: OutcomeResolver) -> None:
    listed = call_resource(SID[:-1] + "3", to=BASIC_CALL["to"], **{"from": BASIC_CALL["from"]})
    async with running_upstream(reset, answer(200, {"calls": [listed], "next_page_uri": None})) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = await _unknown(tenant)
        await _search(gateway, resolver, lost["id"])
    assert await _reported(tenant, lost["id"]) == [("settled", "started", "list")]


async def test_a_creation_that_no_search_finds_is_settled_and_a_later_proof_is_delivered_as_corrected(
    gateway: Gateway, resolver: OutcomeResolver
) -> None:
    async with running_upstream(reset, answer(200, {"calls": [], "next_page_uri": None})) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = await _unknown(tenant)
        await _search(gateway, resolver, lost["id"])
        assert await _reported(tenant, lost["id"]) == [("settled", "not_started", "none-found")]
        for sequence in (1, 2):
            fields = status_callback_fields(tenant, {"sid": SID[:-1] + "4"}, "ringing", sequence)
            assert (await call_back(gateway, tenant, lost["id"], fields)).status_code == 204
    assert await _reported(tenant, lost["id"]) == [
        ("settled", "not_started", "none-found"),
        ("corrected", "started", "callback"),
    ]
    first, second = await _deliveries(tenant, lost["id"])
    assert first["webhook_id"] != second["webhook_id"]


async def test_a_repetition_with_the_same_key_is_delivered_only_if_it_starts_the_call(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k", **SETTLED)).json()["call_id"]
        assert (await tenant.create("k", **SETTLED)).json()["call_id"] == call_id
        refused = ("settled", "not_started", "upstream-credentials-rejected")
        assert await _reported(tenant, call_id) == [refused]
        assert (await tenant.create("k", **SETTLED)).json()["id"] == call_id
        assert await _reported(tenant, call_id) == [refused, ("corrected", "started", "response")]


@pytest.mark.parametrize(
    ("defaults", "url"),
    [
        ({"clear": True}, URL),
        ({"events": ["completed"]}, URL),
        ({"url": "https://new.example.com/", "events": ["completed"]}, "https://new.example.com/"),
    ],
    ids=["none", "other events", "other url and events"],
)
async def test_a_repetition_after_a_change_of_the_defaults_keeps_the_earlier_delivery(
    gateway: Gateway, defaults: dict[str, Any], url: str
) -> None:
    async with running_upstream(error(401, 20003), created(sid=f"CA{uuid4().hex}")) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.configure_callbacks(tenant.id, url=URL, events=["settled", "completed"])
        gateway.invalidate_cache()
        call_id = (await tenant.create("k")).json()["call_id"]
        await gateway.tenants.configure_callbacks(tenant.id, **defaults)
        gateway.invalidate_cache()
        assert (await tenant.create("k")).json()["id"] == call_id
    assert await _reported(tenant, call_id) == [
        ("settled", "not_started", "upstream-credentials-rejected"),
        ("corrected", "started", "response"),
    ]
    assert {each["url"] for each in await _deliveries(tenant, call_id)} == {url}


async def test_a_delivery_whose_call_has_no_url_fails_as_one_with_an_invalid_url(gateway: Gateway) -> None:
    # An earlier version removed the URL if a request was repeated with the same key after the default URL was gone.
    async with running_upstream(error(400, 21211)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create(**SETTLED)).json()["call_id"]
    async with gateway.database.begin() as session:
        removed = text("UPDATE call SET status_callback = NULL, status_callback_method = NULL WHERE id = :id")
        await session.execute(removed, {"id": call_id})
    await _deliver(gateway, tenant)
    [delivery] = await _deliveries(tenant, call_id)
    assert (delivery["url"], delivery["state"], delivery["last_error"]) == ("", "pending", "invalid_url")
    retried = await tenant.http.post(f"/v1/calls/{call_id}/deliveries/{delivery['id']}/retry")
    assert (retried.status_code, retried.json()["url"]) == (200, "")


# ---- scheduled calls


@pytest.fixture
async def dialer(gateway: Gateway) -> AsyncIterator[ScheduledCallDialer]:
    async with running_dialer(gateway) as running:
        yield running


async def _dial(gateway: Gateway, dialer: ScheduledCallDialer, tenant: Tenant, *, change: str = "due_at = now()") -> None:
    """Changes the tenant's scheduled calls (by default makes them due now), and dials those that are due."""
    async with gateway.database.begin() as session:
        await session.execute(text(f"UPDATE scheduled_dial SET {change} WHERE tenant_id = :id"), {"id": tenant.id})  # noqa: S608
        await session.execute(text("UPDATE pace SET probe_at = now() WHERE probe_at IS NOT NULL"))
    await dial_all(dialer)


async def test_a_scheduled_call_that_waits_again_is_settled_only_at_its_end(
    gateway: Gateway, dialer: ScheduledCallDialer
) -> None:
    async with running_upstream(error(401, 20003), created(sid=SID[:-1] + "9")) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(**SETTLED, priority="normal")).json()
        for _ in range(2):
            assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["execution"] == "scheduled"
            assert await _deliveries(tenant, call["id"]) == []
            await _dial(gateway, dialer, tenant)
        assert len(upstream.posts) == 2
    assert await _reported(tenant, call["id"]) == [("settled", "started", "response")]


async def test_canceled_and_expired_calls_are_settled(gateway: Gateway, dialer: ScheduledCallDialer) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        canceled, expired, silent = [
            (await tenant.create(priority="normal", **members)).json()["id"] for members in (SETTLED, SETTLED, {})
        ]
        assert (await tenant.http.patch(f"/v1/calls/{canceled}", json={"status": "canceled"})).status_code == 200
        await _dial(gateway, dialer, tenant, change="not_before = now() - interval '2 s', ring_by = now() - interval '1 s'")
        assert upstream.posts == []
    assert await _reported(tenant, canceled) == [("settled", "not_started", "canceled-before-dial")]
    assert await _reported(tenant, expired) == [("settled", "not_started", "ring-by-passed")]
    assert await _deliveries(tenant, silent) == []
    async with gateway.database.begin() as session:
        select = text("SELECT id, deliveries_written FROM call WHERE tenant_id = :id")
        written: dict[UUID, list[str]] = dict((await session.execute(select, {"id": tenant.id})).all())
    assert written == {UUID(canceled): ["settled"], UUID(expired): ["settled"], UUID(silent): []}


@pytest.mark.parametrize("requested", [["settled"], ["completed"]], ids=["same sender", "other sender"])
async def test_a_scheduled_call_is_corrected_after_its_end_was_delivered(
    gateway: Gateway, dialer: ScheduledCallDialer, requested: list[str]
) -> None:
    # As when a request is repeated with the key of a call that was withdrawn.
    async with running_upstream(created(sid=f"CA{uuid4().hex}")) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        members = SETTLED | {"status_callback_event": requested}
        call_id = (await tenant.create(**members, priority="normal")).json()["id"]
        async with gateway.database.begin() as session:
            columns = "deliveries_written = '{settled}', status_callback_events = '{settled}'"
            await session.execute(text(f"UPDATE call SET {columns} WHERE id = :id"), {"id": call_id})  # noqa: S608
        await _dial(gateway, dialer, tenant)
    assert await _reported(tenant, call_id) == [("corrected", "started", "response")]


# ---- the batch


async def test_a_batch_writes_the_deliveries_of_current_attempts_only(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        wanting, other = [(await tenant.create(**members)).json()["id"] for members in (SETTLED, {})]
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM delivery WHERE tenant_id = :id"), {"id": tenant.id})
            await session.execute(
                text(
                    "UPDATE call SET execution = 'pending', sid = NULL, attempt = 2, deliveries_written = '{}'"
                    " WHERE tenant_id = :id"
                ),
                {"id": tenant.id},
            )
            calls = {call_id: await _locked(session, call_id) for call_id in (wanting, other)}
        started = make_record_change(
            "call.planted", {}, {"execution": "started", "settled_by": "response", "sid": f"CA{uuid4().hex}", "problem": None}
        )
        refused = make_record_change(
            "call.planted", {}, {"execution": "not_started", "settled_by": "response", "problem": {"slug": "late"}}
        )
        current, late = AttemptOutcome.from_change(calls[wanting], started), AttemptOutcome.from_change(calls[wanting], refused)
        late = replace(late, attempt=1)
        plain = AttemptOutcome.from_change(calls[other], refused)
        written = await write_outcomes(gateway.database, [late, current, plain])
        assert [at is not None for at in written] == [False, True, True]
    assert await _reported(tenant, wanting) == [("settled", "started", "response")]
    assert await _deliveries(tenant, other) == []
    async with gateway.database.begin() as session:
        recorded = await session.execute(
            text("SELECT id, deliveries_written FROM call WHERE tenant_id = :id"), {"id": tenant.id}
        )
        assert dict(recorded.all()) == {UUID(wanting): ["settled"], UUID(other): []}


async def _locked(session: Any, call_id: str) -> Call:
    call = await lock_call(session, UUID(call_id))
    assert call is not None
    return call


async def test_workers_are_woken(gateway: Gateway) -> None:
    woken = asyncio.Event()
    url = gateway.settings.require_database_url()
    listener = Listener(url, channel=DELIVERIES_CHANNEL, on_change=woken.set)
    async with listener.listening_in_background(), running_upstream(created(), reset) as upstream, asyncio.timeout(TIMEOUT_S):
        while not listener.connected:
            await asyncio.sleep(0.01)
        tenant = await gateway.add_tenant(upstream.url)
        woken.clear()
        await tenant.create(**SETTLED)
        await woken.wait()
        lost = await _unknown(tenant)
        woken.clear()
        await call_back(gateway, tenant, lost["id"], status_callback_fields(tenant, {"sid": SID[:-1] + "5"}, "ringing", 1))
        await woken.wait()


# ---- the requests


@pytest.mark.parametrize("callback_format", ["twilio", "json"])
async def test_the_receiver_gets_a_signed_request(gateway: Gateway, callback_format: Any) -> None:
    async with running_upstream(error(400, 21211)) as upstream, running_upstream(answer(200)) as receiver:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.configure_callbacks(tenant.id, callback_format=callback_format)
        secret = await gateway.tenants.renew_callback_secret(tenant.id)
        call_id = (await tenant.create(**SETTLED | {"status_callback": f"{receiver.url}/hook"})).json()["call_id"]
        [delivery] = await _deliveries(tenant, call_id)
        await _deliver(gateway, tenant)
        [request] = receiver.received
    webhook_id = f"msg_{UUID(call_id).hex}_settled"
    if callback_format == "twilio":
        assert dict(parse_qsl(request.body.decode())) == delivery["fields"]
        assert request.headers["i-twilio-idempotency-token"] == webhook_id
        signature = request.headers["x-twilio-signature"]
        assert RequestValidator(secret).validate(f"{receiver.url}/hook", delivery["fields"], signature)
    else:
        event = Webhook(secret).verify(request.body, request.headers)
        assert (event["type"], event["data"]["call_id"], event["data"]["sequence"]) == ("call.settled", call_id, None)
        assert event["data"]["fields"] == delivery["fields"]
        assert event["data"]["call"] == (await tenant.http.get(f"/v1/calls/{call_id}")).json()
        assert event["data"]["call"]["problem"]["slug"] == "upstream-rejected"


# ---- with the other events sent by Twilio, or not at all


def _sent(request: ReceivedRequest) -> dict[str, list[str]]:
    """Returns the callback parameters that Twilio received."""
    names = ("StatusCallback", "StatusCallbackEvent", "StatusCallbackMethod")
    return {name: given for name in names if (given := [value for key, value in request.form if key == name])}


@pytest.mark.parametrize(
    ("events", "sent"),
    [
        (["settled"], {}),
        (["settled", "answered"], {"StatusCallback": [URL], "StatusCallbackEvent": ["answered"]}),
    ],
)
async def test_without_a_public_url_callgate_delivers_it_alone(
    database_url: str, events: list[str], sent: dict[str, list[str]]
) -> None:
    async with running_gateway(settings_for(database_url)) as private, running_upstream(created()) as upstream:
        tenant = await private.add_tenant(upstream.url)
        call = (await tenant.create(status_callback=URL, status_callback_event=events)).json()
        assert _sent(upstream.posts[0]) == sent
        assert await _reported(tenant, call["id"]) == [("settled", "started", "response")]
        async with private.database.begin() as session:
            stored = await session.execute(text("SELECT status_callback_events FROM call WHERE id = :id"), {"id": call["id"]})
            assert stored.scalar_one() == ["settled"]  # the end, which polling finds, comes from Twilio alone
        refused = await tenant.create(status_callback="http://10.0.0.1/", status_callback_event=events)
        assert [each["code"] for each in refused.json()["errors"]] == ["url_address_private"]


async def test_with_an_application_callgate_delivers_it_alone(gateway: Gateway) -> None:
    async with running_upstream(created(sid=SID[:-1] + "6"), created(sid=SID[:-1] + "8")) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        application = {"application_sid": "AP" + "0" * 32}
        alone = (await tenant.create(**SETTLED, **application)).json()
        among = (await tenant.create(status_callback=URL, status_callback_event=["settled", "ringing"], **application)).json()
        assert "StatusCallback" not in dict(upstream.posts[0].form)
    ignored = [[each["pointer"] for each in call["warnings"] if each["code"] == "ignored"] for call in (alone, among)]
    assert ignored == [[], ["/status_callback_event"]]
    for call in (alone, among):
        assert await _reported(tenant, call["id"]) == [("settled", "started", "response")]


async def test_a_tenants_default_events_may_name_it(database_url: str, gateway: Gateway) -> None:
    async with running_gateway(settings_for(database_url)) as private, running_upstream(created()) as upstream:
        for each, expected in ((gateway, ["settled", "completed"]), (private, ["settled"])):
            tenant = await each.add_tenant(upstream.url)
            await each.tenants.configure_callbacks(tenant.id, url=URL, events=["settled", "completed"])
            each.invalidate_cache()
            upstream.received.clear()
            call = (await tenant.create()).json()
            other = (await tenant.create(status_callback="https://other.example.com/")).json()
            assert await _reported(tenant, call["id"]) == [("settled", "started", "response")]
            assert await _deliveries(tenant, other["id"]) == []
            async with each.database.begin() as session:
                stored = await session.execute(
                    text("SELECT status_callback_events FROM call WHERE id = :id"), {"id": call["id"]}
                )
                assert stored.scalar_one() == expected
            assert "settled" not in json.dumps(upstream.posts[0].form)


async def test_without_any_url_nothing_is_delivered(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(status_callback_event=["settled"])).json()
    assert call["execution"] == "started"
    assert await _deliveries(tenant, call["id"]) == []


@pytest.mark.parametrize(("path", "table"), [("events", "call_event"), ("deliveries", "delivery")])
async def test_a_list_that_is_being_read_while_a_callback_settles_the_call_has_the_call_sid(
    gateway: Gateway, path: str, table: str
) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = await _unknown(tenant, status_callback_event=["initiated"])
    async with gateway.database.begin() as session:
        # The list reads the record, and then waits for the last month, in which the callback writes nothing.
        last = text("SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = CAST(:table AS text)::regclass")
        await session.execute(text(f"LOCK TABLE {await session.scalar(last, {'table': table})} IN ACCESS EXCLUSIVE MODE"))
        listing = asyncio.create_task(tenant.http.get(f"/v1/calls/{lost['id']}/{path}"))
        async with asyncio.timeout(TIMEOUT_S):
            while not await session.scalar(text(SESSION_WAITS_FOR_LOCK_SQL)):
                await asyncio.sleep(0.01)
        sid = f"CA{uuid4().hex}"
        callback = status_callback_fields(tenant, lost | {"sid": sid}, "initiated", 0)
        assert (await call_back(gateway, tenant, lost["id"], callback)).status_code == 204
    listed = (await listing).raise_for_status().json()[path]
    fields = [each["data" if path == "events" else "fields"] for each in listed]
    assert [each["CallSid"] for each in fields if "CallSid" in each] == [sid]
