"""Tests each way in which the simulator's list of calls can differ from the calls themselves, as Twilio's list can."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator.list_faults import ListFaults
from tests.simulator.running import OPEN_SID, REGISTERED, Running

Call = dict[str, Any]


def create(calls: httpx.Client, to: str = "sip:forever@example.com") -> str:
    form = {"To": to, "From": "Jack", "Twiml": "<Response/>"}
    sid: str = calls.post("/Calls.json", data=form).raise_for_status().json()["sid"]
    return sid


def listed(calls: httpx.Client, **query: str) -> list[Call]:
    found: list[Call] = calls.get("/Calls.json", params=query).raise_for_status().json()["calls"]
    return found


def sids(found: list[Call]) -> list[str]:
    return [call["sid"] for call in found]


def all_pages(simulator: Running, calls: httpx.Client, query: str, between: Any = None) -> list[str]:
    """Returns the SIDs of all pages of a list. Calls the function `between` before each page except the first."""
    found: list[str] = []
    path: str | None = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json?{query}"
    while path:
        page = calls.get(simulator.url + path).raise_for_status().json()
        found += sids(page["calls"])
        path = page["next_page_uri"]
        if path and between:
            between()
    return found


def set_faults(control: httpx.Client, **faults: Any) -> None:
    control.put("/listing", json=faults).raise_for_status()


def test_a_queued_call_has_no_start_time_and_no_filter_by_it_finds_it(simulator: Running, calls: httpx.Client) -> None:
    sid = create(calls)
    filters = {"StartTime>": "2026-11-01"}
    assert (sids(listed(calls)), listed(calls, **filters)) == ([sid], [])
    simulator.clock.advance(1)
    assert sids(listed(calls, **filters)) == [sid]


def test_a_new_call_is_missing_for_a_time(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_faults(control, lag_s=[5, 5])
    sid = create(calls)
    simulator.clock.advance(4.9)
    assert listed(calls) == []
    assert calls.get(f"/Calls/{sid}.json").status_code == 200
    simulator.clock.advance(0.1)
    assert sids(listed(calls)) == [sid]


def test_a_call_is_listed_and_filtered_by_an_older_state(
    simulator: Running, calls: httpx.Client, control: httpx.Client
) -> None:
    sid = create(calls, "sip:busy@example.com")
    set_faults(control, stale_s=[3, 3])
    simulator.clock.advance(2.5)
    assert listed(calls) == []
    simulator.clock.advance(2.4)
    (call,) = listed(calls)
    fetched = calls.get(f"/Calls/{sid}.json").json()
    assert (call["status"], call["end_time"], fetched["status"]) == ("ringing", None, "busy")
    assert sids(listed(calls, Status="ringing")) == [sid]
    assert listed(calls, Status="busy") == []
    simulator.clock.advance(0.1)
    assert listed(calls) == [fetched]


def test_a_deleted_call_is_listed_for_a_time(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    sid = create(calls, "sip:busy@example.com")
    simulator.clock.advance(60)
    set_faults(control, stale_s=[3, 3])
    calls.delete(f"/Calls/{sid}.json").raise_for_status()
    assert sids(listed(calls)) == [sid]
    assert calls.get(f"/Calls/{sid}.json").status_code == 404
    simulator.clock.advance(3)
    assert listed(calls) == []


def test_random_staleness_lets_a_call_go_back(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    create(calls, "sip:busy@example.com")
    set_faults(control, stale_s=[0, 3], seed=1)
    simulator.clock.advance(3.5)

    def statuses() -> list[str]:
        return [call["status"] for _ in range(20) for call in listed(calls)]

    seen = statuses()
    assert {*seen} == {"queued", "ringing", "busy"}
    assert any((before, after) == ("busy", "ringing") for before, after in pairwise(seen))
    set_faults(control, stale_s=[0, 3], seed=1)
    assert statuses() == seen
    set_faults(control, stale_s=[0, 3], seed=2)
    assert statuses() != seen


def test_a_share_of_the_calls_is_missing(calls: httpx.Client, control: httpx.Client) -> None:
    created = {create(calls) for _ in range(40)}
    set_faults(control, omit_share=0.3, seed=1)
    first, second = sids(listed(calls)), sids(listed(calls))
    assert 15 <= len(first) < 40
    assert {*first} < created
    assert first != second
    set_faults(control)
    assert {*sids(listed(calls))} == created


def test_calls_created_between_two_pages_move_them(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    created = [create(calls) for _ in range(6)][::-1]
    assert all_pages(simulator, calls, "PageSize=2", lambda: create(calls)) == created
    set_faults(control, moving_pages=True)
    created = sids(listed(calls))
    seen = all_pages(simulator, calls, "PageSize=4", lambda: create(calls))
    assert sorted({*seen}) == sorted(created)
    assert [sid for sid in created if seen.count(sid) > 1] == [created[3], created[6]]


def test_calls_that_leave_the_filter_between_two_pages_hide_others(
    simulator: Running, calls: httpx.Client, control: httpx.Client
) -> None:
    set_faults(control, moving_pages=True)
    older = create(calls)
    simulator.clock.advance(0.5)
    create(calls)
    simulator.clock.advance(0.4)
    newest = create(calls)

    def cancel() -> None:
        calls.post(f"/Calls/{newest}.json", data={"Status": "canceled"}).raise_for_status()

    found = all_pages(simulator, calls, "Status=queued&PageSize=2", cancel)
    assert older not in found
    assert sids(listed(calls, Status="queued"))[-1] == older


def test_too_many_list_requests_of_one_account(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    set_faults(control, max_per_s={OPEN_SID: 2}, retry_after_s=3)
    with simulator.client(REGISTERED.sid, "the-auth-token") as other:
        answers = [(calls.get("/Calls.json"), other.get("/Calls.json")) for _ in range(2)]
    assert [(own.status_code, others.status_code) for own, others in answers] == [(200, 200), (429, 200)]
    refused = answers[1][0]
    assert (refused.json()["code"], refused.headers["Retry-After"]) == (20429, "3")
    sid = create(calls)
    assert calls.get(f"/Calls/{sid}.json").status_code == 200
    simulator.clock.advance(0.5)
    assert sids(listed(calls)) == [sid]
    set_faults(control, max_per_s={OPEN_SID: 0})
    simulator.clock.advance(60)
    refused = calls.get("/Calls.json")
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, False)
    assert control.get("/requests", params={"account_sid": OPEN_SID}).json()["GET Calls"] == 4


def test_a_reset_removes_the_faults_of_lists(control: httpx.Client, simulator: Running) -> None:
    answer = control.put("/listing", json={"lag_s": [0, 5], "omit_share": 0.1, "seed": 7})
    assert control.get("/listing").json() == answer.json()
    assert answer.json()["lag_s"] == [0, 5]
    control.post("/reset").raise_for_status()
    assert control.get("/listing").json() == ListFaults().model_dump(mode="json")


@pytest.mark.parametrize(
    "wrong", [{"lag_s": [2, 1]}, {"stale_s": 3}, {"omit_share": 2}, {"max_per_s": {"AC1": 1}}, {"lag": [1, 1]}]
)
def test_invalid_faults_of_lists_are_refused(control: httpx.Client, simulator: Running, wrong: dict[str, Any]) -> None:
    assert control.put("/listing", json=wrong).status_code == 422


def test_every_fault_of_lists_is_documented() -> None:
    table = Path(__file__).parents[2].joinpath("docs/simulator.md").read_text()
    assert [name for name in ListFaults.model_fields if f"`{name}`" not in table] == []
