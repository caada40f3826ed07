"""Each requested event is delivered to its tenant: signed, in order, with retries, and not delayed by other tenants."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator
from uuid_utils.compat import uuid7

from app.calls import ids
from app.database.engine import Database
from app.deliveries import store
from app.deliveries.addresses import MAX_URL_LENGTH, AllowList
from app.deliveries.retries import retry_delay
from app.deliveries.sender import DeliveryHttpClient
from app.deliveries.store import DeliveryAttempt
from app.jobs.deliver import MAX_CLAIMED_PER_TENANT, MAX_CONCURRENT_PER_TENANT, DeliverySender
from app.jobs.refresh import CallRefresher
from app.observability import Metrics
from app.security.keyring import Keyring
from app.tenants.delivery_signing import SigningSettingsCache
from app.tenants.errors import AdministrationError
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.clients import TIMEOUT_S
from tests.support.deliveries import claim_deliveries
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import deliver_all, run_step, running_refresher
from tests.support.upstream import (
    Behaviour,
    ReceivedRequest,
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
def signing(gateway: Gateway) -> SigningSettingsCache:
    return SigningSettingsCache(gateway.database, Keyring(gateway.settings.require_secret_keys()))


@pytest.fixture
async def deliverer(gateway: Gateway, signing: SigningSettingsCache) -> AsyncIterator[DeliverySender]:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM delivery"))
    async with DeliveryHttpClient(AllowList.parse(LOOPBACK), read_timeout_s=2) as sender:
        yield DeliverySender(gateway.database, signing, sender, Metrics())


@dataclass
class LiveCall:
    """A call that has started, with its tenant and the stand-in for Twilio that created it."""

    gateway: Gateway
    tenant: Tenant
    twilio: Upstream
    record: dict[str, Any]

    async def send_callbacks(self, *progressed: tuple[str, int], **more: str) -> None:
        for status, sequence in progressed:
            fields = status_callback_fields(self.tenant, self.record, status, sequence, **more)
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


async def _start(gateway: Gateway, twilio: Upstream, tenant: Tenant | None = None, **members: Any) -> LiveCall:
    tenant = tenant or await gateway.add_tenant(twilio.url)
    created = await tenant.create(**members)
    assert created.status_code == 201, created.text
    return LiveCall(gateway, tenant, twilio, created.json())


async def _make_all_due(gateway: Gateway) -> None:
    """Makes all pending deliveries due now, as if the waits before their next attempts had passed."""
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE delivery SET next_attempt_at = now() WHERE state = 'pending'"))


def _defaults(tenant: Any) -> tuple[str | None, str | None, list[str] | None]:
    return tenant.status_callback, tenant.status_callback_method, tenant.status_callback_events


def _statuses(received: list[ReceivedRequest]) -> list[str]:
    return [dict(request.form)["CallStatus"] for request in received]


# ---- who sends the callbacks


async def test_twilio_gets_callgates_url_and_callgate_delivers_to_the_tenants(gateway: Gateway, twilio: Upstream) -> None:
    live = await _start(gateway, twilio, status_callback="https://own.example.com/x#rc=5", status_callback_event=["ringing"])
    form = twilio.posts[0].form
    callback = urlsplit(dict(form)["StatusCallback"])
    assert callback.geturl().startswith(f"{PUBLIC_URL}/callbacks/twilio/{live.record['id']}?tag=")
    assert callback.fragment == "rc=3&rp=5xx,ct,rt"
    assert [value for name, value in form if name == "StatusCallbackEvent"] == ALL
    assert dict(form)["StatusCallbackMethod"] == "POST"
    assert live.record["parameters"]["status_callback"] == "https://own.example.com/x#rc=5"
    await live.send_callbacks(*PROGRESS)
    (delivery,) = await live.deliveries()
    assert (delivery["event"], delivery["url"], delivery["method"]) == ("ringing", "https://own.example.com/x", "POST")


async def test_callbacks_of_recordings_and_detection_are_passed_through(gateway: Gateway, twilio: Upstream) -> None:
    own: dict[str, Any] = {
        "recording_status_callback": "https://own.example.com/r",
        "async_amd_status_callback": "https://own.example.com/a",
    }
    await _start(gateway, twilio, status_callback="https://own.example.com/", **own)
    form = dict(twilio.posts[0].form)
    assert form["RecordingStatusCallback"] == own["recording_status_callback"]
    assert form["AsyncAmdStatusCallback"] == own["async_amd_status_callback"]


OWN: dict[str, Any] = {
    "status_callback": "https://own.example.com/",
    "status_callback_event": ["answered"],
    "status_callback_method": "GET",
}


async def test_without_a_public_url_twilio_sends_callbacks_to_the_tenant(database_url: str, twilio: Upstream) -> None:
    async with running_gateway(settings_for(database_url)) as private:
        await _start(private, twilio, **OWN)
    form = twilio.posts[0].form
    fields = {name: value for name, value in form if name.startswith("StatusCallback")}
    assert fields == {
        "StatusCallback": "https://own.example.com/",
        "StatusCallbackEvent": "answered",
        "StatusCallbackMethod": "GET",
    }


async def test_without_an_auth_token_twilio_sends_callbacks_to_the_tenant(gateway: Gateway, twilio: Upstream) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    await gateway.tenants.add_credential(
        tenant.id, account_sid="AC" + "d" * 32, secret="s", key_sid="SK" + "d" * 32, base_url=twilio.url
    )
    gateway.invalidate_cache()
    live = await _start(gateway, twilio, tenant, **OWN)
    assert dict(twilio.posts[0].form)["StatusCallback"] == "https://own.example.com/"
    assert live.record["warnings"] == []


async def test_without_a_readable_auth_token_twilio_sends_callbacks_to_the_tenant(gateway: Gateway, twilio: Upstream) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    async with gateway.database.begin() as session:
        statement = "UPDATE twilio_credential SET sealed_secret = '\\x01' WHERE username = :sid"
        await session.execute(text(statement), {"sid": tenant.account_sid})
    await gateway.tenants.add_credential(
        tenant.id, account_sid=tenant.account_sid, secret="s", key_sid="SK" + "e" * 32, base_url=None
    )
    gateway.invalidate_cache()
    await _start(gateway, twilio, tenant, **OWN)
    assert dict(twilio.posts[0].form)["StatusCallback"] == "https://own.example.com/"


async def test_with_an_application_the_record_warns_that_the_call_is_only_polled(gateway: Gateway, twilio: Upstream) -> None:
    live = await _start(gateway, twilio, application_sid="AP" + "0" * 32)
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
async def test_a_refused_url_is_reported_before_anything_is_sent(
    gateway: Gateway, twilio: Upstream, url: str, code: str
) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    refused = await tenant.create(status_callback=url)
    assert (refused.status_code, refused.json()["execution"]) == (422, "not_started")
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [("/status_callback", code)]
    assert twilio.posts == []


async def test_deliveries_go_to_the_tenants_default_url_if_the_creation_has_none(
    gateway: Gateway, twilio: Upstream, signing: SigningSettingsCache
) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    await gateway.tenants.configure_callbacks(
        tenant.id, url="https://default.example.com/", method="GET", events=["ringing", "completed"]
    )
    silent = await _start(gateway, twilio, tenant)
    narrowed = await _start(gateway, twilio, tenant, status_callback_event=["answered"])
    named = await _start(gateway, twilio, tenant, status_callback="https://own.example.com/")
    seen = []
    for live in (silent, narrowed, named):
        await live.send_callbacks(*PROGRESS)
        seen.append([(each["event"], each["method"], urlsplit(each["url"]).hostname) for each in await live.deliveries()])
    default = "default.example.com"
    assert seen == [
        [("ringing", "GET", default), ("completed", "GET", default)],
        [("answered", "GET", default)],
        [("completed", "POST", "own.example.com")],
    ]


async def test_settings_that_are_not_given_stay_and_a_default_needs_a_url(
    gateway: Gateway, signing: SigningSettingsCache
) -> None:
    tenant = await gateway.add_tenant()
    with pytest.raises(AdministrationError, match="need a default URL"):
        await gateway.tenants.configure_callbacks(tenant.id, method="GET")
    await gateway.tenants.configure_callbacks(tenant.id, url="https://own.example.com/", events=["ringing"])
    kept = await gateway.tenants.configure_callbacks(tenant.id, method="GET")
    assert _defaults(kept) == ("https://own.example.com/", "GET", ["ringing"])
    cleared = await gateway.tenants.configure_callbacks(tenant.id, clear=True)
    assert _defaults(cleared) == (None, None, None)
    for nobody in (
        gateway.tenants.configure_callbacks("nobody"),
        gateway.tenants.renew_callback_secret("nobody"),
        signing.settings_of_tenant("nobody"),
    ):
        with pytest.raises(AdministrationError, match="no tenant nobody"):
            await nobody


# ---- the requests


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_the_twilio_form_is_the_callback_signed_with_the_tenants_secret(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, signing: SigningSettingsCache, method: str
) -> None:
    async with running_upstream(answer(200)) as receiver:
        url = f"{receiver.url}/hook?a=1"
        live = await _start(gateway, twilio, status_callback=url, status_callback_method=method)
        secret = await gateway.tenants.renew_callback_secret(live.tenant.id)
        await live.send_callbacks(("completed", 3), SipResponseCode="487", Odd="Žofie & co")
        await deliver_all(deliverer)
        (request,) = receiver.received
    fields = status_callback_fields(live.tenant, live.record, "completed", 3, SipResponseCode="487", Odd="Žofie & co")
    sent = dict(request.form) if method == "POST" else dict(parse_qsl(urlsplit(request.path).query))
    assert {name: value for name, value in sent.items() if name != "a"} == fields
    signed = request.headers["x-twilio-signature"]
    assert RequestValidator(secret).validate(receiver.url + request.path, dict(request.form), signed)
    assert not RequestValidator(live.tenant.auth_token).validate(receiver.url + request.path, dict(request.form), signed)
    assert await live.states() == {"completed": "delivered"}


async def test_a_get_may_make_the_longest_url_longer(gateway: Gateway, twilio: Upstream, deliverer: DeliverySender) -> None:
    async with running_upstream(answer(200)) as receiver:
        url = f"{receiver.url}/{'a' * (MAX_URL_LENGTH - len(receiver.url) - 1)}"
        live = await _start(gateway, twilio, status_callback=url, status_callback_method="GET")
        await live.send_callbacks(("completed", 3))
        await deliver_all(deliverer)
        assert await live.states() == {"completed": "delivered"}
        (request,) = receiver.received
    assert (receiver.url + request.path).startswith(f"{url}?")
    assert dict(parse_qsl(urlsplit(request.path).query)) == status_callback_fields(live.tenant, live.record, "completed", 3)


async def test_the_json_form_has_the_record_at_the_time_of_sending(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, signing: SigningSettingsCache
) -> None:
    async with running_upstream(answer(500), answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=["ringing"])
        await gateway.tenants.configure_callbacks(live.tenant.id, callback_format="json")
        secret = await gateway.tenants.renew_callback_secret(live.tenant.id)
        await live.send_callbacks(("ringing", 1))
        await deliver_all(deliverer)
        await live.send_callbacks(("completed", 3), CallDuration="5")
        await _make_all_due(gateway)
        await deliver_all(deliverer)
        first, second = (Webhook(secret).verify(each.body, each.headers) for each in receiver.received)
        ids = {each.headers["webhook-id"] for each in receiver.received}
    assert ids == {f"msg_{live.record['id'].replace('-', '')}_ringing"}
    assert [event["data"]["call"]["status"] for event in (first, second)] == ["ringing", "completed"]
    assert second["data"]["fields"]["CallStatus"] == "ringing"
    assert second["data"]["call"] == (await live.tenant.http.get(f"/v1/calls/{live.record['id']}")).json()


async def test_a_tenant_without_a_secret_gets_one_with_its_first_delivery(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, signing: SigningSettingsCache
) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3))
        await deliver_all(deliverer)
        secret = (await signing.settings_of_tenant(live.tenant.id)).secret.get_secret_value()
        signature = receiver.received[0].headers["x-twilio-signature"]
        assert RequestValidator(secret).validate(f"{receiver.url}/", dict(receiver.received[0].form), signature)


# ---- duplicates, order, retries


async def test_a_duplicate_is_delivered_once_and_a_retry_has_the_same_id(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(reset, answer(503), answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3), ("completed", 3), ("completed", 4))
        for _ in range(4):
            await deliver_all(deliverer)
            await _make_all_due(gateway)
        tokens = [request.headers["i-twilio-idempotency-token"] for request in receiver.received]
    assert tokens == [f"msg_{live.record['id'].replace('-', '')}_completed"] * 3
    (delivery,) = await live.deliveries()
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("delivered", 3, 200)
    assert (delivery["last_error"], delivery["next_attempt_at"]) == (None, None)


async def test_events_are_delivered_in_order_even_if_callbacks_arrive_out_of_order(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=ALL)
        await live.send_callbacks(*reversed(PROGRESS))
        await deliver_all(deliverer)
        assert _statuses(receiver.received) == ["initiated", "ringing", "in-progress", "completed"]


async def test_a_later_event_waits_for_an_earlier_one_until_its_second_failure(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(answer(500), answer(500), answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=["ringing", "completed"])
        await live.send_callbacks(*PROGRESS)
        await deliver_all(deliverer)
        assert _statuses(receiver.received) == ["ringing"]
        await _make_all_due(gateway)
        await deliver_all(deliverer)
        # After the second failure the later event is sent, with its own number.
        assert _statuses(receiver.received) == ["ringing", "ringing", "completed"]
        assert dict(receiver.received[2].form)["SequenceNumber"] == "3"
        assert await live.states() == {"ringing": "pending", "completed": "delivered"}
        await _make_all_due(gateway)
        await deliver_all(deliverer)
        assert _statuses(receiver.received)[3:] == ["ringing"]
        assert await live.states() == {"ringing": "delivered", "completed": "delivered"}


async def _hold(session: Any, event: str) -> None:
    """Postpones the delivery of the event, as a claim does that sees an earlier event of the call still pending."""
    held = "UPDATE delivery SET held = true, next_attempt_at = now() + interval '30 s' WHERE event = :event"
    await session.execute(text(held), {"event": event})


async def test_a_result_recorded_during_a_claim_releases_the_later_event(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    live = await _start(gateway, twilio, status_callback="http://127.0.0.1:9/", status_callback_event=ALL)
    await live.send_callbacks(PROGRESS[0])
    (earlier,) = await claim_deliveries(gateway.database)
    await live.send_callbacks(PROGRESS[1])
    attempt = DeliveryAttempt(earlier, is_delivered=True, status=204, error=None, retry_in=None)
    async with gateway.database.begin() as claiming:
        await _hold(claiming, "ringing")
        recording = asyncio.create_task(store.record_attempts(gateway.database, [attempt]))
        await asyncio.sleep(0.2)  # until it waits for the lock; a shorter wait would only test less
        assert not recording.done()
    assert await recording == 1
    (later,) = await claim_deliveries(gateway.database)
    assert (later.webhook_id, later.held) == (f"msg_{UUID(live.record['id']).hex}_ringing", False)


async def test_a_claim_releases_a_held_event_if_the_earlier_one_has_just_ended(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    live = await _start(gateway, twilio, status_callback="http://127.0.0.1:9/", status_callback_event=ALL)
    await live.send_callbacks(*PROGRESS[:2])
    earlier, later = sorted(await claim_deliveries(gateway.database), key=lambda delivery: delivery.position)
    assert later.held
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE delivery SET held = false WHERE event = 'ringing'"))  # the claim is not committed
    attempt = DeliveryAttempt(earlier, is_delivered=True, status=204, error=None, retry_in=None)
    assert await store.record_attempts(gateway.database, [attempt]) == 0
    async with gateway.database.begin() as session:
        await _hold(session, "ringing")
    assert await claim_deliveries(gateway.database) == []
    assert await store.record_attempts(gateway.database, [], held=[later]) == 1
    assert [delivery.id for delivery in await claim_deliveries(gateway.database)] == [later.id]


@pytest.mark.parametrize("is_known", [True, False])
async def test_an_event_waits_for_an_earlier_one_unless_the_worker_knows_that_it_has_ended(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, is_known: bool
) -> None:
    live = await _start(gateway, twilio, status_callback="http://127.0.0.1:9/", status_callback_event=ALL)
    await live.send_callbacks(PROGRESS[0])
    (earlier,) = await claim_deliveries(gateway.database)
    await live.send_callbacks(PROGRESS[1])
    (later,) = await claim_deliveries(gateway.database, finished_delivery_ids=[earlier.id] if is_known else [])
    assert (later.event, later.held) == ("ringing", not is_known)


class _DatabaseThatRecordsLater(Database):
    """A database that records no result of a delivery before `may_record` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pool_size=1)
        self.is_recording, self.may_record = asyncio.Event(), asyncio.Event()

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        if "recorded AS" in statement:
            self.is_recording.set()
            await self.may_record.wait()
        return await super().fetch(statement, *arguments)


