"""Tests an account's limits on calls per second and on concurrent calls. The tests move the simulator's clock."""

from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from simulator.config import SimulatorConfig
from simulator.limits import AccountLimits
from tests.simulator.receiving import receiving
from tests.simulator.running import OPEN_SID, START, Running, plain_client, serve

LIMITS = f"/accounts/{OPEN_SID}/limits"
FOREVER = "sip:forever@example.com"


def set_limits(control: httpx.Client, **limits: Any) -> None:
    control.put(LIMITS, json=limits).raise_for_status()


def post(calls: httpx.Client, to: str = FOREVER, *, fault: str = "", **form: Any) -> httpx.Response:
    headers = {"X-Simulator-Fault": fault} if fault else {}
    return calls.post("/Calls.json", data={"To": to, "From": "Jack", "Twiml": "<Response/>"} | form, headers=headers)


def create(calls: httpx.Client, to: str = FOREVER, **form: Any) -> str:
    sid: str = post(calls, to, **form).raise_for_status().json()["sid"]
    return sid


def fetch(calls: httpx.Client, sid: str) -> dict[str, Any]:
    call: dict[str, Any] = calls.get(f"/Calls/{sid}.json").raise_for_status().json()
    return call


def end(calls: httpx.Client, sid: str, status: str = "canceled") -> None:
    calls.post(f"/Calls/{sid}.json", data={"Status": status}).raise_for_status()


def queue_times(calls: httpx.Client, sids: list[str]) -> list[str]:
    return [fetch(calls, sid)["queue_time"] for sid in sids]


def error(answer: httpx.Response) -> tuple[int, int]:
    assert answer.json().keys() == {"code", "message", "more_info", "status"}
    return answer.status_code, answer.json()["code"]


def test_an_account_has_no_limits_by_default(calls: httpx.Client, control: httpx.Client) -> None:
    assert control.get(LIMITS).json() == {"calls_per_second": None, "queue_s": 86400, "max_concurrent": None}
    assert queue_times(calls, [create(calls) for _ in range(20)]) == ["0"] * 20


def test_calls_above_the_rate_wait_in_the_queue(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=0.5)
    created = [post(calls).json() for _ in range(4)]
    expected = ["0", "2000", "4000", "6000"]
    assert [(call["status"], call["queue_time"]) for call in created] == [("queued", time) for time in expected]
    sids = [call["sid"] for call in created]
    for seconds, status in ((2.9, "queued"), (0.1, "ringing")):
        simulator.clock.advance(seconds)
        assert [fetch(calls, sid)["status"] for sid in sids[1:]] == [status, "queued", "queued"]
    simulator.clock.advance(60)
    started = [parsedate_to_datetime(fetch(calls, sid)["start_time"]) for sid in sids]
    assert started == [START + timedelta(seconds=seconds) for seconds in (1, 3, 5, 7)]
    assert queue_times(calls, sids) == expected


def test_the_rate_never_exceeds_the_limit_even_if_its_interval_is_no_whole_number(
    calls: httpx.Client, control: httpx.Client
) -> None:
    set_limits(control, calls_per_second=3)
    assert queue_times(calls, [create(calls) for _ in range(4)]) == ["0", "333", "666", "1000"]


def test_the_speed_changes_a_calls_life_but_not_its_time_in_the_queue() -> None:
    with (
        serve(SimulatorConfig(open_mode=True, speed=100, clock=lambda: START, limits=AccountLimits(calls_per_second=1))) as url,
        plain_client(f"{url}/2010-04-01/Accounts/{OPEN_SID}", (OPEN_SID, "any")) as calls,
    ):
        assert queue_times(calls, [create(calls), create(calls)]) == ["0", "1000"]


def test_callbacks_of_a_waiting_call_are_sent_when_it_is_dialled(
    simulator: Running, calls: httpx.Client, control: httpx.Client
) -> None:
    with receiving() as receiver:
        form = {"StatusCallback": receiver.url, "StatusCallbackEvent": ["initiated", "completed"]}
        set_limits(control, calls_per_second=0.1)
        first, second = create(calls, "sip:failed@example.com", **form), create(calls, "sip:busy@example.com", **form)
        received = []
        for seconds in (10.9, 0.1, 1):
            simulator.clock.advance(seconds)
            control.post("/callbacks/run").raise_for_status()
            received.append([(request.fields["CallSid"], request.fields["CallStatus"]) for request in receiver.received])
    expected = [(first, "initiated"), (first, "failed"), (second, "initiated"), (second, "busy")]
    assert received == [expected[:2], expected[:3], expected]


@pytest.mark.parametrize("status", ["canceled", "completed"])
def test_a_call_that_is_ended_in_the_queue_leaves_its_place(
    simulator: Running, calls: httpx.Client, control: httpx.Client, status: str
) -> None:
    with receiving() as receiver:
        form = {"StatusCallback": receiver.url, "StatusCallbackEvent": "initiated"}
        set_limits(control, calls_per_second=0.1)
        first, second, third, fourth = (create(calls, **form) for _ in range(4))
        end(calls, second, status)
        assert queue_times(calls, [first, third, fourth, create(calls)]) == ["0", "10000", "20000", "30000"]
        canceled = fetch(calls, second)
        assert (canceled["status"], canceled["start_time"]) == ("canceled", None)
        simulator.clock.advance(11)
        control.post("/callbacks/run").raise_for_status()
        assert {request.fields["CallSid"] for request in receiver.received} == {first, third}


