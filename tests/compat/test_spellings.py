"""Tests that Callgate accepts every spelling of a parameter that Twilio accepts and that SDKs, `requests` or people send."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from app.compat.errors import TwilioErrorRenderer
from app.errors import CallgateError, FieldError, InvalidRequest, error_classes_by_slug
from tests.compat.test_promises import FORM, basic, calls, create, error_code_of
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant
from tests.support.twilio_sdk import SdkClients
from tests.support.upstream import answer, call_resource, created, running_upstream

SPECIFICATION: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "twilio_operations.json").read_text())
# The specification declares a string, but the parameter's description and its users treat it as a boolean.
BOOLEAN_BY_DESCRIPTION = {("/Calls.json", "AsyncAmd")}
CALLER = "sip:kate@example.com"


def is_boolean(path: str, name: str, fact: dict[str, Any]) -> bool:
    return fact.get("type") == "boolean" or fact.get("enum") == ["true", "false"] or (path, name) in BOOLEAN_BY_DESCRIPTION


def booleans() -> Iterator[tuple[str, str]]:
    for operation in SPECIFICATION:
        for name, fact in operation["parameters"].items():
            if is_boolean(operation["path"], name, fact):
                assert operation["method"] == "POST"
                yield operation["path"], name


async def send(tenant: Tenant, method: str, rest: str, **named: Any) -> httpx.Response:
    return await tenant.http.request(method, calls(tenant, rest), **named)


async def listed(tenant: Tenant, query: str) -> list[str]:
    """Returns the SIDs of the listed calls. `query` is sent without further encoding."""
    response = await tenant.http.get(f"{calls(tenant)}?{query}")
    return [call["sid"] for call in response.raise_for_status().json()["calls"]]


def test_several_operations_have_booleans() -> None:
    assert len({path for path, _ in booleans()}) == 3
    assert len(list(booleans())) == 9


@pytest.mark.parametrize(("path", "name"), list(booleans()))
async def test_every_boolean_is_accepted_in_every_spelling(gateway: Gateway, path: str, name: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        rest = path.removeprefix("/Calls").replace("{CallSid}", sid)
        form = FORM if path == "/Calls.json" else {"StatusCallback": "http://www.example.com/hook"}
        for spelling in ("True", "TRUE", "true", "False", "FALSE", "false"):
            answered = await send(tenant, "POST", rest, data=form | {name: spelling})
            assert answered.is_success, answered.text
            assert dict(upstream.posts[-1].form)[name] == spelling.lower()
        refused = await send(tenant, "POST", rest, data=form | {name: "perhaps"})
        # Twilio validates requests below a call.
        assert error_code_of(refused) == (400, 20422) if path == "/Calls.json" else refused.is_success


async def test_python_booleans_are_accepted_from_requests_and_from_the_sdk(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        user = (tenant.account_sid, tenant.key)
        form = FORM | {"AsyncAmd": True, "Record": False}
        post = await asyncio.to_thread(requests.post, gateway.url + calls(tenant), data=form, auth=user, timeout=30)
        assert post.status_code == 201, post.text
        async with SdkClients.opened(gateway.url, *user) as sdk:
            named: Any = {"to": CALLER, "from_": "Jack", "twiml": "<Response/>", "async_amd": True, "record": False}
            await sdk.run(lambda twilio: twilio.calls.create(**named))
        for sent in upstream.posts:
            assert (dict(sent.form)["AsyncAmd"], dict(sent.form)["Record"]) == ("true", "false")


@pytest.mark.parametrize("user", ["AC" + "e" * 32, "SK" + "e" * 32])
async def test_a_subaccounts_path_accepts_a_main_account_or_an_api_key_as_user(gateway: Gateway, user: str) -> None:
    """The SDK sends such a user for `Client(main_sid, token, sub_sid)` and for `Client(key_sid, secret, sub_sid)`."""
    async with running_upstream(created()) as upstream:
        tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        async with SdkClients.opened(gateway.url, user, tenant.key, tenant.account_sid) as sdk:
            assert (await sdk.run(lambda twilio: twilio.calls.create(to=CALLER, from_="Jack", url=FORM["Url"]))).sid
            assert len(await sdk.asynchronous.calls.list_async()) == 1
        for password, path, expected in (
            ("wrong", calls(tenant), (401, 20003)),
            (tenant.auth_token, calls(tenant), (401, 20003)),
            (tenant.key, calls(other), (404, 20404)),
        ):
            async with http_client(base_url=gateway.url) as http:
                refused = await http.get(path, headers={"Authorization": basic(user, password)})
            assert error_code_of(refused) == expected


async def test_a_page_number_without_a_token_is_refused_as_at_twilio(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        made = [(await create(tenant)).json()["sid"] for _ in range(3)]
        for query in ("Page=1", "Page=7&PageSize=1", "Page=1&PageToken="):
            refused = await send(tenant, "GET", f".json?{query}")
            assert error_code_of(refused) == (400, 20001)
            assert "PageToken" in refused.json()["message"]
        assert await listed(tenant, "Page=0&PageSize=2") == made[:0:-1]
        first = (await send(tenant, "GET", ".json?PageSize=2")).json()
        second = (await tenant.http.get(first["next_page_uri"])).json()
        assert (second["page"], [call["sid"] for call in second["calls"]]) == (1, made[:1])


NUMBERS = ["%2B14155550100", "14155550100", "+14155550100", "4155550100", "(415)%20555-0100", "%2B1%20415%20555%200100"]
NUMBERS += ["+1+415+555+0100", "415-555-0100", "415.555.0100"]


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_number_filter_matches_in_any_notation(gateway: Gateway, number: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant, To="+14155550100", From="+14155550199")).json()["sid"]
        await create(tenant, To="+14155550101", From="+14155550198")
        assert await listed(tenant, f"To={number}") == [sid]
        assert await listed(tenant, f"From={number.replace('100', '199')}") == [sid]


async def test_filters_by_other_addresses_are_exact(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sips = {
            to: (await create(tenant, To=to)).json()["sid"] for to in (CALLER, "sip:+1415@example.com", "sip:1415@example.com")
        }
        swiss = (await create(tenant, To="+41445550100", From="+14155550100")).json()["sid"]
        plain = (await create(tenant, From="14155550100")).json()["sid"]
        assert await listed(tenant, "To=sip:+1415@example.com") == [sips["sip:+1415@example.com"]]
        assert await listed(tenant, "To=sip%3A1415%40example.com") == [sips["sip:1415@example.com"]]
        assert await listed(tenant, "To=41445550100") == [swiss]
        assert await listed(tenant, "To=+41445550100") == [swiss]
        # The caller of a SIP call is text, even if it looks like a number.
        assert await listed(tenant, "From=14155550100") == [plain, swiss]


def leg(parent: str, account_sid: str, **fields: Any) -> dict[str, Any]:
    return call_resource(parent_call_sid=parent, account_sid=account_sid, direction="outbound-dial", **fields)


async def test_child_legs_come_from_twilio(gateway: Gateway) -> None:
    """TwiML's `<Dial>` creates child legs, so Callgate has no record of them."""
    async with running_upstream(created()) as upstream:
        tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        theirs = (await create(other)).json()["sid"]
        following = f"{calls(tenant)}?ParentCallSid={sid}&PageSize=1&Page=1&PageToken=PACA1"
        legs = [leg(sid, tenant.account_sid), leg(sid, tenant.account_sid), leg(theirs, tenant.account_sid)]
        pages = [{"calls": [legs[0]], "next_page_uri": following}, {"calls": legs[1:], "next_page_uri": None}]
        upstream.script[:] = [answer(200, page) for page in pages]
        async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk:
            found = await sdk.run(lambda twilio: twilio.calls.list(parent_call_sid=sid, status="completed", page_size=1))
        assert [(call.sid, call.parent_call_sid) for call in found] == [(leg["sid"], sid) for leg in legs[:2]]
        asked = [request.path.partition("?")[2] for request in upstream.received if request.method == "GET"]
        assert asked == [f"ParentCallSid={sid}&Status=completed&PageSize=1", following.partition("?")[2]]