async def test_a_worker_sends_a_later_event_before_it_has_recorded_the_earlier_one(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    deliverer.database = slow = _DatabaseThatRecordsLater(gateway.settings.require_database_url())
    async with running_upstream(answer(200)) as receiver, asyncio.timeout(TIMEOUT_S):
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=ALL)
        await live.send_callbacks(PROGRESS[0])
        await deliverer.step()
        await slow.is_recording.wait()
        await live.send_callbacks(PROGRESS[1])
        while len(receiver.received) < 2:
            await deliverer.step()
        slow.may_record.set()
        await deliver_all(deliverer)
        assert _statuses(receiver.received) == ["initiated", "ringing"]
        assert await live.states() == {"initiated": "delivered", "ringing": "delivered"}
    await slow.close()


async def test_a_later_event_waits_for_an_earlier_one_whose_failure_is_not_recorded_yet(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    deliverer.database = slow = _DatabaseThatRecordsLater(gateway.settings.require_database_url())
    async with running_upstream(answer(500)) as receiver, asyncio.timeout(TIMEOUT_S):
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=ALL)
        await live.send_callbacks(PROGRESS[0])
        await deliverer.step()
        await slow.is_recording.wait()
        await live.send_callbacks(PROGRESS[1])
        slow.is_recording.clear()
        step = asyncio.create_task(deliverer.step())
        await slow.is_recording.wait()  # the step checks the later event, which is held, once more
        slow.may_record.set()
        await step
        await deliver_all(deliverer)
        assert _statuses(receiver.received) == ["initiated"]
        assert await live.states() == {"initiated": "pending", "ringing": "pending"}
    await slow.close()


