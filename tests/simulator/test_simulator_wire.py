"""Tests the simulator's requests and responses as they are sent over HTTP."""

import inspect
import json
import re
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from twilio.rest.api.v2010.account.call import CallList

from simulator.config import SimulatorConfig
from simulator.resource import SUBRESOURCE_SEGMENTS
from tests.simulator.running import OPEN_SID, Running, plain_client, serve

DATA = Path(__file__).resolve().parents[1] / "data"

SIP_DIAL = {"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}

# The 26 properties of api.v2010.account.call in twilio-oai.
CALL_KEYS = {
    *("account_sid", "answered_by", "api_version", "caller_name", "date_created", "date_updated", "direction"),
    *("duration", "end_time", "forwarded_from", "from", "from_formatted", "group_sid", "parent_call_sid"),
    *("phone_number_sid", "price", "price_unit", "queue_time", "sid", "start_time", "status", "subresource_uris"),
    *("to", "to_formatted", "trunk_sid", "uri"),
}


def test_a_new_call_is_queued_and_nearly_everything_is_null(calls: httpx.Client) -> None:
    answer = calls.post("/Calls.json", data=SIP_DIAL)
    call = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch(r"RQ[0-9a-f]{32}", answer.headers["Twilio-Request-Id"])
    assert call.keys() == CALL_KEYS | {"annotation"}
    assert re.fullmatch(r"CA[0-9a-f]{32}", call["sid"])
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls/{call['sid']}"
    assert {key: value for key, value in call.items() if value is not None} == {
        "account_sid": OPEN_SID,
        "api_version": "2010-04-01",
        "direction": "outbound-api",
        "from": "Jack",
        "from_formatted": "Jack",
        "price_unit": "USD",
        "queue_time": "0",
        "sid": call["sid"],
        "status": "queued",
        "subresource_uris": {key: f"{path}/{name}.json" for key, name in SUBRESOURCE_SEGMENTS.items()},
        "to": "sip:kate@example.com",
        "to_formatted": "sip:kate@example.com",
        "uri": f"{path}.json",
    }
    assert len(call["subresource_uris"]) == 9


def test_later_fetches_show_more_values(simulator: Running, calls: httpx.Client) -> None:
    path = calls.post("/Calls.json", data=SIP_DIAL | {"MachineDetection": "Enable"}).json()["uri"]
    url = simulator.url + path

    def changed(*names: str) -> dict[str, str | None]:
        call = calls.get(url).json()
        assert call.keys() == CALL_KEYS | {"annotation"}
        return {name: call[name] for name in names}

    assert changed("status", "date_created", "caller_name", "duration", "start_time") == {
        "status": "queued",
        "date_created": "Mon, 23 Nov 2026 23:50:00 +0000",
        "caller_name": None,
        "duration": None,
        "start_time": None,
    }
    simulator.clock.advance(1)
    assert changed("status", "caller_name", "trunk_sid", "duration", "start_time", "end_time", "answered_by") == {
        "status": "ringing",
        "caller_name": "",
        "trunk_sid": "",
        "duration": "0",
        "start_time": "Mon, 23 Nov 2026 23:50:01 +0000",
        "end_time": None,
        "answered_by": None,
    }
    simulator.clock.advance(3600)
    assert changed("status", "price", "answered_by") == {
        "status": "completed",
        "price": "-0.00750",
        "answered_by": "human",
    }


def test_a_list_has_the_envelope_of_twilio(simulator: Running, calls: httpx.Client) -> None:
    for _ in range(3):
        calls.post("/Calls.json", data=SIP_DIAL)
    simulator.clock.advance(1)
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json"
    filters = "To=sip%3Akate%40example.com&StartTime%3E=2026-11-23"
    first = calls.get(f"/Calls.json?{filters}&PageSize=2").json()
    sids = [call["sid"] for call in first.pop("calls")]
    assert first == {
        "end": 1,
        "first_page_uri": f"{path}?{filters}&PageSize=2&Page=0",
        "next_page_uri": f"{path}?{filters}&PageSize=2&Page=1&PageToken=PA{sids[-1]}",
        "page": 0,
        "page_size": 2,
        "previous_page_uri": None,
        "start": 0,
        "uri": f"{path}?{filters}&PageSize=2&Page=0",
    }
    second = calls.get(simulator.url + first["next_page_uri"]).json()
    last = second.pop("calls")
    assert second == {
        "end": 2,
        "first_page_uri": first["first_page_uri"],
        "next_page_uri": None,
        "page": 1,
        "page_size": 2,
        "previous_page_uri": f"{path}?{filters}&PageSize=2&Page=0&PageToken=PB{last[0]['sid']}",
        "start": 2,
        "uri": first["next_page_uri"],
    }


def test_the_control_route_changes_how_calls_are_shown(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    sent = "sip:Kate@EXAMPLE.com:5060;edge=dublin?X-a=1"
    calls.post("/Calls.json", data={"To": sent, "From": "Jack", "Url": "http://x.example"}).raise_for_status()
    shown = {"scheme": "sips", "host": "lower", "port": False, "parameters": False, "headers": False, "from_as": "sip"}
    usual = calls.get("/Calls.json")
    control.put("/showing", json=shown | {"ahead_s": 3600}).raise_for_status()
    changed = calls.get("/Calls.json")
    (before,), (after,) = usual.json()["calls"], changed.json()["calls"]
    assert (before["to"], before["from"]) == (sent, "Jack")
    assert (after["to"], after["from"]) == ("sips:Kate@example.com", "sip:Jack@sip.twilio.com")
    for was, is_now in ((before["date_created"], after["date_created"]), (usual.headers["Date"], changed.headers["Date"])):
        assert parsedate_to_datetime(is_now) - parsedate_to_datetime(was) == timedelta(hours=1)
    assert calls.get(f"/Calls/{after['sid']}.json").json()["to"] == after["to"]
    assert len(calls.get("/Calls.json", params={"To": after["to"]}).json()["calls"]) == 1
    assert not calls.get("/Calls.json", params={"To": sent}).json()["calls"]
    control.put("/showing", json={"host": "lower", "filter_by": "sent"}).raise_for_status()
    assert len(calls.get("/Calls.json", params={"To": sent}).json()["calls"]) == 1
    control.post("/reset").raise_for_status()
    assert control.get("/showing").json()["host"] == "as_sent"


def test_an_empty_list(calls: httpx.Client) -> None:
    page = calls.get("/Calls.json?StartTime%3C=06/11/2019%2022:05:25%20MST").json()
    assert (page["calls"], page["start"], page["end"], page["next_page_uri"]) == ([], 0, 0, None)
    assert parse_qs(urlsplit(page["uri"]).query)["StartTime<"] == ["06/11/2019 22:05:25 MST"]


def test_a_page_token_survives_the_deletion_of_its_call(simulator: Running, calls: httpx.Client) -> None:
    sids = [calls.post("/Calls.json", data=SIP_DIAL).json()["sid"] for _ in range(3)]
    simulator.clock.advance(3600)
    page = calls.get("/Calls.json?PageSize=1").json()
    assert calls.delete(f"/Calls/{sids[2]}.json").status_code == 204
    following = calls.get(simulator.url + page["next_page_uri"]).json()
    assert [call["sid"] for call in following["calls"]] == [sids[1]]


def test_a_call_of_another_account_does_not_exist(simulator: Running, calls: httpx.Client) -> None:
    sid = calls.post("/Calls.json", data=SIP_DIAL).json()["sid"]
    with simulator.client("AC" + "9" * 32, "any") as other:
        answers = [other.get(f"/Calls/{sid}.json"), other.post(f"/Calls/{sid}.json", data={"Status": "canceled"})]
        assert other.get("/Calls.json").json()["calls"] == []
    for answer in answers:
        assert answer.status_code == 404
        assert answer.json() == {
            "code": 20404,
            "message": f"The requested resource {answer.request.url.path} was not found",
            "more_info": "https://www.twilio.com/docs/errors/20404",
            "status": 404,
        }


def test_without_usable_credentials(simulator: Running) -> None:
    with plain_client(simulator.url) as client:
        for authorization in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic %%%"}):
            answer = client.get(f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json", headers=authorization)
            assert (answer.status_code, answer.json()["code"]) == (401, 20003)
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="Twilio API"'


def test_without_open_mode_an_unknown_account_is_refused() -> None:
    with serve(SimulatorConfig()) as url, plain_client(url, auth=(OPEN_SID, "any")) as client:
        answer = client.post(f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json", data=SIP_DIAL)
        ledger = client.get("/_simulator/ledger").json()
    assert answer.json() == {
        "code": 20003,
        "message": "Authenticate",
        "more_info": "https://www.twilio.com/docs/errors/20003",
        "status": 401,
    }
    assert (ledger["received"], ledger["accepted"]) == (1, 0)


def test_a_path_without_json_needs_an_accept_header_for_json(calls: httpx.Client, control: httpx.Client) -> None:
    refused = calls.post("/Calls", data=SIP_DIAL)
    assert (refused.status_code, refused.json()["code"]) == (406, 20406)
    assert control.get("/ledger").json()["accepted"] == 0
    created = calls.post("/Calls", data=SIP_DIAL, headers={"Accept": "application/json"})
    assert created.status_code == 201
    fetched = calls.get(f"/Calls/{created.json()['sid']}", headers={"Accept": "application/json"})
    assert fetched.json()["status"] == "queued"


def test_a_json_body_has_no_parameters(calls: httpx.Client) -> None:
    assert calls.post("/Calls.json", json=SIP_DIAL).json()["code"] == 21201


def test_every_parameter_of_the_twilio_package_is_accepted_and_in_the_ledger(
    calls: httpx.Client, control: httpx.Client
) -> None:
    names = [name for name in inspect.signature(CallList.create).parameters if name != "self"]
    pascal = ["".join(part.capitalize() for part in name.split("_")) for name in names]
    values = {
        "Url": "http://www.example.com/a",
        "ApplicationSid": "AP" + "a" * 32,
        "Timeout": "60",
        "TimeLimit": "60",
        "SendDigits": "1",
    }
    form: dict[str, str | list[str]] = {
        name: "http://www.example.com/callback" if name.endswith(("Url", "Callback")) else values.get(name, "x")
        for name in pascal
    }
    form |= {name: "POST" for name in pascal if name.endswith("Method")} | {
        name: ["initiated", "completed"] for name in pascal if name.endswith("Event")
    }
    form |= values | SIP_DIAL
    assert form.keys() >= set(json.loads((DATA / "twilio_create_call_parameters.json").read_text()))
    assert calls.post("/Calls.json", data=form).status_code == 201
    arrived = control.get("/ledger").json()["entries"][0]["form"]
    assert arrived.keys() == form.keys()
    assert arrived["StatusCallbackEvent"] == ["initiated", "completed"]


def test_unknown_routes_are_answered_in_the_shape_of_twilio(calls: httpx.Client) -> None:
    assert calls.put("/Calls.json").json()["code"] == 20004
    assert calls.get("/Messages.json").json()["code"] == 20404
