"""Tests the simulator with the unmodified `twilio` package."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from tests.simulator.running import OPEN_SID, REGISTERED, START, Running

ALL_EVENTS = ["initiated", "ringing", "answered", "completed"]


def sdk(simulator: Running, username: str, password: str, account_sid: str | None = None) -> Client:
    http_client = TwilioHttpClient(timeout=10)
    assert http_client.session is not None
    http_client.session.trust_env = False
    client = Client(username, password, account_sid, http_client=http_client)
    client.api.base_url = simulator.url
    return client


def close(client: Client) -> None:
    assert isinstance(client.http_client, TwilioHttpClient)
    assert client.http_client.session is not None
    client.http_client.session.close()


@pytest.fixture
def twilio(simulator: Running) -> Iterator[Client]:
    client = sdk(simulator, OPEN_SID, "any")
    yield client
    close(client)


def test_a_sip_call_from_queued_to_priced(simulator: Running, twilio: Client) -> None:
    call = twilio.calls.create(
        to="sip:kate@example.com?X-hatchkey=4815162342",
        from_="Jack",
        url="http://www.example.com/sipdial.xml",
        status_callback_event=ALL_EVENTS,
        record=True,
    )
    assert (call.status, call.date_created, call.direction, call.queue_time) == ("queued", None, "outbound-api", "0")
    seen = [(call.status, call.price)]
    for _ in range(60):
        fetched = twilio.calls(call.sid).fetch()
        if (fetched.status, fetched.price) != seen[-1]:
            seen.append((fetched.status, fetched.price))
        simulator.clock.advance(1)
    assert seen == [
        ("queued", None),
        ("ringing", None),
        ("in-progress", None),
        ("completed", None),
        ("completed", "-0.00750"),
    ]
    assert fetched.date_created == START
    assert fetched.start_time == START + timedelta(seconds=1)
    assert 5 <= int(fetched.duration) <= 30


def test_listing_pages_from_newest_to_oldest(twilio: Client) -> None:
    created = [twilio.calls.create(to=f"sip:u{n}@example.com", from_="Jack", twiml="<Response/>").sid for n in range(5)]
    assert [call.sid for call in twilio.calls.list(page_size=2)] == created[::-1]
    first = twilio.calls.page(page_size=2)
    assert first.previous_page_url is None
    second = first.next_page()
    assert second is not None
    back = second.previous_page()
    assert back is not None
    assert [call.sid for call in back] == created[:2:-1]
    assert back.previous_page_url is None


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"to": "sip:forever@example.com"}, ["for"]),
        ({"from_": "Jill"}, ["bob"]),
        ({"status": "queued"}, ["bob"]),
        ({"status": "in-progress"}, ["for"]),
        ({"start_time": START}, ["for"]),
        ({"start_time_after": START}, ["for"]),
        ({"start_time_after": START + timedelta(days=1)}, []),
        ({"start_time_before": START + timedelta(days=1)}, ["for"]),
        ({"start_time_before": START}, []),
        ({"end_time_after": START}, []),
        ({"parent_call_sid": "CA" + "0" * 32}, []),
        ({}, ["bob", "for"]),
    ],
)
def test_filters(simulator: Running, twilio: Client, filters: dict[str, str], found: list[str]) -> None:
    twilio.calls.create(to="sip:forever@example.com", from_="Jack", twiml="<Response/>")
    simulator.clock.advance(10)
    twilio.calls.create(to="sip:bob@example.com", from_="Jill", twiml="<Response/>")
    assert [call.to[4:7] for call in twilio.calls.list(**filters)] == found


def test_cancel_complete_redirect_and_delete(simulator: Running, twilio: Client) -> None:
    queued = twilio.calls.create(to="sip:forever@example.com", from_="Jack", twiml="<Response/>")
    assert queued.update(status="canceled").status == "canceled"

    call = twilio.calls.create(to="sip:forever@example.com", from_="Jack", twiml="<Response/>")
    simulator.clock.advance(1)
    with pytest.raises(TwilioRestException) as too_early:
        call.update(twiml="<Response><Hangup/></Response>")
    simulator.clock.advance(6)
    assert call.update(status="canceled").status == "in-progress"
    assert call.update(url="http://www.example.com/other.xml").status == "in-progress"
    with pytest.raises(TwilioRestException) as not_ended:
        call.delete()
    simulator.clock.advance(100)
    assert call.update(status="completed").status == "completed"
    with pytest.raises(TwilioRestException) as ended:
        call.update(status="completed")
    assert call.delete()
    with pytest.raises(TwilioRestException) as gone:
        call.fetch()
    assert [caught.value.code for caught in (too_early, not_ended, ended, gone)] == [21220, 20009, 21220, 20404]
    assert [call.sid for call in twilio.calls.list()] == [queued.sid]


@pytest.mark.parametrize(
    ("username", "password", "admitted"),
    [
        (REGISTERED.sid, "the-auth-token", True),
        ("SK" + "1" * 32, "the-key-secret", True),
        (REGISTERED.sid, "the-key-secret", False),
        ("SK" + "1" * 32, "the-auth-token", False),
        ("SK" + "2" * 32, "the-key-secret", False),
        (OPEN_SID, "the-auth-token", False),
    ],
)
def test_a_registered_account_accepts_only_its_credentials(
    simulator: Running, username: str, password: str, admitted: bool
) -> None:
    client = sdk(simulator, username, password, REGISTERED.sid)
    try:
        if admitted:
            assert client.calls.list() == []
        else:
            with pytest.raises(TwilioRestException) as caught:
                client.calls.create(to="sip:kate@example.com", from_="Jack", twiml="<Response/>")
            assert (caught.value.status, caught.value.code) == (401, 20003)
            assert caught.value.msg.endswith("Authenticate")
    finally:
        close(client)