async def test_the_commits_after_a_claim_and_its_result_are_flushed(gateway: Gateway, twilio: Upstream) -> None:
    """Shows that claims and results turn `synchronous_commit` off for their own transaction only."""
    live = await _start(gateway, twilio, status_callback="http://127.0.0.1:9/", status_callback_event=ALL)
    await live.send_callbacks(PROGRESS[0])
    database = Database(gateway.settings.require_database_url(), pool_size=1)
    try:
        (claimed,) = await claim_deliveries(database)
        (connection,) = await database.fetch("SELECT pg_backend_pid() AS pid, current_setting('synchronous_commit') AS flushed")
        assert connection["flushed"] == "on"
        attempt = DeliveryAttempt(claimed, is_delivered=True, status=204, error=None, retry_in=None)
        await store.record_attempts(database, [attempt])
        (same,) = await database.fetch("SELECT pg_backend_pid() AS pid, current_setting('synchronous_commit') AS flushed")
        assert same == connection
    finally:
        await database.close()


def test_waits_grow_to_four_hours_and_have_jitter() -> None:
    meant = [5, 30, 120, 900, 3600, 14_400, 14_400, 14_400]
    for failures, seconds in enumerate(meant, start=1):
        waits = {retry_delay(failures).total_seconds() for _ in range(50)}
        assert 0.89 * seconds < min(waits) < max(waits) < 1.11 * seconds


