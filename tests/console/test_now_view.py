"""Tests the sentence at the top of the page *Now*, and the list of what needs attention, in each situation."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.console.now.attention import AttentionItem
from app.console.now.store import (
    MAX_COUNTED_ROWS,
    CallsMissingAtTwilio,
    LastHourCallCounts,
    NowPageFacts,
    RejectedCredential,
    WaitingCount,
    WaitingQueue,
)
from app.console.now.texts import SentencePart, percent_text, span_text
from app.console.now.view import now_view
from app.database.heartbeats import WorkerSummary

NOW = datetime(2026, 11, 29, 10, 30, tzinfo=UTC)
NONE = WaitingCount(0, None)
RESOLVE_PERIOD = timedelta(minutes=15)
QUIET = NowPageFacts(
    read_at=NOW,
    has_tenants=True,
    has_calls=True,
    workers=WorkerSummary(2, NOW),
    is_halted=False,
    halt_reason=None,
    unknown=NONE,
    pending=NONE,
    waiting=0,
    last_grant_at=None,
    queues=[],
    missing=CallsMissingAtTwilio(0, None, None),
    failing=NONE,
    gave_up=0,
    price_given_up=0,
    credentials=[],
    recent=LastHourCallCounts(started=500),
    called_back_1_to_24_hours_ago=100,
    rolled_until=NOW,
    took_s=0.01,
)
QUIET = replace(QUIET, recent=LastHourCallCounts(started=500, called_back=400, rolled_up=500))
QUEUE = WaitingQueue(
    tenant_id="blue",
    name="reminders",
    paused=False,
    is_tenant_suspended=False,
    has_hours=False,
    number=120,
    last_due_at=NOW,
    last_ring_by=NOW + timedelta(hours=1),
    calls_per_second=None,
)


def _since(seconds: float, number: int = 1) -> WaitingCount:
    return WaitingCount(number, NOW - timedelta(seconds=seconds))


def _text(parts: list[SentencePart]) -> str:
    return "".join(part if isinstance(part, str) else f"{part:%H:%M}" for part in parts)


def _sentence(**facts: Any) -> str:
    return _text(now_view(replace(QUIET, **facts), for_operator=True, resolve_period=RESOLVE_PERIOD).sentence.parts)


def _attention_items(
    *, for_operator: bool = True, resolve_period: timedelta = RESOLVE_PERIOD, key_set_state: str = "ok", **facts: Any
) -> list[AttentionItem]:
    shown = now_view(
        replace(QUIET, **facts), for_operator=for_operator, resolve_period=resolve_period, key_set_state=key_set_state
    )
    return shown.attention_items


def test_the_example_of_the_console() -> None:
    view = now_view(
        replace(
            QUIET,
            unknown=_since(40, 3),
            waiting=120,
            queues=[replace(QUEUE, calls_per_second=1 / 6)],
            recent=LastHourCallCounts(started=998, unknown=2, server_errors=2, called_back=900, rolled_up=1000),
        ),
        for_operator=True,
        resolve_period=RESOLVE_PERIOD,
    )
    assert _text(view.sentence.parts) == (
        "Calls go out. 3 unknown, oldest 40 s; 120 waiting, the last at 10:42; Twilio answers 5xx to 0.2 %."
    )
    assert (view.sentence.level, view.attention_items) == ("ok", [])


NO_WORKER = WorkerSummary(0, None)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, "Calls go out. Twilio answers no 5xx."),
        (
            {"has_tenants": False, "has_calls": False, "workers": NO_WORKER, "recent": LastHourCallCounts()},
            "Nothing is set up yet.",
        ),
        ({"has_calls": False, "recent": LastHourCallCounts()}, "No call has been requested yet."),
        ({"recent": LastHourCallCounts()}, "No call was dialled in the last hour."),
        ({"recent": LastHourCallCounts(scheduled=20)}, "No call was dialled in the last hour."),
        ({"workers": NO_WORKER}, "Calls go out, but no worker runs. Twilio answers no 5xx."),
        ({"is_halted": True}, "Calls go out, but scheduled calls are stopped. Twilio answers no 5xx."),
        (
            {"is_halted": True, "recent": LastHourCallCounts(), "waiting": 3},
            "No call was dialled in the last hour, and scheduled calls are stopped. 3 waiting.",
        ),
        (
            {"recent": LastHourCallCounts(started=10, not_started=40, rolled_up=50)},
            "Most calls do not start: 40 of 50 that were requested in the last hour. Twilio answers no 5xx.",
        ),
        (
            {"recent": LastHourCallCounts(started=10, not_started=10, unknown=30)},
            "Most calls do not start or are unknown: 40 of 50 that were requested in the last hour.",
        ),
        # No minute of these calls was rolled up, so it is unknown whether Twilio answered 5xx.
        ({"recent": LastHourCallCounts(started=1, not_started=2)}, "Calls go out."),
        ({"recent": LastHourCallCounts(started=1, not_started=2, rolled_up=1)}, "Calls go out. Twilio answers no 5xx."),
        (
            {"recent": LastHourCallCounts(started=7, unknown=7, server_errors=1, rolled_up=4)},
            "Calls go out. Twilio answers 5xx to 25.0 %.",
        ),
        (
            {"recent": LastHourCallCounts(not_started=2, unknown=1), "last_grant_at": NOW},
            "No call that was requested in the last hour is known to have started.",
        ),
        ({"recent": LastHourCallCounts(pending=1)}, "Calls are being dialled."),
        (
            {"recent": LastHourCallCounts(), "last_grant_at": NOW - timedelta(minutes=59)},
            "Scheduled calls are dialled, the last at 09:31.",
        ),
        (
            {"recent": LastHourCallCounts(), "last_grant_at": NOW, "workers": NO_WORKER},
            "Scheduled calls are dialled, the last at 10:30, but no worker runs.",
        ),
        (
            {"recent": LastHourCallCounts(), "last_grant_at": NOW - timedelta(minutes=61)},
            "No call was dialled in the last hour.",
        ),
        (
            {"recent": LastHourCallCounts(), "unknown": _since(60)},
            "No call was dialled in the last hour. 1 unknown, oldest 1 min.",
        ),
        (
            {"recent": LastHourCallCounts(), "waiting": MAX_COUNTED_ROWS},
            "No call was dialled in the last hour. 10,000 or more waiting.",
        ),
        (
            {"recent": LastHourCallCounts(), "waiting": 150, "queues": [replace(QUEUE, paused=True)]},
            "No call was dialled in the last hour. 150 waiting, 120 of them in paused queues.",
        ),
        (
            {"recent": LastHourCallCounts(), "waiting": 120, "queues": [replace(QUEUE, paused=True)]},
            "No call was dialled in the last hour. 120 waiting in paused queues.",
        ),
        (
            {"recent": LastHourCallCounts(), "waiting": 2600, "queues": [replace(QUEUE, paused=True)] * 21},
            "No call was dialled in the last hour. 2,600 waiting, 2,520 or more of them in paused queues.",
        ),
        # Both numbers end at 10,000, so it is unknown whether more calls wait elsewhere.
        (
            {
                "recent": LastHourCallCounts(),
                "waiting": MAX_COUNTED_ROWS,
                "queues": [replace(QUEUE, paused=True, number=MAX_COUNTED_ROWS)],
            },
            "No call was dialled in the last hour. 10,000 or more waiting, 10,000 or more of them in paused queues.",
        ),
    ],
)
def test_the_sentence(facts: dict[str, Any], sentence: str) -> None:
    assert _sentence(**facts) == sentence


PACED = replace(QUEUE, calls_per_second=1 / 6)


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({"queues": [PACED]}, "10:42"),
        ({"queues": [PACED, replace(PACED, number=240)], "waiting": 360}, "10:54"),
        ({"queues": [replace(PACED, last_due_at=NOW + timedelta(minutes=50))]}, "11:20"),
        # The last calls expire before they are dialled.
        ({"queues": [replace(PACED, last_ring_by=NOW + timedelta(minutes=5))]}, "10:35"),
        ({"queues": [replace(PACED, last_ring_by=NOW - timedelta(minutes=5))]}, "10:30"),
        ({"queues": [QUEUE]}, None),
        ({"queues": [PACED, QUEUE], "waiting": 240}, None),
        ({"queues": [replace(PACED, has_hours=True)]}, None),
        ({"queues": [replace(PACED, is_tenant_suspended=True)]}, None),
        # Three calls are in no queue.
        ({"queues": [PACED], "waiting": 123}, None),
        ({"queues": []}, None),
        ({"queues": [replace(PACED, number=MAX_COUNTED_ROWS)], "waiting": MAX_COUNTED_ROWS}, None),
        ({"queues": [PACED], "workers": NO_WORKER}, None),
        ({"queues": [PACED], "is_halted": True}, None),
    ],
)
def test_the_last_dial_is_shown_only_if_it_is_known_for_all_calls(facts: dict[str, Any], end: str | None) -> None:
    sentence = _sentence(**{"waiting": 120} | facts)
    assert " waiting" in sentence
    assert re.findall(r", the last at (\S+);", sentence) == ([end] if end else [])
    assert ("the last" in sentence) == bool(end)


@pytest.mark.parametrize(
    ("facts", "level", "title", "advice"),
    [
        ({"has_tenants": False}, "ok", "There is no tenant.", "Create a tenant"),
        ({"has_calls": False}, "ok", "There is no call.", "POST /v1/calls"),
        ({"workers": NO_WORKER}, "danger", "No worker runs.", "Start `callgate worker`"),
        (
            {"workers": WorkerSummary(0, NOW - timedelta(minutes=3))},
            "danger",
            "No worker runs. The last one was seen at 10:27.",
            "`callgate worker`",
        ),
        ({"rolled_until": NOW - timedelta(minutes=20)}, "warning", "The plots end at 10:10.", "rollup_skipped"),
        ({"took_s": 1.4}, "warning", "The database is slow: this page took 1.4 s to read.", "Postgres"),
        ({"key_set_state": "stale"}, "warning", "The key set for service account tokens is out of date.", "callgate doctor"),
        ({"key_set_state": "unavailable"}, "warning", "The key set for service account tokens cannot be used.", "doctor"),
        ({"unknown": _since(3000, 3)}, "warning", "3 unknown calls, the oldest for 50 min.", "do not place them again"),
        ({"unknown": _since(3000)}, "warning", "1 unknown call, the oldest for 50 min.", "callgate doctor"),
        ({"pending": _since(700)}, "warning", "A call is pending for 11 min.", "worker"),
        (
            {"recent": LastHourCallCounts(started=90, unknown=10, server_errors=10, called_back=80, rolled_up=100)},
            "warning",
            "Twilio answered 5xx to 10.0 % of the calls requested in the last hour.",
            "status.twilio.com",
        ),
        (
            {"recent": LastHourCallCounts(not_started=8)},
            "danger",
            "8 calls that were requested in the last hour did not start.",
            "problems",
        ),
        (
            {"recent": LastHourCallCounts(not_started=2, unknown=6)},
            "danger",
            "8 calls that were requested in the last hour did not start or are unknown.",
            "problems",
        ),
        (
            {"recent": LastHourCallCounts(started=25, callback_missing=20)},
            "danger",
            "No callback came for the 20 started calls that were requested in the last hour, but earlier calls had callbacks.",
            "CALLGATE_PUBLIC_URL",
        ),
        (
            {"is_halted": True},
            "danger",
            "Scheduled calls are stopped until an operator releases them.",
            "which calls Twilio has",
        ),
        (
            {"is_halted": True, "halt_reason": "operator"},
            "danger",
            "Scheduled calls are stopped until an operator releases them.",
            "`callgate queues halt` was run.",
        ),
        (
            {"queues": [replace(QUEUE, paused=True)]},
            "warning",
            "Queue reminders (blue) is paused with 120 calls, the last until 11:30.",
            "Resume",
        ),
        (
            {"queues": [replace(QUEUE, calls_per_second=0.01)]},
            "warning",
            "Queue reminders (blue) needs until 13:50 for its 120 calls, but the last must ring by 11:30.",
            "Raise the pace",
        ),
        ({"queues": [QUEUE] * 21}, "ok", "Calls wait in more than 20 queues.", "The list of queues"),
        ({"failing": _since(1300, 4)}, "warning", "4 deliveries fail and are tried again, the oldest for 21 min.", "2xx"),
        ({"gave_up": 2}, "warning", "2 deliveries were given up, of events in the last 7 days.", "send them again"),
        (
            {"gave_up": 1},
            "warning",
            "1 delivery was given up, of events in the last 7 days.",
            "that were sent again, for up to",
        ),
        (
            {"missing": CallsMissingAtTwilio(3, NOW - timedelta(minutes=12), UUID(int=7))},
            "warning",
            "Twilio does not know 3 of the concurrent calls, the oldest for 12 min.",
            "frees its slot",
        ),
        ({"price_given_up": 7}, "warning", "7 completed calls of the last 7 days have no price.", "Twilio"),
    ],
)
def test_a_finding_says_what_to_do(facts: dict[str, Any], level: str, title: str, advice: str) -> None:
    (item,) = _attention_items(**facts)
    assert (item.level, _text(item.title)) == (level, title)
    assert advice in item.advice


@pytest.mark.parametrize(
    "facts",
    [
        {"unknown": _since(1000)},
        {"pending": _since(300)},
        {"failing": _since(60, 9)},
        {"missing": CallsMissingAtTwilio(1, NOW - timedelta(seconds=90), UUID(int=7))},
        {"recent": LastHourCallCounts(started=3)},
        {"recent": LastHourCallCounts(started=20, callback_missing=20), "called_back_1_to_24_hours_ago": 0},
        {"recent": LastHourCallCounts(started=20)},
        {"queues": [QUEUE, replace(QUEUE, calls_per_second=10), replace(QUEUE, calls_per_second=0.01, has_hours=True)]},
        {"queues": [replace(QUEUE, calls_per_second=0.01, is_tenant_suspended=True)]},
        {"took_s": 0.3, "rolled_until": NOW - timedelta(minutes=2)},
    ],
)
def test_what_passes_by_itself_is_no_finding(facts: dict[str, Any]) -> None:
    assert _attention_items(**facts) == []


@pytest.mark.parametrize("period", [timedelta(seconds=12), timedelta(minutes=15), timedelta(hours=6)])
def test_unknown_calls_are_a_finding_when_their_searches_should_be_over(period: timedelta) -> None:
    expected_s = (period + timedelta(minutes=5)).total_seconds()
    assert _attention_items(resolve_period=period, unknown=_since(expected_s)) == []
    (item,) = _attention_items(resolve_period=period, unknown=_since(expected_s + 1))
    assert _text(item.title).startswith("1 unknown call, the oldest for")


def test_a_rejected_credential_is_worse_when_it_is_the_last() -> None:
    other = RejectedCredential("blue", "AC1", "SK1", NOW, others=1)
    last = RejectedCredential("red", "AC2", "AC2", NOW, others=0)
    first, second = _attention_items(credentials=[other, last])
    assert (first.level, _text(first.title)) == ("danger", "Twilio rejects the auth token of account AC2 (red), since 10:30.")
    assert (second.level, _text(second.title)) == (
        "warning",
        "Twilio rejects the API key SK1 of account AC1 (blue), since 10:30.",
    )
    assert "accounts add" in first.advice
    assert "accounts revoke" in second.advice


def test_the_worst_comes_first_and_colours_the_sentence() -> None:
    facts = replace(QUIET, gave_up=1, is_halted=True, queues=[replace(QUEUE, paused=True)])
    view = now_view(facts, for_operator=True, resolve_period=RESOLVE_PERIOD)
    assert [item.level for item in view.attention_items] == ["danger", "warning", "warning"]
    assert view.sentence.level == "danger"


def test_a_tenant_is_not_told_to_run_the_operators_commands() -> None:
    for facts in ({"workers": NO_WORKER}, {"is_halted": True}):
        (item,) = _attention_items(for_operator=False, **facts)
        assert item.advice == "Tell the operator of Callgate."
    assert _attention_items(for_operator=False, key_set_state="stale") == []
    (paused,) = _attention_items(for_operator=False, queues=[replace(QUEUE, paused=True)])
    assert _text(paused.title).startswith("Queue reminders is paused")


def test_ages_and_shares() -> None:
    spans = {
        0: "0 s",
        59: "59 s",
        60: "1 min",
        119: "1 min",
        7199: "119 min",
        7200: "2 h",
        172_799: "47 h",
        172_800: "2 d",
        -5: "0 s",
    }
    assert {seconds: span_text(timedelta(seconds=seconds)) for seconds in spans} == spans
    assert [percent_text(share) for share in (0, 0.00001, 0.002, 1)] == ["0.0 %", "less than 0.1 %", "0.2 %", "100.0 %"]