def test_a_call_that_is_ended_after_its_turn_used_it(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=0.1)
    first, second, third = (create(calls) for _ in range(3))
    simulator.clock.advance(10)
    end(calls, first, "completed")
    assert fetch(calls, second)["status"] == "queued"
    end(calls, second)
    assert queue_times(calls, [third, create(calls)]) == ["20000", "20000"]


def test_a_full_queue_refuses_calls_until_it_is_shorter(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=1, queue_s=2)
    for _ in range(3):
        create(calls)
    assert error(post(calls)) == (400, 22005)
    simulator.clock.advance(0.9)
    assert error(post(calls)) == (400, 22005)
    simulator.clock.advance(0.1)
    assert fetch(calls, create(calls))["queue_time"] == "2000"
    ledger = control.get("/ledger").json()
    assert (ledger["received"], ledger["accepted"]) == (6, 4)
    refused = ledger["entries"][3]
    assert (refused["accepted"], refused["answer_status"], refused["answer_code"]) == (False, 400, 22005)


def test_a_queue_holds_the_calls_of_a_day(calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=0.001)
    answers = [post(calls) for _ in range(88)]
    assert [answer.status_code for answer in answers] == [201] * 87 + [400]
    assert (answers[86].json()["queue_time"], error(answers[87])) == ("86000000", (400, 22005))


def test_calls_above_the_concurrent_ones_are_refused(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, max_concurrent=2)
    create(calls)
    create(calls, "sip:busy@example.com")
    assert error(post(calls)) == (400, 10004)
    simulator.clock.advance(1.9)
    assert error(post(calls)) == (400, 10004)
    simulator.clock.advance(0.1)
    last = create(calls)
    assert error(post(calls)) == (400, 10004)
    end(calls, last)
    create(calls)


def test_a_waiting_call_is_a_concurrent_call(calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=1, max_concurrent=2)
    assert queue_times(calls, [create(calls), create(calls)]) == ["0", "1000"]
    assert error(post(calls)) == (400, 10004)


def test_new_limits_apply_to_calls_that_exist(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=0.1)
    sids = [create(calls) for _ in range(4)]
    simulator.clock.advance(12)
    set_limits(control, calls_per_second=0.2, max_concurrent=4)
    assert queue_times(calls, sids) == ["0", "10000", "15000", "20000"]
    assert error(post(calls)) == (400, 10004)
    set_limits(control)
    assert queue_times(calls, [*sids, create(calls)]) == ["0", "10000", "12000", "12000", "0"]
    simulator.clock.advance(1)
    assert [fetch(calls, sid)["status"] for sid in sids[2:]] == ["ringing", "ringing"]


def test_limits_are_those_of_one_account(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=1, max_concurrent=1)
    create(calls)
    with simulator.client("AC" + "2" * 32, "any") as other:
        assert queue_times(other, [create(other), create(other)]) == ["0", "0"]


def test_a_fault_does_not_dial_a_waiting_call(calls: httpx.Client, control: httpx.Client) -> None:
    set_limits(control, calls_per_second=1)
    sids = [create(calls, fault="callback-before-response") for _ in range(2)]
    assert [fetch(calls, sid)["status"] for sid in sids] == ["ringing", "queued"]


def test_a_reset_restores_the_configured_limits() -> None:
    configured = AccountLimits(calls_per_second=1)
    with (
        serve(SimulatorConfig(open_mode=True, clock=lambda: START, limits=configured)) as url,
        plain_client(f"{url}/2010-04-01/Accounts/{OPEN_SID}", (OPEN_SID, "any")) as calls,
        plain_client(f"{url}/_simulator") as control,
    ):
        assert queue_times(calls, [create(calls), create(calls)]) == ["0", "1000"]
        set_limits(control, max_concurrent=0)
        assert error(post(calls)) == (400, 10004)
        control.post("/reset").raise_for_status()
        assert control.get(LIMITS).json() == configured.model_dump()
        assert queue_times(calls, [create(calls), create(calls)]) == ["0", "1000"]


@pytest.mark.parametrize(
    "wrong", [{"calls_per_second": 0}, {"calls_per_second": 1001}, {"max_concurrent": -1}, {"queue_s": 86401}, {"cps": 1}]
)
def test_wrong_limits_are_refused_and_change_nothing(control: httpx.Client, wrong: dict[str, float]) -> None:
    set_limits(control, calls_per_second=2)
    before = control.get(LIMITS).json()
    assert control.put(LIMITS, json=wrong).status_code == 422
    assert control.get(LIMITS).json() == before
    assert control.put("/accounts/AC1/limits", json={}).status_code == 422
