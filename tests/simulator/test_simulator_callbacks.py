"""Tests the status callbacks that the simulator sends to a real receiver. The tests move the simulator's clock."""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import pytest

from simulator.config import SimulatorConfig
from tests.simulator.receiving import Receiver, receiving
from tests.simulator.running import OPEN_SID, REGISTERED, Running, plain_client, serve, wait_until

ALL_EVENTS = ["initiated", "ringing", "answered", "completed"]
Form = dict[str, str | list[str]]


@dataclass(frozen=True)
class Scenario:
    """A receiver of callbacks, and a simulator with an account whose calls send their callbacks to it."""

    receiver: Receiver
    running: Running
    control: httpx.Client
    calls: httpx.Client

    def create(self, to: str = "sip:kate@example.com", *, fault: str | None = None, path: str = "/status", **form: Any) -> str:
        """Creates a call and returns its sid."""
        wanted: Form = {
            "To": to,
            "From": "Jack",
            "Twiml": "<Response/>",
            "StatusCallback": self.receiver.url + path,
            "StatusCallbackEvent": ALL_EVENTS,
        }
        wanted = {name: value for name, value in (wanted | form).items() if value is not None}
        headers = {"X-Simulator-Fault": fault} if fault else {}
        sid: str = self.calls.post("/Calls.json", data=wanted, headers=headers).raise_for_status().json()["sid"]
        return sid

    def pass_time(self, seconds: float = 0) -> None:
        self.running.clock.advance(seconds)
        self.control.post("/callbacks/run", timeout=30).raise_for_status()

    def finish_calls(self) -> None:
        """Moves the clock by 120 s, after which every call has ended, except calls to the user `forever`."""
        self.pass_time(120)

    def deliveries(self, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control.get("/callbacks", params=query).raise_for_status().json()["deliveries"]
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def scenario(receiver: Receiver, simulator: Running, control: httpx.Client, calls: httpx.Client) -> Scenario:
    return Scenario(receiver, simulator, control, calls)


def test_a_call_from_initiated_to_completed(scenario: Scenario) -> None:
    sid = scenario.create(Record="true", TimeLimit="5")
    scenario.pass_time(0.9)
    assert scenario.receiver.received == []
    scenario.finish_calls()
    always = {
        "CallSid": sid,
        "AccountSid": OPEN_SID,
        "From": "Jack",
        "To": "sip:kate@example.com",
        "Caller": "Jack",
        "Called": "sip:kate@example.com",
        "ApiVersion": "2010-04-01",
        "Direction": "outbound-api",
        "CallbackSource": "call-progress-events",
    }
    received = [dict(request.form) for request in scenario.receiver.received]
    times = [fields.pop("Timestamp") for fields in received]
    recording = received[-1].pop("RecordingSid")
    assert received == [
        always | {"CallStatus": "initiated", "SequenceNumber": "0"},
        always | {"CallStatus": "ringing", "SequenceNumber": "1"},
        always | {"CallStatus": "in-progress", "SequenceNumber": "2"},
        always
        | {
            "CallStatus": "completed",
            "SequenceNumber": "3",
            "CallDuration": "5",
            "Duration": "1",
            "SipResponseCode": "200",
            "RecordingDuration": "5",
            "RecordingUrl": f"https://api.twilio.com/2010-04-01/Accounts/{OPEN_SID}/Recordings/{recording}",
        },
    ]
    assert re.fullmatch(r"RE[0-9a-f]{32}", recording)
    assert times[0] == times[1] == "Mon, 23 Nov 2026 23:50:01 +0000"
    call = scenario.calls.get(f"/Calls/{sid}.json").json()
    assert times[3] == call["end_time"]
    assert {request.url for request in scenario.receiver.received} == {scenario.receiver.url + "/status"}


def test_headers_and_signature(scenario: Scenario) -> None:
    scenario.create(path="/status?call=1&b=%20#rc=2")
    scenario.finish_calls()
    for request in scenario.receiver.received:
        assert (request.method, request.url) == ("POST", scenario.receiver.url + "/status?call=1&b=%20")
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded; charset=UTF-8"
        assert request.headers["User-Agent"] == "TwilioProxy/1.1"
        assert request.is_signed_with("any")
        assert not request.is_signed_with("other")
    tokens = [request.headers["I-Twilio-Idempotency-Token"] for request in scenario.receiver.received]
    assert len({*tokens}) == 4


@pytest.mark.parametrize("path", ["/status", "/status?a=b", "/status?"])
def test_get_carries_the_fields_in_the_query(scenario: Scenario, path: str) -> None:
    scenario.create("sip:kate@example.com?X-a=%3Bb&X-c=d", path=path, StatusCallbackMethod="GET", StatusCallbackEvent=[])
    scenario.finish_calls()
    (request,) = scenario.receiver.received
    assert (request.method, request.form) == ("GET", {})
    assert request.fields["To"] == "sip:kate@example.com?X-a=%3Bb&X-c=d"
    assert ("a" in request.fields) is ("a=b" in path)
    assert request.is_signed_with("any")


@pytest.mark.parametrize(
    ("wanted", "statuses", "numbers"),
    [
        ([], ["completed"], "0"),
        (["completed"], ["completed"], "0"),
        (["completed", "answered"], ["in-progress", "completed"], "01"),
        (ALL_EVENTS, ["initiated", "ringing", "in-progress", "completed"], "0123"),
        ("initiated ringing answered completed", [], ""),
        (["nonsense", "initiated"], ["initiated"], "0"),
    ],
)
def test_only_requested_events_are_sent(scenario: Scenario, wanted: list[str], statuses: list[str], numbers: str) -> None:
    scenario.create(StatusCallbackEvent=wanted)
    scenario.finish_calls()
    assert scenario.receiver.statuses == statuses
    assert "".join(request.form["SequenceNumber"] for request in scenario.receiver.received) == numbers


@pytest.mark.parametrize(
    ("to", "statuses", "sip_response_code"),
    [
        ("sip:kate@example.com", ["initiated", "ringing", "in-progress", "completed"], "200"),
        ("sip:busy@example.com", ["initiated", "ringing", "busy"], "486"),
        ("sip:no-answer@example.com", ["initiated", "ringing", "no-answer"], "487"),
        ("sip:failed@example.com", ["initiated", "failed"], "404"),
        ("client:kate", ["initiated", "ringing", "in-progress", "completed"], None),
    ],
)
def test_callbacks_by_outcome(scenario: Scenario, to: str, statuses: list[str], sip_response_code: str | None) -> None:
    scenario.create(to)
    scenario.finish_calls()
    assert scenario.receiver.statuses == statuses
    last = scenario.receiver.received[-1].form
    assert last.get("SipResponseCode") == sip_response_code
    talked = int(last["CallDuration"])
    assert (talked > 0, last["Duration"]) == (("completed" in statuses), "1" if talked else "0")
    assert scenario.control.get("/callbacks").json()["waiting"] == 0


@pytest.mark.parametrize(
    ("seconds", "status", "statuses"),
    [
        (0.5, "canceled", []),
        (1.5, "canceled", ["initiated", "ringing", "canceled"]),
        (20, "completed", ["initiated", "ringing", "in-progress", "completed"]),
    ],
)
def test_callbacks_of_a_call_ended_by_an_update(scenario: Scenario, seconds: float, status: str, statuses: list[str]) -> None:
    sid = scenario.create("sip:forever@example.com")
    scenario.pass_time(seconds)
    scenario.calls.post(f"/Calls/{sid}.json", data={"Status": status}).raise_for_status()
    scenario.pass_time()
    assert scenario.receiver.statuses == statuses
    scenario.finish_calls()
    assert scenario.receiver.statuses == statuses
    assert scenario.control.get("/callbacks").json()["waiting"] == 0


@pytest.mark.parametrize("to", ["sip:kate@example.com", "sip:forever@example.com"])
def test_an_update_repeats_no_callback(scenario: Scenario, to: str) -> None:
    sid = scenario.create(to, StatusCallbackEvent=["initiated", "answered"])
    scenario.pass_time(7)
    assert scenario.receiver.statuses == ["initiated", "in-progress"]
    scenario.calls.post(f"/Calls/{sid}.json", data={"Status": "completed"}).raise_for_status()
    scenario.finish_calls()
    assert scenario.receiver.statuses == ["initiated", "in-progress"]
    assert scenario.control.get("/callbacks").json()["waiting"] == 0


def test_an_update_can_send_callbacks_elsewhere(scenario: Scenario) -> None:
    sid = scenario.create("sip:forever@example.com")
    scenario.pass_time(20)
    scenario.calls.post(
        f"/Calls/{sid}.json",
        data={"Status": "completed", "StatusCallback": scenario.receiver.url + "/other", "StatusCallbackMethod": "GET"},
    ).raise_for_status()
    scenario.pass_time()
    last = scenario.receiver.received[-1]
    assert (last.method, last.url.partition("?")[0], last.fields["SequenceNumber"]) == (
        "GET",
        scenario.receiver.url + "/other",
        "3",
    )


@pytest.mark.parametrize("without", [{"StatusCallback": None}, {"ApplicationSid": "AP" + "a" * 32}])
def test_calls_without_callbacks(scenario: Scenario, without: dict[str, Any]) -> None:
    scenario.create(**without)
    assert scenario.control.get("/callbacks").json()["waiting"] == 0
    scenario.finish_calls()
    assert (scenario.receiver.received, scenario.deliveries()) == ([], [])


def test_the_auth_token_signs_callbacks_of_requests_with_an_api_key(scenario: Scenario) -> None:
    form = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>", "StatusCallback": scenario.receiver.url + "/"}
    path = f"{scenario.running.url}/2010-04-01/Accounts/{REGISTERED.sid}"
    with plain_client(path, auth=("SK" + "1" * 32, "the-key-secret")) as client:
        client.post("/Calls.json", data=form).raise_for_status()
    scenario.finish_calls()
    (request,) = scenario.receiver.received
    assert request.is_signed_with("the-auth-token")


def test_the_first_password_of_an_open_account_signs_its_callbacks(scenario: Scenario) -> None:
    with scenario.running.client(OPEN_SID, "the first") as first, scenario.running.client(OPEN_SID, "the second") as second:
        scenario.control.post("/reset")
        first.get("/Calls.json").raise_for_status()
        Scenario(scenario.receiver, scenario.running, scenario.control, second).create()
    scenario.finish_calls()
    assert [request.is_signed_with("the first") for request in scenario.receiver.received] == [True] * 4


def test_a_reset_keeps_registered_accounts_without_credentials(scenario: Scenario) -> None:
    sid = f"AC{7:032x}"
    scenario.control.put(f"/accounts/{sid}", json={}).raise_for_status()
    for password in ("the first", "the first since the reset"):
        scenario.control.post("/reset").raise_for_status()
        with scenario.running.client(sid, password) as client:
            Scenario(scenario.receiver, scenario.running, scenario.control, client).create()
        scenario.finish_calls()
        assert scenario.receiver.received.pop().is_signed_with(password)


HANG, DROP = Receiver.HANG, Receiver.DROP


@pytest.mark.parametrize(
    ("fragment", "answers", "attempts", "delivered"),
    [
        ("", [204], 1, True),
        ("", [500, 204], 1, False),
        ("", [404, 204], 1, False),
        ("", [302, 204], 1, False),
        ("", [DROP, 204], 1, False),
        ("#rt=100", [HANG, 204], 1, False),
        ("#rp=5xx", [500, 204], 2, True),
        ("#rp=5xx", [500, 503, 204], 2, False),
        ("#rc=3&rp=5xx,ct,rt", [500, 503, 502, 204], 4, True),
        ("#rc=3&rp=5xx,ct,rt", [404, 204], 1, False),
        ("#rc=3&rp=4xx", [404, 429, 500, 204], 3, False),
        ("#rc=2&rp=rt&rt=100", [HANG, HANG, 200], 3, True),
        ("#rc=2&rp=all&rt=100", [HANG, 400, 200], 3, True),
        ("#rp=all", [DROP, 200], 2, True),
        ("#rp=5xx,ct,rt,4xx", [DROP, 200], 1, False),
        ("#rc=0&rp=all", [500, 204], 1, False),
        ("#rc=6&rp=all", [500, 500, 204], 2, False),
        ("#rc=5&rp=rt&rt=2000&tt=150", [HANG, 204], 1, False),
        ("#rp=nonsense&rc=x&ct=-1", [500, 204], 1, False),
    ],
)
def test_the_fragment_decides_about_retries(
    scenario: Scenario, fragment: str, answers: list[int], attempts: int, delivered: bool
) -> None:
    scenario.receiver.answers.extend(answers)
    scenario.create(path="/status" + fragment, StatusCallbackEvent="completed")
    scenario.finish_calls()
    (delivery,) = scenario.deliveries()
    assert (len(scenario.receiver.received), len(delivery["attempts"])) == (attempts, attempts)
    assert delivery["delivered"] is delivered
    expected = [None if answer in (HANG, DROP) else answer for answer in answers[:attempts]]
    assert [attempt["answer_status"] for attempt in delivery["attempts"]] == expected
    for member in ("error", "answered_at"):
        was_answered = [(attempt[member] is None) == (member == "error") for attempt in delivery["attempts"]]
        assert was_answered == [status is not None for status in expected]
    assert len({request.headers["I-Twilio-Idempotency-Token"] for request in scenario.receiver.received}) == 1


@pytest.mark.parametrize(("fragment", "attempts"), [("", 2), ("#rc=4", 5), ("#rp=5xx", 1), ("#rc=0", 1)])
def test_a_receiver_that_refuses_connections(scenario: Scenario, fragment: str, attempts: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    scenario.create(StatusCallback=f"http://127.0.0.1:{port}/status{fragment}", StatusCallbackEvent="completed")
    scenario.finish_calls()
    (delivery,) = scenario.deliveries()
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["ConnectError"] * attempts


def test_the_connect_timeout_of_the_fragment(scenario: Scenario) -> None:
    """The receiver accepts no connections and its queue is full, so Linux does not answer further connections."""
    with socket.socket() as listener, ExitStack() as queue:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/status#ct=100&rc=2"
        scenario.create(StatusCallback=url, StatusCallbackEvent="completed")
        scenario.finish_calls()
    (delivery,) = scenario.deliveries()
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["ConnectTimeout"] * 3


def test_an_invalid_url_fails_and_later_callbacks_are_sent(scenario: Scenario) -> None:
    for url in ("http://127.0.0.1:99999/", "http://a..b/", f"http://{'a' * 70}.example/"):
        sid = scenario.create(StatusCallback=url, StatusCallbackEvent="completed")
        scenario.finish_calls()
        (delivery,) = scenario.deliveries(call_sid=sid)
        assert delivery["attempts"][0]["error"] is not None
    scenario.create()
    scenario.finish_calls()
    assert scenario.deliveries()[-1]["delivered"]


def test_the_control_route_lists_deliveries(scenario: Scenario) -> None:
    scenario.create("sip:ann@example.com")
    sid = scenario.create("sip:busy@example.com", path="/status#rc=1")
    scenario.finish_calls()
    deliveries_of_call = scenario.deliveries(call_sid=sid)
    assert [delivery["call_status"] for delivery in deliveries_of_call] == ["initiated", "ringing", "busy"]
    last = deliveries_of_call[-1]
    (request,) = [
        request for request in scenario.receiver.received if request.form["CallSid"] == sid and "CallDuration" in request.form
    ]
    assert (last["fields"], last["signature"]) == (request.form, request.headers["X-Twilio-Signature"])
    assert (last["url"], last["method"], last["sequence"]) == (scenario.receiver.url + "/status#rc=1", "POST", 2)
    assert [attempt["answer_status"] for attempt in last["attempts"]] == [204]
    assert [delivery["number"] for delivery in scenario.deliveries(after="6")] == [7]
    assert scenario.control.get("/callbacks").json()["begun"] == 7


@pytest.mark.parametrize("events", [ALL_EVENTS, ["initiated", "completed"]])
def test_a_callback_before_the_response(scenario: Scenario, events: list[str]) -> None:
    sid = scenario.create(fault="callback-before-response", StatusCallbackEvent=events)
    assert [request.form["CallSid"] for request in scenario.receiver.received] == [sid] * (len(events) // 2)
    assert scenario.receiver.statuses[0] == "initiated"
    scenario.finish_calls()
    assert [request.form["SequenceNumber"] for request in scenario.receiver.received] == [str(n) for n in range(len(events))]


def test_the_fault_callback_never(scenario: Scenario) -> None:
    scenario.create(fault="callback-never")
    scenario.finish_calls()
    assert scenario.receiver.received == []


def test_callbacks_are_sent_after_a_lost_answer(scenario: Scenario) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        scenario.create(fault="accept-then-close")
    scenario.finish_calls()
    (entry,) = scenario.control.get("/ledger").json()["entries"]
    assert [request.form["CallSid"] for request in scenario.receiver.received] == [entry["sid"]] * 4


def sequence_numbers_with(scenario: Scenario, calls: int = 20, **chaos: Any) -> dict[str, list[str]]:
    """Creates calls while `chaos` disturbs callbacks. Returns the SequenceNumber values that were received, by destination."""
    scenario.control.post("/reset").raise_for_status()
    scenario.receiver.received.clear()
    scenario.control.put("/callbacks", json=chaos).raise_for_status()
    for n in range(calls):
        scenario.create(f"sip:u{n}@example.com")
    for _ in range(2):
        scenario.pass_time(20)
    scenario.finish_calls()
    assert scenario.control.get("/callbacks").json()["waiting"] == 0
    numbers: dict[str, list[str]] = {f"sip:u{n}@example.com": [] for n in range(calls)}
    for request in scenario.receiver.received:
        numbers[request.form["To"]].append(request.form["SequenceNumber"])
    return numbers


def test_without_faults_each_callback_arrives_once_and_in_order(scenario: Scenario) -> None:
    assert {*map("".join, sequence_numbers_with(scenario).values())} == {"0123"}


def test_shuffled(scenario: Scenario) -> None:
    arrived = sequence_numbers_with(scenario, shuffle=True, seed=1)
    assert {"".join(sorted(numbers)) for numbers in arrived.values()} == {"0123"}
    assert 4 <= sum(numbers != sorted(numbers) for numbers in arrived.values()) <= 19
    assert sequence_numbers_with(scenario, shuffle=True, seed=1) == arrived
    assert sequence_numbers_with(scenario, shuffle=True, seed=2) != arrived


def test_duplicated(scenario: Scenario) -> None:
    arrived = sequence_numbers_with(scenario, duplicate=0.3, seed=1)
    assert {"".join(sorted({*numbers})) for numbers in arrived.values()} == {"0123"}
    assert 10 <= sum(map(len, arrived.values())) - 80 <= 40
    tokens: dict[tuple[str, str], str] = {}
    for request in scenario.receiver.received:
        identity = request.form["CallSid"], request.form["SequenceNumber"]
        assert (
            tokens.setdefault(identity, request.headers["I-Twilio-Idempotency-Token"])
            == (request.headers["I-Twilio-Idempotency-Token"])
        )
    assert sum(delivery["is_duplicate"] for delivery in scenario.deliveries()) == len(scenario.receiver.received) - 80
    assert sequence_numbers_with(scenario, duplicate=0.3, seed=1) == arrived


def test_lost(scenario: Scenario) -> None:
    arrived = sequence_numbers_with(scenario, lose=0.3, seed=1)
    lost = [delivery for delivery in scenario.deliveries() if delivery["lost"]]
    assert 10 <= len(lost) <= 40
    assert sum(map(len, arrived.values())) == 80 - len(lost)
    assert all(delivery["attempts"] == [] for delivery in lost)
    assert sequence_numbers_with(scenario, lose=0.3, seed=1) == arrived
    assert sequence_numbers_with(scenario, lose=0.3, seed=2) != arrived


def test_delayed(scenario: Scenario) -> None:
    scenario.control.put("/callbacks", json={"delay_s": [100, 100]}).raise_for_status()
    scenario.create()
    scenario.pass_time(100.9)
    assert scenario.receiver.received == []
    scenario.pass_time(0.1)
    assert scenario.receiver.statuses == ["initiated", "ringing"]
    assert scenario.receiver.received[0].form["Timestamp"] == "Mon, 23 Nov 2026 23:50:01 +0000"


def test_shuffled_for_a_call_that_does_not_end(scenario: Scenario) -> None:
    scenario.control.put("/callbacks", json={"shuffle": True}).raise_for_status()
    for n in range(10):
        scenario.create("sip:forever@example.com", StatusCallback=f"{scenario.receiver.url}/{n}")
    scenario.pass_time(60)
    assert sorted(scenario.receiver.statuses) == sorted(["initiated", "ringing", "in-progress"] * 10)


@pytest.mark.parametrize("wrong", [{"lose": 1.1}, {"delay_s": [2, 1]}, {"delay_s": [-1, 1]}, {"duplicate": "often"}])
def test_invalid_faults_of_callbacks_are_refused(control: httpx.Client, simulator: Running, wrong: dict[str, Any]) -> None:
    assert control.put("/callbacks", json=wrong).status_code == 422


def test_callbacks_are_sent_on_time_by_the_system_clock(receiver: Receiver) -> None:
    form = {"From": "Jack", "Twiml": "<Response/>", "StatusCallback": receiver.url, "StatusCallbackEvent": ALL_EVENTS}
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json"
    with serve(SimulatorConfig(open_mode=True, speed=200)) as url, plain_client(url, auth=(OPEN_SID, "any")) as client:
        for n in range(3):
            client.post(path, data=form | {"To": f"sip:u{n}@example.com"}).raise_for_status()
        wait_until(lambda: sum(1 for request in receiver.received if request.form["CallStatus"] == "completed") == 3)
    for n in range(3):
        deliveries_of_call = [request.form for request in receiver.received if request.form["To"] == f"sip:u{n}@example.com"]
        assert all(a["SequenceNumber"] < b["SequenceNumber"] for a, b in pairwise(deliveries_of_call))
        assert len(deliveries_of_call) == 4


def test_callbacks_that_overlap_wait_for_no_other_callback_of_their_call(scenario: Scenario) -> None:
    scenario.control.put("/callbacks", json={"overlap": True, "duplicate": 1}).raise_for_status()
    scenario.create()
    scenario.receiver.answers.extend([Receiver.HANG] * 8)
    with ThreadPoolExecutor() as pool:
        finishing = pool.submit(scenario.finish_calls)
        try:
            wait_until(lambda: len(scenario.receiver.received) == 8)
        finally:
            scenario.receiver.release.set()
        finishing.result()
    assert sorted(request.form["SequenceNumber"] for request in scenario.receiver.received) == [*"00112233"]


def test_a_simulator_stops_while_a_receiver_hangs(receiver: Receiver) -> None:
    receiver.answers.extend([Receiver.HANG] * 4)
    form = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>", "StatusCallback": receiver.url}
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json"
    with serve(SimulatorConfig(open_mode=True, speed=1000)) as url, plain_client(url, auth=(OPEN_SID, "any")) as client:
        client.post(path, data=form).raise_for_status()
        wait_until(lambda: receiver.received)
        assert client.get("/_simulator/callbacks").json()["sending"] == 1


def test_a_secondary_auth_token_is_accepted_and_signs_after_its_promotion(scenario: Scenario) -> None:
    sid, first, second = "AC" + "8" * 32, "the-primary", "the-secondary"
    control = scenario.control
    assert control.post(f"/accounts/{sid}/promote").status_code == 404
    registered = control.put(f"/accounts/{sid}", json={"auth_token": first, "secondary_auth_token": second}).json()
    assert registered["has_secondary_auth_token"]

    def place(token: str) -> int:
        callback = f"{scenario.receiver.url}/status"
        form = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>", "StatusCallback": callback}
        with scenario.running.client(sid, token) as calls:
            status = calls.post("/Calls.json", data=form).status_code
        scenario.finish_calls()
        return status

    assert [place(token) for token in (first, second)] == [201, 201]
    assert [request.is_signed_with(first) for request in scenario.receiver.received] == [True, True]
    promoted = control.post(f"/accounts/{sid}/promote").json()
    assert (promoted["has_auth_token"], promoted["has_secondary_auth_token"]) == (True, False)
    assert [place(token) for token in (first, second)] == [401, 201]
    assert scenario.receiver.received[-1].is_signed_with(second)
    assert control.post(f"/accounts/{sid}/promote").status_code == 404
