"""Tests every subresource with the synchronous and the asynchronous client of the unmodified `twilio` package."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from twilio.base.exceptions import TwilioRestException

from tests.subresources.conftest import LiveCall
from tests.support.clients import http_client
from tests.support.gateway import Gateway
from tests.support.twilio_sdk import SdkClients
from tests.support.upstream import answer, created, running_upstream

HOOK = "http://www.example.com/hook"
FORKS: dict[str, dict[str, Any]] = {
    "siprec": {
        "name": "fork",
        "connector_name": "recorder",
        "track": "both_tracks",
        "status_callback": HOOK,
        "parameter1_name": "order",
        "parameter1_value": "4711",
        "parameter99_name": "last",
        "parameter99_value": "one",
    },
    "streams": {"url": "wss://www.example.com/media", "name": "fork", "track": "inbound_track", "parameter1_name": "a"},
    "transcriptions": {"name": "fork", "track": "both_tracks", "partial_results": True, "hints": "kate, jack"},
}


async def test_recordings_are_started_listed_changed_and_deleted(sdk: SdkClients, call: LiveCall) -> None:
    def work(twilio: Any) -> None:
        recordings = twilio.calls(call.sid).recordings
        made = [recordings.create(recording_channels="dual", recording_status_callback_event=["completed"]) for _ in range(5)]
        assert {one.channels for one in made} == {2}
        assert [one.sid for one in recordings.list(page_size=2)] == [one.sid for one in made[::-1]]
        assert len(list(recordings.stream(limit=4, page_size=3))) == 4
        second = recordings.page(page_size=2).next_page()
        assert [one.sid for one in second.previous_page()] == [made[4].sid, made[3].sid]
        assert recordings("Twilio.CURRENT").update("paused", pause_behavior="silence").sid == made[4].sid
        assert recordings("Twilio.CURRENT").update("in-progress").sid == made[4].sid
        assert recordings(made[0].sid).fetch().status == "in-progress"
        assert recordings(made[0].sid).update("stopped").status == "stopped"
        assert recordings(made[0].sid).delete() is True
        with pytest.raises(TwilioRestException) as missing:
            recordings(made[0].sid).fetch()
        assert (missing.value.status, missing.value.code) == (404, 20404)

    await sdk.run(work)


async def test_filters_with_an_operator_in_the_name_are_forwarded(sdk: SdkClients, call: LiveCall) -> None:
    recordings = sdk.asynchronous.calls(call.sid).recordings
    made = await recordings.create_async()
    today = datetime.now(UTC).date()
    tomorrow, yesterday = today + timedelta(days=1), today - timedelta(days=1)
    for filters, found in (
        ({"date_created_after": yesterday}, [made.sid]),
        ({"date_created_after": tomorrow + timedelta(days=1)}, []),
        ({"date_created_before": tomorrow + timedelta(days=1)}, [made.sid]),
        ({"date_created_before": yesterday}, []),
        ({"date_created": yesterday - timedelta(days=9)}, []),
    ):
        assert [one.sid for one in await recordings.list_async(**filters)] == found, filters


async def test_notifications_are_listed_and_fetched(sdk: SdkClients, call: LiveCall) -> None:
    sid = await call.add_notification(error_code="15003", log="1")
    await call.add_notification(error_code="11200", log="0")
    notifications = sdk.asynchronous.calls(call.sid).notifications
    assert [one.error_code for one in await notifications.list_async(page_size=1)] == ["11200", "15003"]
    assert [one.sid for one in await notifications.list_async(log=1)] == [sid]
    fetched = await sdk.run(lambda twilio: twilio.calls(call.sid).notifications(sid).fetch())
    assert (fetched.error_code, fetched.call_sid) == ("15003", call.sid)


async def test_twilios_events_are_listed(sdk: SdkClients, call: LiveCall) -> None:
    events = await sdk.run(lambda twilio: twilio.calls(call.sid).events.list())
    assert [event.request["method"] for event in events] == ["POST"]


async def test_payments_are_taken_step_by_step(sdk: SdkClients, call: LiveCall) -> None:
    payments = sdk.asynchronous.calls(call.sid).payments
    made = await payments.create_async(
        idempotency_key="one", status_callback=HOOK, charge_amount=9.99, postal_code=False, parameter={"order": 4711}
    )
    again = await sdk.run(lambda twilio: twilio.calls(call.sid).payments.create(idempotency_key="one", status_callback=HOOK))
    assert made.sid == again.sid
    changed = await payments(made.sid).update_async(idempotency_key="two", status_callback=HOOK, capture="payment-card-number")
    assert changed.sid == made.sid


@pytest.mark.parametrize("kind", FORKS)
async def test_a_stream_is_started_and_stopped_by_sid_or_name(sdk: SdkClients, call: LiveCall, kind: str) -> None:
    forks = getattr(sdk.asynchronous.calls(call.sid), kind)
    made = await forks.create_async(**FORKS[kind])
    assert (made.status, made.name) == ("in-progress", "fork")
    stopped = await sdk.run(lambda twilio: getattr(twilio.calls(call.sid), kind)("fork").update(status="stopped"))
    assert (stopped.sid, stopped.status) == (made.sid, "stopped")
    assert (await forks(made.sid).update_async(status="stopped")).status == "stopped"


async def test_messages_are_sent_and_subscribed_to(sdk: SdkClients, call: LiveCall) -> None:
    subscriptions = sdk.asynchronous.calls(call.sid).user_defined_message_subscriptions
    made = await subscriptions.create_async(callback=HOOK, method="POST")
    assert await sdk.run(lambda twilio: twilio.calls(call.sid).user_defined_message_subscriptions(made.sid).delete())
    sent = await sdk.run(lambda twilio: twilio.calls(call.sid).user_defined_messages.create(content='{"hello": "kate"}'))
    assert sent.sid.startswith("KX")


async def test_a_refusal_by_twilio_has_its_status_and_code(sdk: SdkClients, call: LiveCall) -> None:
    with pytest.raises(TwilioRestException) as missing:
        await sdk.asynchronous.calls(call.sid).streams("nobody").update_async(status="stopped")
    assert (missing.value.status, missing.value.code) == (404, 20404)
    await sdk.asynchronous.calls(call.sid).update_async(status="completed")
    with pytest.raises(TwilioRestException) as ended:
        await sdk.run(lambda twilio: twilio.calls(call.sid).recordings.create())
    assert (ended.value.status, ended.value.code) == (400, 21220)


@pytest.mark.parametrize("below", ["account", "call"])
async def test_links_to_media_return_the_audio(gateway: Gateway, sdk: SdkClients, call: LiveCall, below: str) -> None:
    """Checks the URLs that Twilio's guides use: the recording's URI with another ending, or a path below the account."""
    recording = await sdk.asynchronous.calls(call.sid).recordings.create_async()
    path = recording.uri if below == "call" else recording.uri.replace(f"/Calls/{call.sid}", "")
    async with http_client(base_url=gateway.url, auth=(call.tenant.account_sid, call.tenant.key)) as http:
        described = await http.get(path)
        assert (described.status_code, described.json()["sid"]) == (200, recording.sid)
        sound = await http.get(path.replace(".json", ".wav"))
        assert (sound.status_code, sound.headers["content-type"], sound.content[:4]) == (200, "audio/x-wav", b"RIFF")
        if below == "account":
            url = path.removesuffix(".json")
            assert (await http.get(url)).content == sound.content
            assert (await http.get(url, headers={"Accept": "application/json"})).json()["sid"] == recording.sid
        part = await http.get(path.replace(".json", ".mp3"), headers={"Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, sound.content[4:8])
        assert part.headers["content-range"] == f"bytes 4-7/{len(sound.content)}"
        beyond = await http.get(path.replace(".json", ".mp3"), headers={"Range": f"bytes={len(sound.content)}-"})
        assert beyond.status_code == 416


async def test_a_recording_below_the_account_is_read_with_the_requests_parameters(gateway: Gateway) -> None:
    sid = f"CA{uuid4().hex}"
    recording = {"sid": f"RE{uuid4().hex}", "call_sid": sid}
    async with running_upstream(created(sid=sid), answer(200, recording)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).json()["sid"] == sid
        async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk:
            await sdk.run(lambda twilio: twilio.recordings(recording["sid"]).fetch(include_soft_deleted=True))
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Recordings/{recording['sid']}"
        query = "?IncludeSoftDeleted=true"
        described = await tenant.http.get(path + query, headers={"Accept": "application/json"})
        assert (described.status_code, described.json()) == (200, recording)
        assert [request.path for request in upstream.received[1:]] == [f"{path}.json{query}"] * 2