async def test_the_number_of_failures_sets_the_next_attempt_until_three_days_have_passed(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(answer(500)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3))
        waits = []
        for _ in range(3):
            await deliver_all(deliverer)
            (delivery,) = await live.deliveries()
            wait = datetime.fromisoformat(delivery["next_attempt_at"]) - datetime.fromisoformat(delivery["last_attempt_at"])
            waits.append(wait.total_seconds())
            await _make_all_due(gateway)
        assert all(0.89 * meant < wait < 1.11 * meant for wait, meant in zip(waits, (5, 30, 120), strict=True))
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE delivery SET pending_since = now() - interval '2 days 23 hours 59 minutes'"))
        await deliver_all(deliverer)
        assert await live.states() == {"completed": "gave_up"}
        await _make_all_due(gateway)
        await deliver_all(deliverer)
        assert len(receiver.received) == 4


ENDS: dict[str, tuple[Behaviour, str, int | None, str | None]] = {
    "gone": (answer(410), "gave_up", 410, None),
    "redirect": (answer(302, headers={"Location": "http://127.0.0.1:9/"}), "pending", 302, None),
    "refused": (answer(403), "pending", 403, None),
    "lost": (reset, "pending", None, "lost"),
    "silent": (hang, "pending", None, "timeout"),
}


