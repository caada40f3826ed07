"""What a call has below it: shapes of the specification, and only while the call is in progress."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulator.running import Running

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
    """Of a call in progress."""
    sid = calls.post("/Calls.json", data=CALL).json()["sid"]
    simulator.clock.advance(10)
    return f"/Calls/{sid}"


@pytest.mark.parametrize("segment", FORMS)
def test_what_is_created_has_the_fields_of_the_specification(calls: httpx.Client, path: str, segment: str) -> None:
    created = calls.post(f"{path}/{segment}.json", data=FORMS[segment])
    assert created.is_success
    assert created.json().keys() == FIELDS[segment]


def test_a_notification_has_the_fields_of_the_specification(calls: httpx.Client, control: httpx.Client, path: str) -> None:
    made = control.post(f"/calls/{path.rpartition('/')[2]}/notifications", json={"log": "0"})
    fetched = calls.get(f"{path}/Notifications/{made.json()['sid']}.json").json()
    assert fetched.keys() == FIELDS["Notifications"]
    assert calls.get(f"{path}/Notifications.json?Log=1").json()["notifications"] == []


@pytest.mark.parametrize("segment", FORMS)
def test_nothing_is_started_on_a_call_that_has_ended(simulator: Running, calls: httpx.Client, path: str, segment: str) -> None:
    calls.post(f"{path}.json", data={"Status": "completed"})
    refused = calls.post(f"{path}/{segment}.json", data=FORMS[segment])
    assert (refused.status_code, refused.json()["code"]) == (400, 21220)


@pytest.mark.parametrize("segment", [segment for segment, form in FORMS.items() if form])
def test_what_twilio_requires_is_required(calls: httpx.Client, path: str, segment: str) -> None:
    refused = calls.post(f"{path}/{segment}.json")
    assert (refused.status_code, refused.json()["code"]) == (400, 20422)


@pytest.mark.parametrize(
    ("method", "below"), [("DELETE", "Streams/x"), ("GET", "Payments"), ("POST", "Events"), ("GET", "Siprec/x")]
)
def test_operations_that_twilio_has_not_are_refused(calls: httpx.Client, path: str, method: str, below: str) -> None:
    assert calls.request(method, f"{path}/{below}.json").json()["code"] == 20004
    assert calls.get(f"{path}/Nothing.json").json()["code"] == 20404


def test_credentials_are_checked_below_a_call_and_for_the_sound(simulator: Running, calls: httpx.Client, path: str) -> None:
    sid = calls.post(f"{path}/Recordings.json").json()["sid"]
    assert calls.get(f"/Recordings/{sid}.wav").content[:4] == b"RIFF"
    for below in (f"{path}/Recordings.json", f"/Recordings/{sid}.wav", f"/Recordings/{sid}.json"):
        assert httpx.get(f"{str(calls.base_url).rstrip('/')}{below}", trust_env=False).json()["code"] == 20003
        with simulator.client("AC" + "2" * 32, "any") as other:
            assert other.get(below).json()["code"] == 20404
