"""Both clients of the unmodified `twilio` package work against the gateway and the simulator on real sockets."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.rest.api.v2010.account.call import CallList

from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.twilio_sdk import SdkClients

BASIC: dict[str, Any] = {"to": "sip:kate@example.com", "from_": "Jack", "url": "http://www.example.com/sipdial.xml"}
NEVER_ENDING_CALL = BASIC | {"to": "sip:forever@example.com"}
STARTED_AT = datetime.now(UTC)
TODAY = STARTED_AT.replace(hour=0, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)

EVERY_PARAMETER: dict[str, Any] = BASIC | {
    "method": "GET",
    "fallback_url": "http://www.example.com/fallback.xml",
    "fallback_method": "GET",
    "status_callback": "http://127.0.0.1:9/progress",
    "status_callback_event": ["initiated", "ringing", "answered", "completed"],
    "status_callback_method": "POST",
    "send_digits": "1234#",
    "timeout": 30,
    "record": True,
    "recording_channels": "dual",
    "recording_status_callback": "http://127.0.0.1:9/recording",
    "recording_status_callback_method": "POST",
    "recording_configuration_id": "configuration",
    "sip_auth_username": "jack",
    "sip_auth_password": "secret & more",
    "machine_detection": "Enable",
    "machine_detection_timeout": 20,
    "recording_status_callback_event": ["in-progress", "completed"],
    "trim": "do-not-trim",
    "caller_id": "jack@example.com",
    "machine_detection_speech_threshold": 2000,
    "machine_detection_speech_end_threshold": 1000,
    "machine_detection_silence_timeout": 4000,
    "async_amd": "true",
    "async_amd_status_callback": "http://127.0.0.1:9/amd",
    "async_amd_status_callback_method": "POST",
    "passports": "eyJ0eXAi",
    "byoc": "BY" + "b" * 32,
    "call_reason": "your order",
    "call_token": "token",
    "recording_track": "both",
    "time_limit": 600,
    "client_notification_url": "http://www.example.com/notify",
    "twiml": "<Response><Say>Hello</Say></Response>",
    "application_sid": "AP" + "a" * 32,
}


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_every_parameter_reaches_twilio_unchanged(sdk: SdkClients, simulator_url: str, tenant: Tenant, how: str) -> None:
    if how == "sync":
        call = await sdk.run(lambda twilio: twilio.calls.create(**EVERY_PARAMETER))
    else:
        call = await sdk.asynchronous.calls.create_async(**EVERY_PARAMETER)
    async with http_client(base_url=simulator_url) as http:
        entry = (await http.get("/_simulator/ledger", params={"account_sid": tenant.account_sid})).json()["entries"][-1]
    assert entry["sid"] == call.sid
    assert EVERY_PARAMETER.keys() == inspect.signature(CallList.create).parameters.keys() - {"self"}
    assert len(entry["form"]) == len(EVERY_PARAMETER)
    masked = {"SipAuthPassword", "CallToken"}
    for name, value in EVERY_PARAMETER.items():
        field = "".join(word.capitalize() for word in name.split("_"))
        given = value if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else str(value)]
        assert entry["form"][field] == given or field in masked, field


async def test_the_resource_has_exactly_twilios_fields(sdk: SdkClients, gateway: Gateway, tenant: Tenant) -> None:
    call = await sdk.asynchronous.calls.create_async(**BASIC)
    async with http_client(base_url=gateway.url, auth=(tenant.account_sid, tenant.key)) as http:
        answer = await http.get(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{call.sid}.json")
        listed = (await http.get(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json")).json()
    resource = answer.json()
    assert len(resource) == 26
    assert listed["calls"][0].keys() == resource.keys()
    assert len(listed) == 9
    assert resource["uri"] == f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{call.sid}.json"
    assert resource["subresource_uris"]["user_defined_messages"] == resource["uri"][:-5] + "/UserDefinedMessages.json"
    assert (resource["queue_time"], resource["price_unit"]) == ("0", "USD")
    assert datetime.strptime(resource["date_created"], "%a, %d %b %Y %H:%M:%S %z").tzinfo is not None


async def test_a_call_is_fetched_from_twilio_until_it_is_priced(gateway: Gateway, fast_simulator_url: str) -> None:
    tenant = await gateway.add_tenant(fast_simulator_url)
    async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk, asyncio.timeout(30):
        call = await sdk.asynchronous.calls.create_async(**BASIC)
        while call.price is None:
            await asyncio.sleep(0.05)
            call = await call.fetch_async()
        assert (call.status, call.price_unit) == ("completed", "USD")
        assert int(call.duration) > 0
        assert call.end_time >= call.start_time
        record = (await tenant.http.get(f"/v1/calls/{call.sid}")).json()
        assert (record["status"], record["price"]) == ("completed", call.price)
        async with http_client() as http:
            await http.post(f"{fast_simulator_url}/_simulator/reset")
        # The simulator no longer has the call, so the answer comes from the record.
        assert (await call.fetch_async()).price == call.price


async def test_lists_page_from_newest_to_oldest_and_back(sdk: SdkClients) -> None:
    created = [(await sdk.asynchronous.calls.create_async(**BASIC)).sid for _ in range(5)]
    assert [call.sid for call in await sdk.run(lambda twilio: twilio.calls.list(page_size=2))] == created[::-1]
    assert [call.sid async for call in await sdk.asynchronous.calls.stream_async(page_size=2)] == created[::-1]
    assert [call.sid for call in await sdk.asynchronous.calls.list_async(limit=3, page_size=2)] == created[:1:-1]

    def page_forward_and_back(twilio: Any) -> tuple[list[str], Any]:
        first = twilio.calls.page(page_size=2)
        assert first.previous_page_url is None
        third = first.next_page().next_page()
        assert third.next_page_url is None
        newest = third.previous_page().previous_page()
        return [call.sid for call in newest], newest.previous_page_url

    assert await sdk.run(page_forward_and_back) == (created[:2:-1], None)


def around_noon() -> datetime:
    """Returns the time of a clock that began at noon when the tests started, so that all calls are on the same day."""
    return TODAY + DAY / 2 + (datetime.now(UTC) - STARTED_AT)


@pytest.fixture(scope="module")
async def listed(gateway: Gateway) -> AsyncIterator[Tenant]:
    """A tenant with three completed calls from Jack and three in progress from Jill."""
    simulator = create_simulator(SimulatorConfig(open_mode=True, speed=100, clock=around_noon))
    async with running_app(simulator) as simulator_url:
        yield await _with_six_calls(gateway, await gateway.add_tenant(simulator_url))


async def _with_six_calls(gateway: Gateway, tenant: Tenant) -> Tenant:
    async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk, asyncio.timeout(30):
        jacks = [await sdk.asynchronous.calls.create_async(**BASIC) for _ in range(3)]
        jills = [await sdk.asynchronous.calls.create_async(**(NEVER_ENDING_CALL | {"from_": "Jill"})) for _ in range(3)]
        while {call.status for call in jacks} != {"completed"} or {call.status for call in jills} != {"in-progress"}:
            await asyncio.sleep(0.05)
            jacks = [await call.fetch_async() for call in jacks]
            jills = [await call.fetch_async() for call in jills]
    return tenant


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"to": "sip:forever@example.com"}, "Jill"),
        ({"to": "sip:nobody@example.com"}, ""),
        ({"from_": "Jack"}, "Jack"),
        ({"status": "in-progress"}, "Jill"),
        ({"status": "completed"}, "Jack"),
        ({"status": "queued"}, ""),
        ({"parent_call_sid": "CA" + "0" * 32}, ""),
        ({"start_time": TODAY}, "both"),
        ({"start_time": TODAY - DAY}, ""),
        ({"start_time_before": TODAY}, ""),
        ({"start_time_before": TODAY + DAY}, "both"),
        ({"start_time_after": TODAY}, "both"),
        ({"start_time_after": TODAY + DAY}, ""),
        ({"end_time": TODAY}, "Jack"),
        ({"end_time": TODAY - DAY}, ""),
        ({"end_time_before": TODAY}, ""),
        ({"end_time_before": TODAY + DAY}, "Jack"),
        ({"end_time_after": TODAY}, "Jack"),
        ({"end_time_after": TODAY + DAY}, ""),
        ({"from_": "Jill", "status": "in-progress", "start_time_after": TODAY, "start_time_before": TODAY + DAY}, "Jill"),
        ({}, "both"),
    ],
)
async def test_filters_work_over_several_pages(gateway: Gateway, listed: Tenant, filters: dict[str, Any], found: str) -> None:
    names = {"both": ["Jill"] * 3 + ["Jack"] * 3, "": []}.get(found, [found] * 3)
    async with SdkClients.opened(gateway.url, listed.account_sid, listed.key) as sdk:
        assert [call._from for call in await sdk.run(lambda twilio: twilio.calls.list(page_size=1, **filters))] == names
        assert [call._from async for call in await sdk.asynchronous.calls.stream_async(page_size=2, **filters)] == names


async def test_a_call_can_be_redirected_ended_and_deleted(gateway: Gateway, fast_simulator_url: str) -> None:
    tenant = await gateway.add_tenant(fast_simulator_url)
    async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk, asyncio.timeout(30):
        call = await sdk.asynchronous.calls.create_async(**NEVER_ENDING_CALL)
        with pytest.raises(TwilioRestException) as too_early:
            await call.delete_async()
        while call.status != "in-progress":
            await asyncio.sleep(0.05)
            call = await call.fetch_async()
        every_other = {
            "url": "http://www.example.com/other.xml",
            "method": "GET",
            "fallback_url": "http://www.example.com/fallback.xml",
            "fallback_method": "GET",
            "status_callback": "http://127.0.0.1:9/progress",
            "status_callback_method": "GET",
            "time_limit": 3600,
        }
        assert (await call.update_async(**every_other)).status == "in-progress"
        assert (await sdk.run(lambda twilio: twilio.calls(call.sid).update(twiml="<Response/>"))).status == "in-progress"
        assert (await sdk.run(lambda twilio: twilio.calls(call.sid).update(status="completed"))).status == "completed"
        with pytest.raises(TwilioRestException) as ended:
            await call.update_async(status="completed")
        assert await call.delete_async()
        with pytest.raises(TwilioRestException) as gone:
            await call.fetch_async()
        assert await sdk.asynchronous.calls.list_async() == []
    codes = [(caught.value.status, caught.value.code) for caught in (too_early, ended, gone)]
    assert codes == [(400, 20009), (400, 21220), (404, 20404)]
    record = (await tenant.http.get(f"/v1/calls/{call.sid}")).json()
    assert record["deleted_at"] is not None
    error_code_of = {"call.updated", "call.deleted"}
    data = [event["data"] for event in await tenant.events(record["id"]) if event["type"] in error_code_of]
    assert [entry.get("parameters", "deleted") for entry in data] == [
        sorted(every_other),
        ["twiml"],
        ["status"],
        "deleted",
    ]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"from_": "Jack Smith"}, 400, 21212),
        ({"to": "kate"}, 400, 21211),
        ({"to": ""}, 400, 21201),
        ({"to": "sip:kate@example.com?" + "x" * 1100}, 400, 21227),
        ({"from_": ""}, 400, 21213),
        ({"url": ""}, 400, 21205),
        ({"url": "not a url"}, 400, 21205),
        ({"timeout": 601}, 400, 21208),
        ({"timeout": "soon"}, 400, 21208),
        ({"send_digits": "x"}, 400, 21206),
        ({"method": "PUT"}, 400, 21209),
        ({"application_sid": "x"}, 400, 21218),
        ({"status_callback": "x"}, 400, 21200),
        ({"twiml": "x" * 4001}, 400, 32018),
        ({"sip_auth_username": "x"}, 400, 21225),
        ({"record": "perhaps"}, 400, 20422),
        ({"to": "sip:fault-refuse-400@example.com"}, 400, 21215),
        ({"to": "sip:fault-refuse-401@example.com"}, 502, 900009),
    ],
)
async def test_refusals_carry_twilios_codes(sdk: SdkClients, change: dict[str, Any], status: int, code: int) -> None:
    with pytest.raises(TwilioRestException) as refused:
        await sdk.asynchronous.calls.create_async(**(BASIC | change))
    assert (refused.value.status, refused.value.code) == (status, code), refused.value.msg


async def test_an_unknown_outcome_is_a_409_that_names_the_record(sdk: SdkClients, gateway: Gateway, tenant: Tenant) -> None:
    with pytest.raises(TwilioRestException) as unknown:
        await sdk.asynchronous.calls.create_async(**(BASIC | {"to": "sip:fault-accept-then-reset@example.com"}))
    assert (unknown.value.status, unknown.value.code) == (409, 900001)
    record = (await tenant.http.get("/v1/calls?execution=unknown")).json()["calls"][0]
    assert record["id"] in unknown.value.msg
