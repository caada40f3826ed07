"""Tests that subresources have the fields of Twilio's specification, and can be created only while the call is in progress."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulator.running import Running
from tests.support.clients import http_get

CALL = {"To": "sip:forever@example.com", "From": "Jack", "Twiml": "<Response/>"}
HOOK = "http://www.example.com/hook"
FORMS: dict[str, dict[str, str]] = {
    "Recordings": {},
    "Payments": {"IdempotencyKey": "one", "StatusCallback": HOOK},
    "Transcriptions": {},
    "Siprec": {},
    "Streams": {"Url": "wss://www.example.com/media"},
    "UserDefinedMessages": {"Content": "{}"},
    "UserDefinedMessageSubscriptions": {"Callback": HOOK},
}
SPECIFICATION: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "twilio_operations.json").read_text())
# A list shows less of a notification than a fetch.
FIELDS = {
    operation["path"].split("/")[3].removesuffix(".json"): set(operation["fields"])
    for operation in sorted(SPECIFICATION, key=lambda operation: len(operation.get("fields", [])))
    if "{CallSid}" in operation["path"] and "fields" in operation
}


@pytest.fixture
def path(simulator: Running, calls: httpx.Client) -> str:
    """Returns the path of a call in progress, below the account."""
    sid = calls.post("/Calls.json", data=CALL).json()["sid"]
    simulator.clock.advance(10)
    return f"/Calls/{sid}"


@pytest.mark.parametrize("segment", FORMS)
def test_subresources_have_the_fields_of_the_specification(calls: httpx.Client, path: str, segment: str) -> None:
    created = calls.post(f"{path}/{segment}.json", data=FORMS[segment])
    assert created.is_success
    assert created.json().keys() == FIELDS[segment]


def test_a_notification_has_the_fields_of_the_specification(calls: httpx.Client, control: httpx.Client, path: str) -> None:
    made = control.post(f"/calls/{path.rpartition('/')[2]}/notifications", json={"log": "0"})
    fetched = calls.get(f"{path}/Notifications/{made.json()['sid']}.json").json()
    assert fetched.keys() == FIELDS["Notifications"]
    assert calls.get(f"{path}/Notifications.json?Log=1").json()["notifications"] == []


@pytest.mark.parametrize("segment", FORMS)
def test_creations_on_an_ended_call_are_refused(simulator: Running, calls: httpx.Client, path: str, segment: str) -> None:
    calls.post(f"{path}.json", data={"Status": "completed"})
    refused = calls.post(f"{path}/{segment}.json", data=FORMS[segment])
    assert (refused.status_code, refused.json()["code"]) == (400, 21220)


@pytest.mark.parametrize("segment", [segment for segment, form in FORMS.items() if form])
def test_required_parameters(calls: httpx.Client, path: str, segment: str) -> None:
    refused = calls.post(f"{path}/{segment}.json")
    assert (refused.status_code, refused.json()["code"]) == (400, 20422)


@pytest.mark.parametrize(
    ("method", "below"), [("DELETE", "Streams/x"), ("GET", "Payments"), ("POST", "Events"), ("GET", "Siprec/x")]
)
def test_operations_that_twilio_does_not_have_are_refused(calls: httpx.Client, path: str, method: str, below: str) -> None:
    assert calls.request(method, f"{path}/{below}.json").json()["code"] == 20004
    assert calls.get(f"{path}/Nothing.json").json()["code"] == 20404


def test_credentials_are_checked_for_subresources_and_media(simulator: Running, calls: httpx.Client, path: str) -> None:
    sid = calls.post(f"{path}/Recordings.json").json()["sid"]
    assert calls.get(f"/Recordings/{sid}.wav").content[:4] == b"RIFF"
    for below in (f"{path}/Recordings.json", f"/Recordings/{sid}.wav", f"/Recordings/{sid}.json"):
        assert http_get(f"{str(calls.base_url).rstrip('/')}{below}", trust_env=False).json()["code"] == 20003
        with simulator.client("AC" + "2" * 32, "any") as other:
            assert other.get(below).json()["code"] == 20404


def test_a_paused_recording_is_resumed_and_stopped_as_current(calls: httpx.Client, path: str) -> None:
    sid = calls.post(f"{path}/Recordings.json").json()["sid"]
    for status in ("paused", "in-progress", "paused", "stopped"):
        changed = calls.post(f"{path}/Recordings/Twilio.CURRENT.json", data={"Status": status}).json()
        assert (changed["sid"], changed["status"]) == (sid, status)
    gone = calls.post(f"{path}/Recordings/Twilio.CURRENT.json", data={"Status": "in-progress"})
    assert (gone.status_code, gone.json()["code"]) == (404, 20404)


@pytest.mark.parametrize(
    ("segment", "name", "code"),
    [
        ("Recordings", "RecordingStatusCallback", 21200),
        ("Recordings", "RecordingStatusCallbackMethod", 21209),
        ("Payments", "StatusCallback", 21200),
        ("Transcriptions", "StatusCallbackUrl", 21200),
        ("Transcriptions", "StatusCallbackMethod", 21209),
        ("Siprec", "StatusCallback", 21200),
        ("Streams", "Url", 21205),
        ("Streams", "StatusCallback", 21200),
        ("UserDefinedMessageSubscriptions", "Callback", 21200),
        ("UserDefinedMessageSubscriptions", "Method", 21209),
    ],
)
def test_the_placeholder_of_generated_clients_is_an_invalid_url(
    calls: httpx.Client, path: str, segment: str, name: str, code: int
) -> None:
    refused = calls.post(f"{path}/{segment}.json", data=FORMS[segment] | {name: "string"})
    assert (refused.status_code, refused.json()["code"]) == (400, code)


@pytest.mark.parametrize(
    ("segment", "name", "status"), [("UserDefinedMessageSubscriptions", "Callback", 400), ("Siprec", "StatusCallback", 200)]
)
def test_only_the_callback_of_a_subscription_must_have_a_host_without_underscore(
    calls: httpx.Client, path: str, segment: str, name: str, status: int
) -> None:
    answer = calls.post(f"{path}/{segment}.json", data=FORMS[segment] | {name: "https://my_app.example.com/"})
    assert (answer.status_code, answer.json().get("code")) == (status, 21200 if status == 400 else None)


@pytest.mark.parametrize("name", ["Url", "FallbackUrl", "StatusCallback", "RecordingStatusCallback", "ClientNotificationUrl"])
def test_the_placeholder_is_an_invalid_url_of_a_call(calls: httpx.Client, name: str) -> None:
    refused = calls.post("/Calls.json", data=CALL | {name: "string"})
    assert (refused.status_code, refused.json()["code"]) == (400, 21205 if name == "Url" else 21200)


def test_a_page_needs_its_token(calls: httpx.Client, path: str) -> None:
    for listed in ("/Calls.json", f"{path}/Recordings.json"):
        assert calls.get(f"{listed}?Page=0").is_success
        refused = calls.get(f"{listed}?Page=1")
        assert (refused.status_code, refused.json()["code"]) == (400, 20001)


def test_a_large_page_is_compressed_for_clients_that_accept_it(calls: httpx.Client, path: str) -> None:
    assert "Content-Encoding" not in calls.get(f"{path}/Recordings.json").headers
    made = [calls.post(f"{path}/Recordings.json").json()["sid"] for _ in range(3)]
    for accepted, encoding in (("gzip, deflate", "gzip"), ("identity", None)):
        page = calls.get(f"{path}/Recordings.json", headers={"Accept-Encoding": accepted})
        assert page.headers.get("Content-Encoding") == encoding
        assert [one["sid"] for one in page.json()["recordings"][:3]] == made[::-1]


@pytest.mark.parametrize("written", ["%2B14155550100", "14155550100", "+14155550100", "4155550100", "(415)%20555-0100"])
def test_filters_match_phone_numbers_in_any_notation(calls: httpx.Client, written: str) -> None:
    sid = calls.post("/Calls.json", data=CALL | {"To": "+14155550100", "From": "+14155550199"}).json()["sid"]
    assert [call["sid"] for call in calls.get(f"/Calls.json?To={written}").json()["calls"]] == [sid]
