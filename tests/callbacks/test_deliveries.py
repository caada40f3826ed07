"""What tenants are told: each event asked for, signed, in order, until the receiver has it, and nobody waits for another."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator
from uuid_utils.compat import uuid7

from app.calls import ids
from app.deliveries import store
from app.deliveries.addresses import AllowList
from app.deliveries.sender import Sender
from app.deliveries.store import Attempt, ClaimedDelivery
from app.jobs.deliver import MAX_CONCURRENT_PER_TENANT, Deliverer, wait_after
from app.jobs.refresh import Refresher
from app.observability import Metrics
from app.security.keyring import Keyring
from app.tenants.callbacks import TenantCallbacks
from app.tenants.errors import OperatorError
from app.twilio.client import TwilioClient, make_http_client
from tests.support.callbacks import PUBLIC_URL, call_back, progress
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import (
    Behaviour,
    Received,
    Upstream,
    answer,
    call_resource,
    created,
    error,
    hang,
    refused_url,
    reset,
    running_upstream,
)

ALL = ["initiated", "ringing", "answered", "completed"]
PROGRESS = (("initiated", 0), ("ringing", 1), ("in-progress", 2), ("completed", 3))
LOOPBACK = "127.0.0.0/8"


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL, delivery_allow=LOOPBACK)) as running:
        yield running


@pytest.fixture(scope="module")
def callbacks(gateway: Gateway) -> TenantCallbacks:
    return TenantCallbacks(gateway.database, Keyring(gateway.settings.require_secret_keys()))


@pytest.fixture
async def deliverer(gateway: Gateway, callbacks: TenantCallbacks) -> AsyncIterator[Deliverer]:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM delivery"))
    async with Sender(AllowList.parse(LOOPBACK), read_timeout_s=2) as sender:
        yield Deliverer(gateway.database, callbacks, sender, Metrics())


@dataclass
class Live:
    """A started call of its own tenant, whose progress is told to `receiver`."""

    gateway: Gateway
    tenant: Tenant
    twilio: Upstream
    record: dict[str, Any]

    async def told(self, *progressed: tuple[str, int], **more: str) -> None:
        for status, sequence in progressed:
            fields = progress(self.tenant, self.record, status, sequence, **more)
            assert (await call_back(self.gateway, self.tenant, self.record["id"], fields)).status_code == 204

    async def deliveries(self) -> list[dict[str, Any]]:
        response = await self.tenant.http.get(f"/v1/calls/{self.record['id']}/deliveries")
        deliveries: list[dict[str, Any]] = response.raise_for_status().json()["deliveries"]
        return deliveries

    async def states(self) -> dict[str, str]:
        return {delivery["event"]: delivery["state"] for delivery in await self.deliveries()}


@pytest.fixture
async def twilio() -> AsyncIterator[Upstream]:
    async with running_upstream(created()) as upstream:
        yield upstream


async def _live(gateway: Gateway, twilio: Upstream, tenant: Tenant | None = None, **members: Any) -> Live:
    tenant = tenant or await gateway.add_tenant(twilio.url)
    created = await tenant.create(**members)
    assert created.status_code == 201, created.text
    return Live(gateway, tenant, twilio, created.json())


async def _work(deliverer: Deliverer) -> None:
    """Delivers until nothing is due any more."""
    deliverer.wake.set()
    while deliverer.wake.is_set():
        deliverer.wake.clear()
        while await deliverer.step():
            await deliverer.drain()
        await deliverer.drain()


async def _time_passes(gateway: Gateway) -> None:
    """As if every wait had come to its end."""
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE delivery SET next_attempt_at = now() WHERE state = 'pending'"))


def _defaults(tenant: Any) -> tuple[str | None, str | None, list[str] | None]:
    return tenant.status_callback, tenant.status_callback_method, tenant.status_callback_events


def _statuses(received: list[Received]) -> list[str]:
    return [dict(request.form)["CallStatus"] for request in received]


# ---- who tells the tenant


async def test_twilio_is_given_our_callback_and_the_tenants_own_is_ours_to_deliver(gateway: Gateway, twilio: Upstream) -> None:
    live = await _live(gateway, twilio, status_callback="https://own.example.com/x#rc=5", status_callback_event=["ringing"])
    form = twilio.posts[0].form
    callback = urlsplit(dict(form)["StatusCallback"])
    assert callback.geturl().startswith(f"{PUBLIC_URL}/callbacks/twilio/{live.record['id']}?tag=")
    assert callback.fragment == "rc=3&rp=5xx,ct,rt"
    assert [value for name, value in form if name == "StatusCallbackEvent"] == ALL
    assert dict(form)["StatusCallbackMethod"] == "POST"
    assert live.record["parameters"]["status_callback"] == "https://own.example.com/x#rc=5"
    await live.told(*PROGRESS)
    (delivery,) = await live.deliveries()
    assert (delivery["event"], delivery["url"], delivery["method"]) == ("ringing", "https://own.example.com/x", "POST")


async def test_callbacks_of_recordings_and_detection_are_passed_through(gateway: Gateway, twilio: Upstream) -> None:
    own: dict[str, Any] = {
        "recording_status_callback": "https://own.example.com/r",
        "async_amd_status_callback": "https://own.example.com/a",
    }
    await _live(gateway, twilio, status_callback="https://own.example.com/", **own)
    form = dict(twilio.posts[0].form)
    assert form["RecordingStatusCallback"] == own["recording_status_callback"]
    assert form["AsyncAmdStatusCallback"] == own["async_amd_status_callback"]


OWN: dict[str, Any] = {
    "status_callback": "https://own.example.com/",
    "status_callback_event": ["answered"],
    "status_callback_method": "GET",
}


async def test_without_a_public_url_twilio_tells_the_tenant_itself(database_url: str, twilio: Upstream) -> None:
    async with running_gateway(settings_for(database_url)) as private:
        await _live(private, twilio, **OWN)
    form = twilio.posts[0].form
    told = {name: value for name, value in form if name.startswith("StatusCallback")}
    assert told == {
        "StatusCallback": "https://own.example.com/",
        "StatusCallbackEvent": "answered",
        "StatusCallbackMethod": "GET",
    }


async def test_without_an_auth_token_twilio_tells_the_tenant_itself(gateway: Gateway, twilio: Upstream) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    await gateway.tenants.add_credential(
        tenant.id, account_sid="AC" + "d" * 32, secret="s", key_sid="SK" + "d" * 32, base_url=twilio.url
    )
    gateway.invalidate_cache()
    live = await _live(gateway, twilio, tenant, **OWN)
    assert dict(twilio.posts[0].form)["StatusCallback"] == "https://own.example.com/"
    assert live.record["warnings"] == []


async def test_with_an_application_the_record_warns_that_it_follows_by_polling_only(gateway: Gateway, twilio: Upstream) -> None:
    live = await _live(gateway, twilio, application_sid="AP" + "0" * 32)
    assert "StatusCallback" not in dict(twilio.posts[0].form)
    assert [(warning["pointer"], warning["code"]) for warning in live.record["warnings"]] == [
        ("/application_sid", "polling_only")
    ]


REFUSED = {
    "credentials": ("https://user:pw@own.example.com/", "url_credentials"),
    "a metadata address": ("http://169.254.169.254/latest", "url_address_refused"),
    "a private address": ("http://10.0.0.1/", "url_address_private"),
}


@pytest.mark.parametrize(("url", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_url_that_may_not_be_dialled_is_refused_before_anything_is_sent(
    gateway: Gateway, twilio: Upstream, url: str, code: str
) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    refused = await tenant.create(status_callback=url)
    assert (refused.status_code, refused.json()["execution"]) == (422, "not_started")
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [("/status_callback", code)]
    assert twilio.posts == []


async def test_the_tenants_default_is_told_where_a_creation_names_nobody(
    gateway: Gateway, twilio: Upstream, callbacks: TenantCallbacks
) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    await gateway.tenants.configure_callbacks(
        tenant.id, url="https://default.example.com/", method="GET", events=["ringing", "completed"]
    )
    silent = await _live(gateway, twilio, tenant)
    narrowed = await _live(gateway, twilio, tenant, status_callback_event=["answered"])
    named = await _live(gateway, twilio, tenant, status_callback="https://own.example.com/")
    seen = []
    for live in (silent, narrowed, named):
        await live.told(*PROGRESS)
        seen.append([(each["event"], each["method"], urlsplit(each["url"]).hostname) for each in await live.deliveries()])
    default = "default.example.com"
    assert seen == [
        [("ringing", "GET", default), ("completed", "GET", default)],
        [("answered", "GET", default)],
        [("completed", "POST", "own.example.com")],
    ]


async def test_what_is_not_given_stays_and_a_default_needs_a_url(gateway: Gateway, callbacks: TenantCallbacks) -> None:
    tenant = await gateway.add_tenant()
    with pytest.raises(OperatorError, match="need a default URL"):
        await gateway.tenants.configure_callbacks(tenant.id, method="GET")
    await gateway.tenants.configure_callbacks(tenant.id, url="https://own.example.com/", events=["ringing"])
    kept = await gateway.tenants.configure_callbacks(tenant.id, method="GET")
    assert _defaults(kept) == ("https://own.example.com/", "GET", ["ringing"])
    cleared = await gateway.tenants.configure_callbacks(tenant.id, clear=True)
    assert _defaults(cleared) == (None, None, None)
    for nobody in (
        gateway.tenants.configure_callbacks("nobody"),
        gateway.tenants.renew_callback_secret("nobody"),
        callbacks.signing("nobody"),
    ):
        with pytest.raises(OperatorError, match="no tenant nobody"):
            await nobody


# ---- what is sent


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_the_twilio_form_is_the_callback_signed_with_the_tenants_secret(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer, callbacks: TenantCallbacks, method: str
) -> None:
    async with running_upstream(answer(200)) as receiver:
        url = f"{receiver.url}/hook?a=1"
        live = await _live(gateway, twilio, status_callback=url, status_callback_method=method)
        secret = await gateway.tenants.renew_callback_secret(live.tenant.id)
        await live.told(("completed", 3), SipResponseCode="487", Odd="Žofie & co")
        await _work(deliverer)
        (request,) = receiver.received
    fields = progress(live.tenant, live.record, "completed", 3, SipResponseCode="487", Odd="Žofie & co")
    sent = dict(request.form) if method == "POST" else dict(parse_qsl(urlsplit(request.path).query))
    assert {name: value for name, value in sent.items() if name != "a"} == fields
    signed = request.headers["x-twilio-signature"]
    assert RequestValidator(secret).validate(receiver.url + request.path, dict(request.form), signed)
    assert not RequestValidator(live.tenant.auth_token).validate(receiver.url + request.path, dict(request.form), signed)
    assert await live.states() == {"completed": "delivered"}


async def test_the_json_form_holds_the_record_as_it_is_when_it_is_sent(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer, callbacks: TenantCallbacks
) -> None:
    async with running_upstream(answer(500), answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url, status_callback_event=["ringing"])
        await gateway.tenants.configure_callbacks(live.tenant.id, form="json")
        secret = await gateway.tenants.renew_callback_secret(live.tenant.id)
        await live.told(("ringing", 1))
        await _work(deliverer)
        await live.told(("completed", 3), CallDuration="5")
        await _time_passes(gateway)
        await _work(deliverer)
        first, second = (Webhook(secret).verify(each.body, each.headers) for each in receiver.received)
        ids = {each.headers["webhook-id"] for each in receiver.received}
    assert ids == {f"msg_{live.record['id'].replace('-', '')}_ringing"}
    assert [event["data"]["call"]["status"] for event in (first, second)] == ["ringing", "completed"]
    assert second["data"]["fields"]["CallStatus"] == "ringing"
    assert second["data"]["call"] == (await live.tenant.http.get(f"/v1/calls/{live.record['id']}")).json()


async def test_a_tenant_without_a_secret_gets_one_with_its_first_delivery(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer, callbacks: TenantCallbacks
) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url)
        await live.told(("completed", 3))
        await _work(deliverer)
        secret = (await callbacks.signing(live.tenant.id)).secret.get_secret_value()
        signature = receiver.received[0].headers["x-twilio-signature"]
        assert RequestValidator(secret).validate(f"{receiver.url}/", dict(receiver.received[0].form), signature)


# ---- once each, in order, and again


async def test_a_duplicate_is_not_told_twice_and_a_retry_carries_the_same_id(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    async with running_upstream(reset, answer(503), answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url)
        await live.told(("completed", 3), ("completed", 3), ("completed", 4))
        for _ in range(4):
            await _work(deliverer)
            await _time_passes(gateway)
        tokens = [request.headers["i-twilio-idempotency-token"] for request in receiver.received]
    assert tokens == [f"msg_{live.record['id'].replace('-', '')}_completed"] * 3
    (delivery,) = await live.deliveries()
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("delivered", 3, 200)
    assert (delivery["last_error"], delivery["next_attempt_at"]) == (None, None)


async def test_events_are_told_in_their_order_though_they_came_in_another(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url, status_callback_event=ALL)
        await live.told(*reversed(PROGRESS))
        await _work(deliverer)
        assert _statuses(receiver.received) == ["initiated", "ringing", "in-progress", "completed"]


async def test_a_later_event_waits_for_an_earlier_one_until_its_second_failure(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    async with running_upstream(answer(500), answer(500), answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url, status_callback_event=["ringing", "completed"])
        await live.told(*PROGRESS)
        await _work(deliverer)
        assert _statuses(receiver.received) == ["ringing"]
        await _time_passes(gateway)
        await _work(deliverer)
        # The second failure lets the later one go, with its number.
        assert _statuses(receiver.received) == ["ringing", "ringing", "completed"]
        assert dict(receiver.received[2].form)["SequenceNumber"] == "3"
        assert await live.states() == {"ringing": "pending", "completed": "delivered"}
        await _time_passes(gateway)
        await _work(deliverer)
        assert _statuses(receiver.received)[3:] == ["ringing"]
        assert await live.states() == {"ringing": "delivered", "completed": "delivered"}


async def _claim(gateway: Gateway) -> list[ClaimedDelivery]:
    return await store.claim(gateway.database, lease=timedelta(minutes=1), limit=9, per_tenant=9, busy=[])


async def _hold(session: Any, event: str) -> None:
    """Does what a claim does that still sees an earlier event as pending."""
    held = "UPDATE delivery SET held = true, next_attempt_at = now() + interval '30 s' WHERE event = :event"
    await session.execute(text(held), {"event": event})


async def test_a_result_that_is_recorded_while_a_claim_holds_a_later_event_releases_it(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    live = await _live(gateway, twilio, status_callback="http://127.0.0.1:9/", status_callback_event=ALL)
    await live.told(PROGRESS[0])
    (earlier,) = await _claim(gateway)
    await live.told(PROGRESS[1])
    attempt = Attempt(earlier, is_delivered=True, status=204, error=None, wait=None)
    async with gateway.database.begin() as claiming:
        await _hold(claiming, "ringing")
        recording = asyncio.create_task(store.record_attempts(gateway.database, [attempt]))
        await asyncio.sleep(0.2)  # for it to wait for the claim's lock; were this too short, less would be tested
        assert not recording.done()
    assert await recording == 1
    (later,) = await _claim(gateway)
    assert (later.webhook_id, later.held) == (f"msg_{UUID(live.record['id']).hex}_ringing", False)


async def test_a_claim_releases_what_it_held_though_the_earlier_event_had_just_ended(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    live = await _live(gateway, twilio, status_callback="http://127.0.0.1:9/", status_callback_event=ALL)
    await live.told(*PROGRESS[:2])
    earlier, later = sorted(await _claim(gateway), key=lambda delivery: delivery.position)
    assert later.held
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE delivery SET held = false WHERE event = 'ringing'"))  # the claim is not committed
    attempt = Attempt(earlier, is_delivered=True, status=204, error=None, wait=None)
    assert await store.record_attempts(gateway.database, [attempt]) == 0
    async with gateway.database.begin() as session:
        await _hold(session, "ringing")
    assert await _claim(gateway) == []
    assert await store.record_attempts(gateway.database, [], held=[later]) == 1
    assert [delivery.id for delivery in await _claim(gateway)] == [later.id]


def test_waits_grow_to_four_hours_and_are_a_little_uneven() -> None:
    meant = [5, 30, 120, 900, 3600, 14_400, 14_400, 14_400]
    for failures, seconds in enumerate(meant, start=1):
        waits = {wait_after(failures).total_seconds() for _ in range(50)}
        assert 0.89 * seconds < min(waits) < max(waits) < 1.11 * seconds


async def test_the_next_attempt_is_set_by_the_failures_and_three_days_are_the_end(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    async with running_upstream(answer(500)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url)
        await live.told(("completed", 3))
        waits = []
        for _ in range(3):
            await _work(deliverer)
            (delivery,) = await live.deliveries()
            wait = datetime.fromisoformat(delivery["next_attempt_at"]) - datetime.fromisoformat(delivery["last_attempt_at"])
            waits.append(wait.total_seconds())
            await _time_passes(gateway)
        assert all(0.89 * meant < wait < 1.11 * meant for wait, meant in zip(waits, (5, 30, 120), strict=True))
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE delivery SET pending_since = now() - interval '2 days 23 hours 59 minutes'"))
        await _work(deliverer)
        assert await live.states() == {"completed": "gave_up"}
        await _time_passes(gateway)
        await _work(deliverer)
        assert len(receiver.received) == 4


ENDS: dict[str, tuple[Behaviour, str, int | None, str | None]] = {
    "gone": (answer(410), "gave_up", 410, None),
    "redirect": (answer(302, headers={"Location": "http://127.0.0.1:9/"}), "pending", 302, None),
    "refused": (answer(403), "pending", 403, None),
    "lost": (reset, "pending", None, "lost"),
    "silent": (hang, "pending", None, "timeout"),
}


@pytest.mark.parametrize(("behaviour", "state", "status", "error"), ENDS.values(), ids=ENDS.keys())
async def test_what_comes_of_an_attempt_is_kept(
    gateway: Gateway,
    twilio: Upstream,
    deliverer: Deliverer,
    behaviour: Behaviour,
    state: str,
    status: int | None,
    error: str | None,
) -> None:
    async with running_upstream(behaviour) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url)
        await live.told(("completed", 3))
        await _work(deliverer)
        (delivery,) = await live.deliveries()
    assert (delivery["state"], delivery["attempts"]) == (state, 1)
    assert (delivery["last_status"], delivery["last_error"]) == (status, error)


async def test_what_a_killed_worker_had_claimed_is_taken_over(gateway: Gateway, twilio: Upstream, deliverer: Deliverer) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url)
        await live.told(("completed", 3))
        assert len(await _claim(gateway)) == 1
        await _work(deliverer)
        assert receiver.received == []
        await _time_passes(gateway)
        await _work(deliverer)
        assert len(receiver.received) == 1


async def test_two_workers_send_each_delivery_once(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer, callbacks: TenantCallbacks
) -> None:
    other = Deliverer(gateway.database, callbacks, deliverer.sender, Metrics())
    async with running_upstream(answer(200)) as receiver:
        tenant = await gateway.add_tenant(twilio.url)
        lives = [await _live(gateway, twilio, tenant, status_callback=receiver.url) for _ in range(12)]
        await asyncio.gather(*(live.told(("completed", 3)) for live in lives))
        await asyncio.gather(_work(deliverer), _work(other))
        seen = Counter(dict(request.form)["CallSid"] for request in receiver.received)
    assert seen == Counter(live.record["sid"] for live in lives)


async def test_tenants_take_turns_where_there_is_no_room_for_all(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.deliver.MAX_CONCURRENT", 2)
    async with running_upstream(answer(200)) as receiver:
        tenants = [await gateway.add_tenant(twilio.url) for _ in range(5)]
        for tenant in tenants:
            for _ in range(2):
                live = await _live(gateway, twilio, tenant, status_callback=receiver.url)
                await live.told(("completed", 3))
        in_turn = []
        while await deliverer.step():
            in_turn.append(set(deliverer._in_flight))
            await deliverer.drain()
        seen = Counter(dict(request.form)["CallSid"] for request in receiver.received)
    # Each step takes one tenant's two, and the next step goes on with the next tenant.
    assert in_turn[:5] == [{tenant.id} for tenant in sorted(tenants, key=lambda tenant: tenant.id)]
    assert len(seen) == 10


async def test_a_receiver_that_hangs_or_is_dead_delays_no_other_tenants_deliveries(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    async with running_upstream(hang) as hanging, running_upstream(answer(200)) as receiver:
        sick, healthy = await gateway.add_tenant(twilio.url), await gateway.add_tenant(twilio.url)
        for url in (hanging.url, refused_url()):
            stuck = await _live(gateway, twilio, sick, status_callback=url)
            await stuck.told(("completed", 3))
        async with gateway.database.begin() as session:
            # Far more than a worker has places for.
            await session.execute(
                text(
                    "INSERT INTO delivery (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields)"
                    " SELECT gen_random_uuid(), gen_random_uuid(), now(), tenant_id, event, position, webhook_id, url, method,"
                    " fields FROM delivery, generate_series(1, 500) WHERE tenant_id = :sick"
                ),
                {"sick": sick.id},
            )
        working = asyncio.create_task(_repeat(deliverer))
        while len(hanging.received) < 2:
            await asyncio.sleep(0.01)
        live = await _live(gateway, twilio, healthy, status_callback=receiver.url)
        await live.told(("completed", 3))
        while await live.states() != {"completed": "delivered"}:
            await asyncio.sleep(0.01)
        # None of those that hang has ended, and they have not more than their share.
        assert not hanging.released.is_set()
        assert 2 <= len(hanging.connections) <= MAX_CONCURRENT_PER_TENANT
        working.cancel()
        hanging.released.set()
        await deliverer.drain()


async def _repeat(deliverer: Deliverer) -> None:
    while True:
        if not await deliverer.step():
            await asyncio.sleep(0.01)


# ---- when no callback came


@pytest.fixture
async def refresher(gateway: Gateway) -> AsyncIterator[Refresher]:
    http = make_http_client(connect_timeout=1, read_timeout=1, pool_timeout=1, max_connections=10, user_agent="tests")
    async with http:
        yield Refresher(
            database=gateway.database,
            tenants=gateway.directory,
            twilio=TwilioClient(http, base_url="http://127.0.0.1:9"),
            metrics=Metrics(),
            interval=timedelta(seconds=3),
            fetch_deadline_s=1.0,
        )


async def _refresh(gateway: Gateway, refresher: Refresher, call_id: str) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = NULL"))
        await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = :id"), {"id": call_id})
    await refresher.step()


def _ended(sid: str, ago: timedelta) -> Behaviour:
    end = (datetime.now(UTC) - ago).strftime("%a, %d %b %Y %H:%M:%S +0000")
    return answer(200, call_resource(sid, status="completed", duration="9", end_time=end, price="-0.02"))


async def test_the_end_that_no_callback_told_is_told_once_after_some_patience(
    gateway: Gateway, deliverer: Deliverer, refresher: Refresher
) -> None:
    sid = "CA" + "e" * 32
    script = (answer(201, call_resource(sid)), _ended(sid, timedelta(0)), _ended(sid, timedelta(minutes=2)))
    async with running_upstream(*script) as twilio, running_upstream(answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url, status_callback_event=ALL)
        await live.told(("ringing", 1))
        await _refresh(gateway, refresher, live.record["id"])
        assert await live.states() == {"ringing": "pending"}
        async with gateway.database.begin() as session:
            due = text("SELECT refresh_at - now() FROM call WHERE id = :id")
            assert timedelta(seconds=20) < await session.scalar(due, {"id": live.record["id"]}) <= timedelta(seconds=30)
        await _refresh(gateway, refresher, live.record["id"])
        await live.told(("completed", 3))
        await _refresh(gateway, refresher, live.record["id"])
        await _work(deliverer)
        assert _statuses(receiver.received) == ["ringing", "completed"]
        told = dict(receiver.received[1].form)
    assert (told["CallSid"], told["CallDuration"], told["To"]) == (sid, "9", "sip:kate@example.com")
    assert "SequenceNumber" not in told


async def test_the_end_is_told_though_twilio_cannot_be_asked_any_more(gateway: Gateway, refresher: Refresher) -> None:
    sid = "CA" + "c" * 32
    async with running_upstream(answer(201, call_resource(sid)), _ended(sid, timedelta(0)), error(500, 20500)) as twilio:
        live = await _live(gateway, twilio, status_callback="https://own.example.com/")
        await _refresh(gateway, refresher, live.record["id"])
        assert await live.deliveries() == []
        async with gateway.database.begin() as session:
            ended = text("UPDATE call SET end_time = end_time - interval '1 minute' WHERE id = :id")
            await session.execute(ended, {"id": live.record["id"]})
        await _refresh(gateway, refresher, live.record["id"])
        assert await live.states() == {"completed": "pending"}


async def test_the_callback_that_comes_in_time_says_more_and_is_what_is_told(
    gateway: Gateway, refresher: Refresher, deliverer: Deliverer
) -> None:
    sid = "CA" + "d" * 32
    ended = (_ended(sid, timedelta(0)), _ended(sid, timedelta(minutes=2)))
    async with running_upstream(answer(201, call_resource(sid)), *ended) as twilio:
        live = await _live(gateway, twilio, status_callback="https://own.example.com/")
        await _refresh(gateway, refresher, live.record["id"])
        await live.told(("completed", 3), SipResponseCode="200")
        await _refresh(gateway, refresher, live.record["id"])
        (delivery,) = await live.deliveries()
    assert delivery["fields"]["SipResponseCode"] == "200"


# ---- asked for again


async def test_a_delivery_is_sent_again_when_its_tenant_asks(gateway: Gateway, twilio: Upstream, deliverer: Deliverer) -> None:
    async with running_upstream(answer(410), answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=receiver.url)
        await live.told(("completed", 3))
        await _work(deliverer)
        for state in ("gave_up", "delivered"):
            (delivery,) = await live.deliveries()
            assert delivery["state"] == state
            again = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/{delivery['id']}/retry")
            assert (again.status_code, again.json()["state"], again.json()["attempts"]) == (200, "pending", 0)
            await _work(deliverer)
        assert len(receiver.received) == 3
        assert len({request.headers["i-twilio-idempotency-token"] for request in receiver.received}) == 1


async def test_a_delivery_of_another_tenant_or_call_is_not_found(gateway: Gateway, twilio: Upstream) -> None:
    live = await _live(gateway, twilio, status_callback="https://own.example.com/")
    await live.told(("completed", 3))
    (delivery,) = await live.deliveries()
    same_tenant = await _live(gateway, twilio, live.tenant)
    stranger = await _live(gateway, twilio)
    for tenant, call_id, slug in (
        (live.tenant, same_tenant.record["id"], "delivery-not-found"),
        (stranger.tenant, stranger.record["id"], "delivery-not-found"),
        (stranger.tenant, live.record["id"], "call-not-found"),
    ):
        answered = await tenant.http.post(f"/v1/calls/{call_id}/deliveries/{delivery['id']}/retry")
        assert (answered.status_code, answered.json()["type"]) == (404, f"urn:callgate:problem:{slug}")
    never = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/{UUID(int=2**128 - 1)}/retry")
    assert never.status_code == 404, "of the year 10889"
    nonsense = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/nonsense/retry")
    assert nonsense.status_code == 422


async def test_replay_sends_what_was_given_up_since_a_time_or_all(
    gateway: Gateway, twilio: Upstream, deliverer: Deliverer
) -> None:
    async with running_upstream(answer(410)) as dead, running_upstream(answer(200)) as receiver:
        live = await _live(gateway, twilio, status_callback=dead.url)
        others = [await _live(gateway, twilio, live.tenant, status_callback=receiver.url), await _live(gateway, twilio)]
        began = datetime.now(UTC).isoformat()
        for each in (live, *others):
            await each.told(("completed", 3))
        await _work(deliverer)

        async def replayed(**body: Any) -> dict[str, Any]:
            answered = await live.tenant.http.post("/v1/deliveries/replay", json=body)
            await _work(deliverer)
            told: dict[str, Any] = answered.raise_for_status().json()
            return told

        assert await replayed(since=began) == {"replayed": 1, "continue_since": None}
        assert (len(dead.received), len(receiver.received)) == (2, 1)
        assert await replayed(since=began, failed_only=False) == {"replayed": 2, "continue_since": None}
        assert (len(dead.received), len(receiver.received)) == (3, 2)
        for none_since in (datetime.now(UTC).isoformat(), "9999-12-31T23:59:59-14:00"):
            assert await replayed(since=none_since) == {"replayed": 0, "continue_since": None}
        assert (await replayed(since="0001-01-01T00:00:00+14:00"))["continue_since"] is None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/since"),
        ({"since": "2026-11-23T00:00:00"}, "/since"),
        ({"since": "yesterday"}, "/since"),
        ({"since": 1767225600}, "/since"),
        ({"since": "1767225600"}, "/since"),
        ({"since": "2026-11-23"}, "/since"),
        ({"since": "2026-11-23 00:00:00Z"}, "/since"),
        ({"since": None}, "/since"),
        ({"since": "2026-11-23T00:00:00Z", "failed_only": "yes"}, "/failed_only"),
        ({"since": "2026-11-23T00:00:00Z", "until": "now"}, "/until"),
    ],
)
async def test_a_replay_that_is_not_understood_is_refused(
    gateway: Gateway, twilio: Upstream, body: dict[str, Any], pointer: str
) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    refused = await tenant.http.post("/v1/deliveries/replay", json=body)
    assert (refused.status_code, [error["pointer"] for error in refused.json()["errors"]]) == (422, [pointer])


async def test_a_large_replay_goes_in_batches(gateway: Gateway, twilio: Upstream, deliverer: Deliverer) -> None:
    live = await _live(gateway, twilio, status_callback="https://own.example.com/")
    await live.told(("completed", 3))
    copied = text(
        "INSERT INTO delivery (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields, state,"
        " next_attempt_at) SELECT :id, call_id, :at, tenant_id, event, position, webhook_id, url, method, fields, 'gave_up',"
        " NULL FROM delivery WHERE state = 'pending' AND call_id = :call_id"
    )
    copies = [uuid7() for _ in range(1200)]
    async with gateway.database.begin() as session:
        await session.execute(
            copied, [{"id": copy, "at": ids.created_at(copy), "call_id": live.record["id"]} for copy in copies]
        )
    answered = await live.tenant.http.post("/v1/deliveries/replay", json={"since": "2026-01-01T00:00:00Z"})
    assert answered.json() == {"replayed": 1200, "continue_since": None}


async def test_deliveries_are_told_as_json_for_the_example(gateway: Gateway, twilio: Upstream) -> None:
    live = await _live(gateway, twilio, status_callback="https://own.example.com/")
    await live.told(("completed", 3))
    document = (await live.tenant.http.get("/openapi.json")).json()
    (example,) = document["components"]["examples"]["deliveries"]["value"]["deliveries"]
    (delivery,) = await live.deliveries()
    assert example.keys() == delivery.keys()
    assert json.dumps(delivery)