@pytest.mark.parametrize(("behaviour", "state", "status", "error"), ENDS.values(), ids=ENDS.keys())
async def test_the_result_of_an_attempt_is_stored(
    gateway: Gateway,
    twilio: Upstream,
    deliverer: DeliverySender,
    behaviour: Behaviour,
    state: str,
    status: int | None,
    error: str | None,
) -> None:
    async with running_upstream(behaviour) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3))
        await deliver_all(deliverer)
        (delivery,) = await live.deliveries()
    assert (delivery["state"], delivery["attempts"]) == (state, 1)
    assert (delivery["last_status"], delivery["last_error"]) == (status, error)


async def test_deliveries_of_a_killed_worker_are_taken_over(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3))
        assert len(await claim_deliveries(gateway.database)) == 1
        await deliver_all(deliverer)
        assert receiver.received == []
        await _make_all_due(gateway)
        await deliver_all(deliverer)
        assert len(receiver.received) == 1


async def test_two_workers_send_each_delivery_once(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, signing: SigningSettingsCache
) -> None:
    other = DeliverySender(gateway.database, signing, deliverer.http_client, Metrics())
    async with running_upstream(answer(200)) as receiver:
        tenant = await gateway.add_tenant(twilio.url)
        lives = [await _start(gateway, twilio, tenant, status_callback=receiver.url) for _ in range(12)]
        await asyncio.gather(*(live.send_callbacks(("completed", 3)) for live in lives))
        await asyncio.gather(deliver_all(deliverer), deliver_all(other))
        seen = Counter(dict(request.form)["CallSid"] for request in receiver.received)
    assert seen == Counter(live.record["sid"] for live in lives)


