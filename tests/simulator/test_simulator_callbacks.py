"""Status callbacks, sent to a real receiver when the test says so."""

import re
import socket
from collections.abc import Iterator
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
class Stage:
    """A receiver, and an account whose calls are to call it back."""

    receiver: Receiver
    running: Running
    control: httpx.Client
    calls: httpx.Client

    def create(self, to: str = "sip:kate@example.com", *, fault: str | None = None, path: str = "/status", **form: Any) -> str:
        """Returns the sid."""
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

    def play(self) -> None:
        """So long that every call ends, but those that last for ever."""
        self.pass_time(120)

    def deliveries(self, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control.get("/callbacks", params=query).raise_for_status().json()["deliveries"]
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def stage(receiver: Receiver, simulator: Running, control: httpx.Client, calls: httpx.Client) -> Stage:
    return Stage(receiver, simulator, control, calls)


def test_a_call_from_initiated_to_completed(stage: Stage) -> None:
    sid = stage.create(Record="true", TimeLimit="5")
    stage.pass_time(0.9)
    assert stage.receiver.received == []
    stage.play()
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
    received = [dict(request.form) for request in stage.receiver.received]
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
    call = stage.calls.get(f"/Calls/{sid}.json").json()
    assert times[3] == call["end_time"]
    assert {request.url for request in stage.receiver.received} == {stage.receiver.url + "/status"}


def test_headers_and_signature(stage: Stage) -> None:
    stage.create(path="/status?call=1&b=%20#rc=2")
    stage.play()
    for request in stage.receiver.received:
        assert (request.method, request.url) == ("POST", stage.receiver.url + "/status?call=1&b=%20")
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded; charset=UTF-8"
        assert request.headers["User-Agent"] == "TwilioProxy/1.1"
        assert request.is_signed_with("any")
        assert not request.is_signed_with("other")
    tokens = [request.headers["I-Twilio-Idempotency-Token"] for request in stage.receiver.received]
    assert len({*tokens}) == 4


@pytest.mark.parametrize("path", ["/status", "/status?a=b", "/status?"])
def test_get_carries_the_fields_in_the_query(stage: Stage, path: str) -> None:
    stage.create("sip:kate@example.com?X-a=%3Bb&X-c=d", path=path, StatusCallbackMethod="GET", StatusCallbackEvent=[])
    stage.play()
    (request,) = stage.receiver.received
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
def test_only_what_was_asked_for_is_told(stage: Stage, wanted: list[str], statuses: list[str], numbers: str) -> None:
    stage.create(StatusCallbackEvent=wanted)
    stage.play()
    assert stage.receiver.statuses == statuses
    assert "".join(request.form["SequenceNumber"] for request in stage.receiver.received) == numbers


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
def test_how_calls_end(stage: Stage, to: str, statuses: list[str], sip_response_code: str | None) -> None:
    stage.create(to)
    stage.play()
    assert stage.receiver.statuses == statuses
    last = stage.receiver.received[-1].form
    assert last.get("SipResponseCode") == sip_response_code
    talked = int(last["CallDuration"])
    assert (talked > 0, last["Duration"]) == (("completed" in statuses), "1" if talked else "0")
    assert stage.control.get("/callbacks").json()["waiting"] == 0


@pytest.mark.parametrize(
    ("seconds", "status", "statuses"),
    [
        (0.5, "canceled", []),
        (1.5, "canceled", ["initiated", "ringing", "canceled"]),
        (20, "completed", ["initiated", "ringing", "in-progress", "completed"]),
    ],
)
def test_a_call_that_is_ended(stage: Stage, seconds: float, status: str, statuses: list[str]) -> None:
    sid = stage.create("sip:forever@example.com")
    stage.pass_time(seconds)
    stage.calls.post(f"/Calls/{sid}.json", data={"Status": status}).raise_for_status()
    stage.pass_time()
    assert stage.receiver.statuses == statuses
    stage.play()
    assert stage.receiver.statuses == statuses
    assert stage.control.get("/callbacks").json()["waiting"] == 0


@pytest.mark.parametrize("to", ["sip:kate@example.com", "sip:forever@example.com"])
def test_an_update_repeats_nothing(stage: Stage, to: str) -> None:
    sid = stage.create(to, StatusCallbackEvent=["initiated", "answered"])
    stage.pass_time(7)
    assert stage.receiver.statuses == ["initiated", "in-progress"]
    stage.calls.post(f"/Calls/{sid}.json", data={"Status": "completed"}).raise_for_status()
    stage.play()
    assert stage.receiver.statuses == ["initiated", "in-progress"]
    assert stage.control.get("/callbacks").json()["waiting"] == 0


def test_an_update_can_send_callbacks_elsewhere(stage: Stage) -> None:
    sid = stage.create("sip:forever@example.com")
    stage.pass_time(20)
    stage.calls.post(
        f"/Calls/{sid}.json",
        data={"Status": "completed", "StatusCallback": stage.receiver.url + "/other", "StatusCallbackMethod": "GET"},
    ).raise_for_status()
    stage.pass_time()
    last = stage.receiver.received[-1]
    assert (last.method, last.url.partition("?")[0], last.fields["SequenceNumber"]) == (
        "GET",
        stage.receiver.url + "/other",
        "3",
    )


@pytest.mark.parametrize("without", [{"StatusCallback": None}, {"ApplicationSid": "AP" + "a" * 32}])
def test_calls_nobody_is_told_about(stage: Stage, without: dict[str, Any]) -> None:
    stage.create(**without)
    assert stage.control.get("/callbacks").json()["waiting"] == 0
    stage.play()
    assert (stage.receiver.received, stage.deliveries()) == ([], [])


def test_the_auth_token_signs_also_what_an_api_key_asked_for(stage: Stage) -> None:
    form = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>", "StatusCallback": stage.receiver.url + "/"}
    path = f"{stage.running.url}/2010-04-01/Accounts/{REGISTERED.sid}"
    with plain_client(path, auth=("SK" + "1" * 32, "the-key-secret")) as client:
        client.post("/Calls.json", data=form).raise_for_status()
    stage.play()
    (request,) = stage.receiver.received
    assert request.is_signed_with("the-auth-token")


def test_the_first_password_of_an_open_account_passes_for_its_auth_token(stage: Stage) -> None:
    with stage.running.client(OPEN_SID, "the first") as first, stage.running.client(OPEN_SID, "the second") as second:
        stage.control.post("/reset")
        first.get("/Calls.json").raise_for_status()
        Stage(stage.receiver, stage.running, stage.control, second).create()
    stage.play()
    assert [request.is_signed_with("the first") for request in stage.receiver.received] == [True] * 4


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
def test_how_often_it_is_tried_is_in_the_fragment(
    stage: Stage, fragment: str, answers: list[int], attempts: int, delivered: bool
) -> None:
    stage.receiver.answers.extend(answers)
    stage.create(path="/status" + fragment, StatusCallbackEvent="completed")
    stage.play()
    (delivery,) = stage.deliveries()
    assert (len(stage.receiver.received), len(delivery["attempts"]), delivery["delivered"]) == (attempts, attempts, delivered)
    expected = [None if answer in (HANG, DROP) else answer for answer in answers[:attempts]]
    assert [attempt["answer_status"] for attempt in delivery["attempts"]] == expected
    for member in ("error", "answered_at"):
        was_answered = [(attempt[member] is None) == (member == "error") for attempt in delivery["attempts"]]
        assert was_answered == [status is not None for status in expected]
    assert len({request.headers["I-Twilio-Idempotency-Token"] for request in stage.receiver.received}) == 1


@pytest.mark.parametrize(("fragment", "attempts"), [("", 2), ("#rc=4", 5), ("#rp=5xx", 1), ("#rc=0", 1)])
def test_a_receiver_that_is_not_there(stage: Stage, fragment: str, attempts: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    stage.create(StatusCallback=f"http://127.0.0.1:{port}/status{fragment}", StatusCallbackEvent="completed")
    stage.play()
    (delivery,) = stage.deliveries()
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["ConnectError"] * attempts


def test_a_receiver_that_takes_no_connection_is_waited_for_as_long_as_the_fragment_says(stage: Stage) -> None:
    """One whose queue is full, so that Linux leaves further connections without an answer."""
    with socket.socket() as listener, ExitStack() as queue:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/status#ct=100&rc=2"
        stage.create(StatusCallback=url, StatusCallbackEvent="completed")
        stage.play()
    (delivery,) = stage.deliveries()
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["ConnectTimeout"] * 3


def test_a_url_that_cannot_be_called(stage: Stage) -> None:
    for url in ("http://127.0.0.1:99999/", "http://a..b/", f"http://{'a' * 70}.example/"):
        sid = stage.create(StatusCallback=url, StatusCallbackEvent="completed")
        stage.play()
        (delivery,) = stage.deliveries(call_sid=sid)
        assert delivery["attempts"][0]["error"] is not None
    stage.create()
    stage.play()
    assert stage.deliveries()[-1]["delivered"]


def test_what_was_sent_can_be_read_again(stage: Stage) -> None:
    stage.create("sip:ann@example.com")
    sid = stage.create("sip:busy@example.com", path="/status#rc=1")
    stage.play()
    of_the_call = stage.deliveries(call_sid=sid)
    assert [delivery["call_status"] for delivery in of_the_call] == ["initiated", "ringing", "busy"]
    last = of_the_call[-1]
    (request,) = [
        request for request in stage.receiver.received if request.form["CallSid"] == sid and "CallDuration" in request.form
    ]
    assert (last["fields"], last["signature"]) == (request.form, request.headers["X-Twilio-Signature"])
    assert (last["url"], last["method"], last["sequence"]) == (stage.receiver.url + "/status#rc=1", "POST", 2)
    assert [attempt["answer_status"] for attempt in last["attempts"]] == [204]
    assert [delivery["number"] for delivery in stage.deliveries(after="6")] == [7]
    assert stage.control.get("/callbacks").json()["begun"] == 7


@pytest.mark.parametrize("events", [ALL_EVENTS, ["initiated", "completed"]])
def test_a_callback_before_the_response(stage: Stage, events: list[str]) -> None:
    sid = stage.create(fault="callback-before-response", StatusCallbackEvent=events)
    assert [request.form["CallSid"] for request in stage.receiver.received] == [sid] * (len(events) // 2)
    assert stage.receiver.statuses[0] == "initiated"
    stage.play()
    assert [request.form["SequenceNumber"] for request in stage.receiver.received] == [str(n) for n in range(len(events))]


def test_no_callback_ever(stage: Stage) -> None:
    stage.create(fault="callback-never")
    stage.play()
    assert stage.receiver.received == []


def test_an_answer_that_was_lost_does_not_lose_the_callbacks(stage: Stage) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        stage.create(fault="accept-then-close")
    stage.play()
    (entry,) = stage.control.get("/ledger").json()["entries"]
    assert [request.form["CallSid"] for request in stage.receiver.received] == [entry["sid"]] * 4


def chaotic(stage: Stage, calls: int = 20, **chaos: Any) -> dict[str, list[str]]:
    """The sequence numbers that arrived, by destination."""
    stage.control.post("/reset").raise_for_status()
    stage.receiver.received.clear()
    stage.control.put("/callbacks", json=chaos).raise_for_status()
    for n in range(calls):
        stage.create(f"sip:u{n}@example.com")
    for _ in range(2):
        stage.pass_time(20)
    stage.play()
    assert stage.control.get("/callbacks").json()["waiting"] == 0
    numbers: dict[str, list[str]] = {f"sip:u{n}@example.com": [] for n in range(calls)}
    for request in stage.receiver.received:
        numbers[request.form["To"]].append(request.form["SequenceNumber"])
    return numbers


def test_without_chaos_everything_arrives_once_and_in_order(stage: Stage) -> None:
    assert {*map("".join, chaotic(stage).values())} == {"0123"}


def test_shuffled(stage: Stage) -> None:
    arrived = chaotic(stage, shuffle=True, seed=1)
    assert {"".join(sorted(numbers)) for numbers in arrived.values()} == {"0123"}
    assert 4 <= sum(numbers != sorted(numbers) for numbers in arrived.values()) <= 19
    assert chaotic(stage, shuffle=True, seed=1) == arrived
    assert chaotic(stage, shuffle=True, seed=2) != arrived


def test_duplicated(stage: Stage) -> None:
    arrived = chaotic(stage, duplicate=0.3, seed=1)
    assert {"".join(sorted({*numbers})) for numbers in arrived.values()} == {"0123"}
    assert 10 <= sum(map(len, arrived.values())) - 80 <= 40
    tokens: dict[tuple[str, str], str] = {}
    for request in stage.receiver.received:
        identity = request.form["CallSid"], request.form["SequenceNumber"]
        assert (
            tokens.setdefault(identity, request.headers["I-Twilio-Idempotency-Token"])
            == (request.headers["I-Twilio-Idempotency-Token"])
        )
    assert sum(delivery["is_duplicate"] for delivery in stage.deliveries()) == len(stage.receiver.received) - 80
    assert chaotic(stage, duplicate=0.3, seed=1) == arrived


def test_lost(stage: Stage) -> None:
    arrived = chaotic(stage, lose=0.3, seed=1)
    lost = [delivery for delivery in stage.deliveries() if delivery["lost"]]
    assert 10 <= len(lost) <= 40
    assert sum(map(len, arrived.values())) == 80 - len(lost)
    assert all(delivery["attempts"] == [] for delivery in lost)
    assert chaotic(stage, lose=0.3, seed=1) == arrived
    assert chaotic(stage, lose=0.3, seed=2) != arrived


def test_delayed(stage: Stage) -> None:
    stage.control.put("/callbacks", json={"delay_s": [100, 100]}).raise_for_status()
    stage.create()
    stage.pass_time(100.9)
    assert stage.receiver.received == []
    stage.pass_time(0.1)
    assert stage.receiver.statuses == ["initiated", "ringing"]
    assert stage.receiver.received[0].form["Timestamp"] == "Mon, 23 Nov 2026 23:50:01 +0000"


def test_shuffled_for_a_call_that_does_not_end(stage: Stage) -> None:
    stage.control.put("/callbacks", json={"shuffle": True}).raise_for_status()
    for n in range(10):
        stage.create("sip:forever@example.com", StatusCallback=f"{stage.receiver.url}/{n}")
    stage.pass_time(60)
    assert sorted(stage.receiver.statuses) == sorted(["initiated", "ringing", "in-progress"] * 10)


@pytest.mark.parametrize("wrong", [{"lose": 1.1}, {"delay_s": [2, 1]}, {"delay_s": [-1, 1]}, {"duplicate": "often"}])
def test_chaos_that_makes_no_sense_is_refused(control: httpx.Client, simulator: Running, wrong: dict[str, Any]) -> None:
    assert control.put("/callbacks", json=wrong).status_code == 422


def test_with_the_clock_of_the_machine_they_are_sent_by_themselves(receiver: Receiver) -> None:
    form = {"From": "Jack", "Twiml": "<Response/>", "StatusCallback": receiver.url, "StatusCallbackEvent": ALL_EVENTS}
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json"
    with serve(SimulatorConfig(open_mode=True, speed=200)) as url, plain_client(url, auth=(OPEN_SID, "any")) as client:
        for n in range(3):
            client.post(path, data=form | {"To": f"sip:u{n}@example.com"}).raise_for_status()
        wait_until(lambda: sum(1 for request in receiver.received if request.form["CallStatus"] == "completed") == 3)
    for n in range(3):
        of_the_call = [request.form for request in receiver.received if request.form["To"] == f"sip:u{n}@example.com"]
        assert all(a["SequenceNumber"] < b["SequenceNumber"] for a, b in pairwise(of_the_call))
        assert len(of_the_call) == 4


def test_a_simulator_stops_while_a_receiver_hangs(receiver: Receiver) -> None:
    receiver.answers.extend([Receiver.HANG] * 4)
    form = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>", "StatusCallback": receiver.url}
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json"
    with serve(SimulatorConfig(open_mode=True, speed=1000)) as url, plain_client(url, auth=(OPEN_SID, "any")) as client:
        client.post(path, data=form).raise_for_status()
        wait_until(lambda: receiver.received)
        assert client.get("/_simulator/callbacks").json()["sending"] == 1