async def test_child_legs_of_another_tenants_call_are_not_shown(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        theirs = (await create(other)).json()["sid"]
        upstream.script[:] = [answer(200, {"calls": [leg(theirs, tenant.account_sid)], "next_page_uri": None})]
        asked = len(upstream.received)
        assert await listed(tenant, f"ParentCallSid={theirs}") == []
        assert len(upstream.received) == asked


async def test_child_legs_are_unavailable_while_twilio_is_unreachable(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        upstream.script[:] = [answer(500, {})]
        assert error_code_of(await send(tenant, "GET", f".json?ParentCallSid={sid}")) == (503, 20503)


@pytest.mark.parametrize(
    ("name", "given", "sent", "warned"),
    [
        ("StatusCallbackEvent", ["initiated", "no-answer", "busy", "failed", "canceled"], ["initiated"], 21626),
        ("StatusCallbackEvent", ["completed", "completed"], ["completed"], None),
        ("StatusCallbackEvent", ["initiated ringing", "ringing"], ["initiated", "ringing"], None),
        ("StatusCallbackEvent", ["failed"], [], 21626),
        ("StatusCallbackEvent", ["something-new"], [], 21626),
        ("StatusCallbackEvent", ["settled", "ringing"], ["ringing"], 21626),
        ("RecordingStatusCallbackEvent", ["completed", "failed", "completed"], ["completed"], 13621),
        ("MachineDetection", ["Disable"], [], 21234),
        ("MachineDetection", ["disable"], [], 21234),
        ("MachineDetection", ["enable"], ["Enable"], None),
        ("MachineDetection", ["ENABLE"], ["Enable"], None),
        ("MachineDetection", ["detectmessageend"], ["DetectMessageEnd"], None),
    ],
)
async def test_values_that_twilio_ignores_are_ignored_with_its_warning(
    gateway: Gateway, name: str, given: Any, sent: list[str], warned: int | None
) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answered = await send(tenant, "POST", ".json", data=FORM | {name: given})
        assert answered.status_code == 201, answered.text
        assert [value for key, value in upstream.posts[0].form if key == name] == sent
        warnings = answered.headers.get_list("Callgate-Warning")
        assert [warning.partition(":")[0] for warning in warnings] == ([f"{name} {warned}"] if warned else [])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"MachineDetection": "perhaps"}, 21234),
        ({"MachineDetectionTimeout": "soon"}, 21234),
        ({"MachineDetectionSpeechThreshold": "1"}, 21234),
        ({"MachineDetectionSpeechEndThreshold": "1"}, 21234),
        ({"MachineDetectionSilenceTimeout": "1"}, 21234),
        ({"To": "sip:kate@example.com?X%20A=1"}, 21228),
        ({"To": "sip:kate@example.com?X-A;=1"}, 21228),
        ({"To": "sip:kate@example.com?X{a}=b"}, 21228),
        ({"To": "sip:kate@example.com?=b"}, 21228),
        ({"To": "sip:kate@example.com?X-A=1;2"}, 21229),
        ({"To": "sip:kate@example.com?X-A"}, 21229),
    ],
)
async def test_refused_values_have_twilios_code(gateway: Gateway, fields: dict[str, str], code: int) -> None:
    assert error_code_of(await create(await gateway.add_tenant(), **fields)) == (400, code)