async def test_tenants_take_turns_if_the_limit_is_reached(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.deliver.MAX_CONCURRENT_ATTEMPTS", 2)
    async with running_upstream(answer(200)) as receiver:
        tenants = [await gateway.add_tenant(twilio.url) for _ in range(5)]
        for tenant in tenants:
            for _ in range(2):
                live = await _start(gateway, twilio, tenant, status_callback=receiver.url)
                await live.send_callbacks(("completed", 3))
        in_turn = []
        while await deliverer.step():
            in_turn.append(set(deliverer._in_flight))
            await deliverer.drain()
        seen = Counter(dict(request.form)["CallSid"] for request in receiver.received)
    # Each step takes two deliveries of one tenant, and the next step takes those of the next tenant.
    assert in_turn[:5] == [{tenant.id} for tenant in sorted(tenants, key=lambda tenant: tenant.id)]
    assert len(seen) == 10


async def test_a_receiver_that_hangs_or_is_dead_does_not_delay_other_tenants(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(hang) as hanging, running_upstream(answer(200)) as receiver:
        sick, healthy = await gateway.add_tenant(twilio.url), await gateway.add_tenant(twilio.url)
        for url in (hanging.url, refused_url()):
            stuck = await _start(gateway, twilio, sick, status_callback=url)
            await stuck.send_callbacks(("completed", 3))
        async with gateway.database.begin() as session:
            # Many more than a worker attempts at the same time.
            await session.execute(
                text(
                    "INSERT INTO delivery (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields)"
                    " SELECT gen_random_uuid(), gen_random_uuid(), now(), tenant_id, 'completed', 3, 'msg', status_callback,"
                    " 'POST', '{}' FROM call, generate_series(1, 500) WHERE tenant_id = :sick"
                ),
                {"sick": sick.id},
            )
        working = asyncio.create_task(_repeat(deliverer))
        while len(hanging.received) < 2:
            await asyncio.sleep(0.01)
        live = await _start(gateway, twilio, healthy, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3))
        while await live.states() != {"completed": "delivered"}:
            await asyncio.sleep(0.01)
        # None of the hanging requests has ended, and their number is limited.
        assert not hanging.released.is_set()
        assert 2 <= len(hanging.connections) <= MAX_CONCURRENT_PER_TENANT
        working.cancel()
        hanging.released.set()
        await deliverer.drain()


class _DatabaseThatWaits(Database):
    """A database that waits before each claim until all running attempts of `deliverer` have ended."""

    deliverer: DeliverySender

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        if "claimed AS" in statement:
            await self.deliverer.drain()
        return await super().fetch(statement, *arguments)


async def test_a_step_goes_on_if_all_attempts_end_while_it_claims(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(hang) as receiver:
        tenant = await gateway.add_tenant(twilio.url)
        for _ in range(MAX_CLAIMED_PER_TENANT + 1):
            live = await _start(gateway, twilio, tenant, status_callback=receiver.url)
            await live.send_callbacks(("completed", 3))
        while len(receiver.received) <= MAX_CLAIMED_PER_TENANT:
            await deliverer.step()
            await asyncio.sleep(0.01)
        receiver.released.set()
        working, waiting = deliverer.database, _DatabaseThatWaits(gateway.settings.require_database_url(), pool_size=1)
        waiting.deliverer = deliverer
        deliverer.database = waiting
        assert await deliverer.step()  # the tenant was busy when the step began
        assert not await deliverer.step()
        deliverer.database = working
    await waiting.close()


async def test_a_new_delivery_ends_the_wait_for_a_busy_tenant(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with (
        DeliveryHttpClient(AllowList.parse(LOOPBACK), read_timeout_s=TIMEOUT_S, total_timeout_s=TIMEOUT_S) as patient,
        running_upstream(hang) as hanging,
        running_upstream(answer(200)) as receiver,
        asyncio.timeout(TIMEOUT_S),
    ):
        deliverer.http_client = patient
        busy = await gateway.add_tenant(twilio.url)
        for _ in range(MAX_CLAIMED_PER_TENANT + 1):
            live = await _start(gateway, twilio, busy, status_callback=hanging.url)
            await live.send_callbacks(("completed", 3))
        while len(hanging.received) <= MAX_CLAIMED_PER_TENANT:
            await deliverer.step()
            await asyncio.sleep(0.01)
        deliverer.recheck_interval_s = 10 * TIMEOUT_S
        waiting = asyncio.create_task(deliverer.step())
        other = await _start(gateway, twilio, status_callback=receiver.url)
        await other.send_callbacks(("completed", 3))
        deliverer.wake.set()
        await waiting
        while not receiver.received:
            await deliverer.step()
        await patient.close()  # ends the attempts that hang
        await deliverer.drain()


async def _repeat(deliverer: DeliverySender) -> None:
    while True:
        if not await deliverer.step():
            await asyncio.sleep(0.01)


# ---- without a callback


@pytest.fixture
async def refresher(gateway: Gateway) -> AsyncIterator[CallRefresher]:
    async with running_refresher(gateway, interval=timedelta(seconds=3)) as running:
        yield running


async def _refresh(gateway: Gateway, refresher: CallRefresher, call_id: str) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = NULL"))
        await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = :id"), {"id": call_id})
    await run_step(refresher)


def _ended_call(sid: str, ago: timedelta) -> Behaviour:
    end = (datetime.now(UTC) - ago).strftime("%a, %d %b %Y %H:%M:%S +0000")
    return answer(200, call_resource(sid, status="completed", duration="9", end_time=end, price="-0.02"))


async def test_an_end_without_a_callback_is_delivered_once_after_a_wait(
    gateway: Gateway, deliverer: DeliverySender, refresher: CallRefresher
) -> None:
    sid = "CA" + "e" * 32
    script = (answer(201, call_resource(sid)), _ended_call(sid, timedelta(0)), _ended_call(sid, timedelta(minutes=2)))
    async with running_upstream(*script) as twilio, running_upstream(answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=ALL)
        await live.send_callbacks(("ringing", 1))
        await _refresh(gateway, refresher, live.record["id"])
        assert await live.states() == {"ringing": "pending"}
        async with gateway.database.begin() as session:
            due = text("SELECT refresh_at - now() FROM call WHERE id = :id")
            assert timedelta(seconds=20) < await session.scalar(due, {"id": live.record["id"]}) <= timedelta(seconds=30)
        await _refresh(gateway, refresher, live.record["id"])
        await live.send_callbacks(("completed", 3))
        await _refresh(gateway, refresher, live.record["id"])
        await deliver_all(deliverer)
        assert _statuses(receiver.received) == ["ringing", "completed"]
        fields = dict(receiver.received[1].form)
    assert (fields["CallSid"], fields["CallDuration"], fields["To"]) == (sid, "9", "sip:kate@example.com")
    assert "SequenceNumber" not in fields


async def test_an_end_is_delivered_even_if_twilio_fails_later(gateway: Gateway, refresher: CallRefresher) -> None:
    sid = "CA" + "c" * 32
    async with running_upstream(answer(201, call_resource(sid)), _ended_call(sid, timedelta(0)), error(500, 20500)) as twilio:
        live = await _start(gateway, twilio, status_callback="https://own.example.com/")
        await _refresh(gateway, refresher, live.record["id"])
        assert await live.deliveries() == []
        async with gateway.database.begin() as session:
            ended = text("UPDATE call SET end_time = end_time - interval '1 minute' WHERE id = :id")
            await session.execute(ended, {"id": live.record["id"]})
        await _refresh(gateway, refresher, live.record["id"])
        assert await live.states() == {"completed": "pending"}


async def test_the_end_of_a_call_that_is_deleted_is_delivered(gateway: Gateway, refresher: CallRefresher) -> None:
    sid = "CA" + "b" * 32
    script = (answer(201, call_resource(sid)), _ended_call(sid, timedelta(minutes=2)), answer(204), error(404, 20404))
    async with running_upstream(*script) as twilio:
        live = await _start(gateway, twilio, status_callback="https://own.example.com/")
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET refresh_at = NULL"))
        path = f"/2010-04-01/Accounts/{live.tenant.account_sid}/Calls/{sid}.json"
        assert (await live.tenant.http.delete(path)).status_code == 204
        assert [request.method for request in twilio.received] == ["POST", "GET", "DELETE"]
        await run_step(refresher)
        assert await live.states() == {"completed": "pending"}
        record = (await live.tenant.http.get(f"/v1/calls/{live.record['id']}")).json()
    assert (record["status"], record["price"]) == ("completed", "-0.02")
    async with gateway.database.begin() as session:
        assert await session.scalar(text("SELECT refresh_at FROM call WHERE id = :id"), {"id": record["id"]}) is None


async def test_a_callback_in_time_is_delivered_instead_of_the_polled_end(
    gateway: Gateway, refresher: CallRefresher, deliverer: DeliverySender
) -> None:
    sid = "CA" + "d" * 32
    ended = (_ended_call(sid, timedelta(0)), _ended_call(sid, timedelta(minutes=2)))
    async with running_upstream(answer(201, call_resource(sid)), *ended) as twilio:
        live = await _start(gateway, twilio, status_callback="https://own.example.com/")
        await _refresh(gateway, refresher, live.record["id"])
        await live.send_callbacks(("completed", 3), SipResponseCode="200")
        await _refresh(gateway, refresher, live.record["id"])
        (delivery,) = await live.deliveries()
    assert delivery["fields"]["SipResponseCode"] == "200"


# ---- retry and replay


async def test_a_tenant_can_send_a_delivery_again(gateway: Gateway, twilio: Upstream, deliverer: DeliverySender) -> None:
    async with running_upstream(answer(410), answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url)
        await live.send_callbacks(("completed", 3))
        await deliver_all(deliverer)
        for state in ("gave_up", "delivered"):
            (delivery,) = await live.deliveries()
            assert delivery["state"] == state
            again = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/{delivery['id']}/retry")
            assert (again.status_code, again.json()["state"], again.json()["attempts"]) == (200, "pending", 0)
            await deliver_all(deliverer)
        assert len(receiver.received) == 3
        assert len({request.headers["i-twilio-idempotency-token"] for request in receiver.received}) == 1


async def test_a_delivery_of_another_tenant_or_call_is_not_found(gateway: Gateway, twilio: Upstream) -> None:
    live = await _start(gateway, twilio, status_callback="https://own.example.com/")
    await live.send_callbacks(("completed", 3))
    (delivery,) = await live.deliveries()
    same_tenant = await _start(gateway, twilio, live.tenant)
    intruder = await _start(gateway, twilio)
    for tenant, call_id, slug in (
        (live.tenant, same_tenant.record["id"], "delivery-not-found"),
        (intruder.tenant, intruder.record["id"], "delivery-not-found"),
        (intruder.tenant, live.record["id"], "call-not-found"),
    ):
        answered = await tenant.http.post(f"/v1/calls/{call_id}/deliveries/{delivery['id']}/retry")
        assert (answered.status_code, answered.json()["type"]) == (404, f"urn:callgate:problem:{slug}")
    never = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/{UUID(int=2**128 - 1)}/retry")
    assert never.status_code == 404, "an id of the year 10889"
    nonsense = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/nonsense/retry")
    assert nonsense.status_code == 422


@pytest.mark.parametrize("days", [0, 9, 50, 400, -50])
async def test_a_delivery_of_any_month_is_sent_again(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, days: int
) -> None:
    async with running_upstream(answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=receiver.url, status_callback_event=["ringing", "completed"])
        await live.send_callbacks(*PROGRESS)
        await deliver_all(deliverer)
        moved_id = ids.lowest_call_id_at(datetime.now(UTC) - timedelta(days=days))
        values = {"id": (await live.deliveries())[0]["id"], "moved": moved_id, "at": ids.creation_time_of_id(moved_id)}
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE delivery SET id = :moved, at = :at WHERE id = :id"), values)
            await session.execute(text("UPDATE call_event SET id = :moved, at = :at WHERE id = :id"), values)
        again = await live.tenant.http.post(f"/v1/calls/{live.record['id']}/deliveries/{moved_id}/retry")
        assert again.status_code == 200
        async with asyncio.timeout(30):
            while len(receiver.received) < 3:
                await deliver_all(deliverer)
        assert _statuses(receiver.received) == ["ringing", "completed", "ringing"]
        assert await live.states() == {"ringing": "delivered", "completed": "delivered"}


async def test_replay_sends_deliveries_that_were_given_up_or_all(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender
) -> None:
    async with running_upstream(answer(410)) as dead, running_upstream(answer(200)) as receiver:
        live = await _start(gateway, twilio, status_callback=dead.url)
        others = [await _start(gateway, twilio, live.tenant, status_callback=receiver.url), await _start(gateway, twilio)]
        began = datetime.now(UTC).isoformat()
        for each in (live, *others):
            await each.send_callbacks(("completed", 3))
        await deliver_all(deliverer)

        async def replayed(**body: Any) -> dict[str, Any]:
            answered = await live.tenant.http.post("/v1/deliveries/replay", json=body)
            await deliver_all(deliverer)
            fields: dict[str, Any] = answered.raise_for_status().json()
            return fields

        assert await replayed(since=began) == {"replayed": 1, "continue_since": None}
        assert (len(dead.received), len(receiver.received)) == (2, 1)
        assert await replayed(since=began, failed_only=False) == {"replayed": 2, "continue_since": None}
        assert (len(dead.received), len(receiver.received)) == (3, 2)
        for none_since in (datetime.now(UTC).isoformat(), "9999-12-31T23:59:59Z"):
            assert await replayed(since=none_since) == {"replayed": 0, "continue_since": None}
        assert (await replayed(since="0001-01-01T00:00:00Z"))["continue_since"] is None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/since"),
        ({"since": "2026-11-23T00:00:00"}, "/since"),
        ({"since": "9999-12-31T23:59:59-14:00"}, "/since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "/since"),
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
async def test_an_invalid_replay_is_refused(gateway: Gateway, twilio: Upstream, body: dict[str, Any], pointer: str) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    refused = await tenant.http.post("/v1/deliveries/replay", json=body)
    assert (refused.status_code, [error["pointer"] for error in refused.json()["errors"]]) == (422, [pointer])


async def _add_given_up(gateway: Gateway, live: LiveCall) -> list[UUID]:
    """Adds 1,200 deliveries of the call that were given up. Returns their ids in order."""
    await live.send_callbacks(("completed", 3))
    copied = text(
        "INSERT INTO delivery (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields, state,"
        " next_attempt_at) SELECT :id, call_id, :at, tenant_id, event, position, webhook_id, url, method, fields, 'gave_up',"
        " NULL FROM delivery WHERE state = 'pending' AND call_id = :call_id"
    )
    copies = [uuid7() for _ in range(1200)]
    async with gateway.database.begin() as session:
        await session.execute(
            copied, [{"id": copy, "at": ids.creation_time_of_id(copy), "call_id": live.record["id"]} for copy in copies]
        )
    return sorted(copies)


async def test_a_large_replay_is_done_in_batches(gateway: Gateway, twilio: Upstream, deliverer: DeliverySender) -> None:
    live = await _start(gateway, twilio, status_callback="https://own.example.com/")
    await _add_given_up(gateway, live)
    answered = await live.tenant.http.post("/v1/deliveries/replay", json={"since": "2026-01-01T00:00:00Z"})
    assert answered.json() == {"replayed": 1200, "continue_since": None}


# As when a statement takes longer than its timeout. Cancels what waits for a row that this session has locked.
_CANCEL_WAITING = """
    SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
"""


@pytest.mark.parametrize(("locked", "done"), [(499, 0), (500, 500), (1199, 1000)])
async def test_a_replay_that_fails_later_says_what_is_done_and_where_to_continue(
    gateway: Gateway, twilio: Upstream, deliverer: DeliverySender, locked: int, done: int
) -> None:
    live = await _start(gateway, twilio, status_callback="https://own.example.com/")
    copies = await _add_given_up(gateway, live)

    async def replay(since: str) -> httpx.Response:
        return await live.tenant.http.post("/v1/deliveries/replay", json={"since": since})

    async with gateway.database.begin() as session, asyncio.timeout(TIMEOUT_S):
        await session.execute(text("SELECT FROM delivery WHERE id = :id FOR UPDATE"), {"id": copies[locked]})
        replaying = asyncio.create_task(replay(begin := "2026-01-01T00:00:00Z"))
        while (await session.execute(text(_CANCEL_WAITING))).first() is None:
            await asyncio.sleep(0.01)
        answered = await replaying
    if not done:
        assert (answered.status_code, (await replay(begin)).json()["replayed"]) == (503, 1200)
        return
    continue_since = answered.json()["continue_since"]
    assert answered.json()["replayed"] == done
    assert datetime.fromisoformat(continue_since) == ids.creation_time_of_id(copies[done - 1])
    assert (await replay(continue_since)).json() == {"replayed": 1200 - done, "continue_since": None}


async def test_the_example_has_the_members_of_a_delivery(gateway: Gateway, twilio: Upstream) -> None:
    live = await _start(gateway, twilio, status_callback="https://own.example.com/")
    await live.send_callbacks(("completed", 3))
    document = (await live.tenant.http.get("/openapi.json")).json()
    (example,) = document["components"]["examples"]["deliveries"]["value"]["deliveries"]
    (delivery,) = await live.deliveries()
    assert example.keys() == delivery.keys()
    assert json.dumps(delivery)