UNKNOWN_NAMES = ["StartTime%3C%3D2000-01-01", "StartTime%3C%3D2000-01-01=", "starttime=2000-01-01", "Foo", "Foo=", "=x"]


@pytest.mark.parametrize("pair", UNKNOWN_NAMES)
async def test_every_parameter_name_is_checked_whatever_its_value(gateway: Gateway, pair: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        form = str(httpx.QueryParams(FORM))
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        update = f"Status=completed&{pair}"
        asked = len(upstream.received)
        for refused in (
            await send(tenant, "GET", f".json?{pair}"),
            await send(tenant, "POST", ".json", content=f"{form}&{pair}", headers=headers),
            await send(tenant, "POST", f".json?{pair}", content=form, headers=headers),
            await send(tenant, "POST", f"/{sid}.json", content=update, headers=headers),
            await send(tenant, "POST", f"/{sid}.json?{pair}", content="Status=completed", headers=headers),
            await send(tenant, "GET", f"/{sid}.json?{pair}"),
            await send(tenant, "DELETE", f"/{sid}.json?{pair}"),
        ):
            assert error_code_of(refused) == (400, 20001), refused.url
        assert len(upstream.received) == asked


async def test_many_urls_with_user_names_are_refused_below_a_call_too(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        urls = " ".join(f"https://u{number}:p@h.example" for number in range(9))
        asked = len(upstream.received)
        for refused in (
            await send(tenant, "GET", f"/{sid}/Recordings.json", params={"PageToken": urls}),
            await send(tenant, "POST", f"/{sid}/Recordings.json", data={"Newer": urls}),
        ):
            assert refused.status_code == 400
            assert "at most 8 different user names" in refused.json()["message"]
        assert len(upstream.received) == asked


async def test_an_encoded_equals_sign_is_refused_below_a_call_too(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await create(tenant)).json()["sid"]
        refused = await send(tenant, "GET", f"/{sid}/Recordings.json?DateCreated%3C%3D2000-01-01")
        assert error_code_of(refused) == (400, 20001)
        assert "DateCreated<=2000-01-01" in refused.json()["message"]
        form = {"RecordingChannels=dual": ""}
        assert error_code_of(await send(tenant, "POST", f"/{sid}/Recordings.json", data=form)) == (400, 20001)
        assert error_code_of(await send(tenant, "POST", f"/{sid}/Recordings.json?RecordingChannels=dual")) == (400, 20001)
        # An unknown name is forwarded with any value: Twilio may have added it.
        upstream.script[:] = [answer(200, {"recordings": []})]
        assert (await send(tenant, "GET", f"/{sid}/Recordings.json?Newer=&PageSize=7")).is_success
        assert upstream.received[-1].path.endswith("/Recordings.json?Newer=&PageSize=7")


@pytest.mark.parametrize(
    ("written", "dialled"),
    [
        ("(415) 555-0100", "+14155550100"),
        ("415-555-0100", "+14155550100"),
        ("4155550100", "+14155550100"),
        ("14155550100", "+14155550100"),
        ("1 (415) 555-0100", "+14155550100"),
        ("+1 (415) 555-0100", "+14155550100"),
        ("+44 20 7183 8750", "+442071838750"),
        ("+39 06 12345678", "+390612345678"),
        ("+225 01 02 03 04 05", "+2250102030405"),
        ("+999 123 456", "+999123456"),
        (" +442071838750", "+442071838750"),
        (" 442071838750", "+442071838750"),
        (" 14155550100", "+14155550100"),
        ("+14155550100", "+14155550100"),
    ],
)
async def test_numbers_in_documented_formats_are_dialled_as_e164(gateway: Gateway, written: str, dialled: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answered = await create(tenant, To=written, From=written)
        assert answered.status_code == 201, answered.text
        sent = dict(upstream.posts[0].form)
        assert (sent["To"], sent["From"]) == (dialled, dialled)
        record = (await tenant.http.get(f"/v1/calls/{answered.headers['Callgate-Call-Id']}")).json()
        assert (record["to"], record["from"]) == (dialled, dialled)
        # /v1 accepts only E.164, and its error suggests the number.
        strict = await tenant.create(to=written, **{"from": "+14155550199"})
        if written == dialled:
            assert strict.status_code == 201
        else:
            assert strict.status_code == 422
            assert dialled in strict.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("written", "guess"),
    [
        ("442071838750", "+442071838750"),
        ("00442071838750", "+442071838750"),
        ("011 44 20 7183 8750", "+442071838750"),
        ("+44 (0)20 7183 8750", "+442071838750"),
        ("+44 (020) 7183 8750", "+442071838750"),
        ("+49 (030) 1234567", "+49301234567"),
        (" 49 (030) 1234567", "+49301234567"),
        ("0049 (030) 1234567", "+49301234567"),
        ("+1 1 415 555 0100", "+14155550100"),
        ("tel:+14155550100", "+14155550100"),
        ("+49/30/5550100", "+49305550100"),
        (" 4155550100", "+14155550100"),
        (" 530-751-9120", "+15307519120"),
        ("020 7183 8750", None),
        ("115-555-0100", None),
        ("911", None),
        ("1-800-FLOWERS", None),
        ("+14155550100x12", None),
        ("kate", None),
    ],
)
async def test_other_number_formats_are_refused_with_a_suggested_number(
    gateway: Gateway, written: str, guess: str | None
) -> None:
    tenant = await gateway.add_tenant()
    refused = await create(tenant, To=written, From="+14155550199")
    assert error_code_of(refused) == (400, 21211)
    message = refused.json()["message"]
    assert (f"Write {guess}" in message) if guess else ("Write +" not in message)
    of_caller = await create(tenant, To="+14155550100", From=written)
    assert error_code_of(of_caller) == (400, 21212)
    assert (f"Write {guess}" in of_caller.json()["message"]) == (guess is not None)


async def test_the_caller_of_a_sip_call_is_forwarded_unchanged(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await create(tenant, From="14155550100")).status_code == 201
        assert dict(upstream.posts[0].form)["From"] == "14155550100"
        assert error_code_of(await create(tenant, From="(415) 555-0100")) == (400, 21212)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Timeout": "601"}, "Timeout: must be at most 600."),
        ({"Timeout": "soon"}, "Timeout: must be a whole number."),
        ({"Method": "PUT"}, "Method: must be GET or POST."),
        ({"Record": "perhaps"}, "Record: must be true or false."),
        ({"Twiml": "x" * 4001}, "Twiml: must have at most 4000 characters."),
        ({"SipAuthUsername": "x"}, "SipAuthPassword: Give SipAuthPassword as well: a user name needs one (21225)."),
        ({"Url": "", "Method": "GET"}, "Url: one of Url, Twiml and ApplicationSid is required"),
        ({"To": "+14155550100"}, "unless To is a SIP URI."),
        ({"Timeout": "601", "From": "J J"}, "Timeout: must be at most 600. From: Use only letters"),
    ],
)
async def test_messages_use_twilios_parameter_names(gateway: Gateway, fields: dict[str, str], message: str) -> None:
    refused = await create(await gateway.add_tenant(), **fields)
    text = refused.json()["message"]
    assert message in text
    assert not [phrase for phrase in ("Input should", "String should", "..", ".;", "`", "sip_auth") if phrase in text]


@pytest.mark.parametrize("error", error_classes_by_slug().values(), ids=error_classes_by_slug())
def test_no_error_message_names_a_member_of_v1(error: type[CallgateError]) -> None:
    faults = (FieldError("/to", "missing", "is required"),) if error is InvalidRequest else ()
    refusal = TwilioErrorRenderer().render(
        error(field_errors=faults), method="POST", path="/2010-04-01/Accounts/AC/Calls.json", state={"request_id": "r"}
    )
    message = json.loads(bytes(refusal.body))["message"]
    assert not re.search(r"upstream|[a-z]_[a-z]|`errors`|\.\.", message.replace("/2010-04-01", "")), message


async def test_a_twilio_refusal_without_a_message_names_no_member(gateway: Gateway) -> None:
    refusal = answer(400, {"code": 21215}, headers={"Twilio-Request-Id": "RQ" + "e" * 32})
    async with running_upstream(refusal) as upstream:
        refused = await create(await gateway.add_tenant(upstream.url))
    assert error_code_of(refused) == (400, 21215)
    assert "upstream" not in refused.json()["message"]
