"""Tests the timeline of a call, which shows its events and deliveries in the order of their times."""

import json
from typing import Any

import pytest

from app.calls.schemas import EventRecord
from app.console.calls.timeline import time_since_last_entry, timeline_entries
from tests.console.histories import SID, at, delivery, event, history

PROGRESS = [
    event(0, "call.pending", attempt=1),
    event(0.2, "call.started", sid=SID, settled_by="response", attempts=[{"result": "started", "milliseconds": 180}]),
    event(1, "call.callback", CallStatus="ringing", SequenceNumber="1", To="sip:kate@example.com", From="Jack"),
    event(1.001, "call.status", status="ringing", previous="queued"),
    event(201, "call.callback", CallStatus="completed", SequenceNumber="3", CallDuration="9", SipResponseCode="200"),
    event(201.001, "call.status", status="completed", previous="ringing"),
    event(203, "call.priced", price="-0.00750", price_unit="USD"),
]


def test_events_and_deliveries_are_in_one_order_with_the_time_between_and_long_gaps_folded() -> None:
    arrived = delivery(201, state="delivered", attempts=2, delivered_at=at(201.6), last_attempt_at=at(201.6), last_status=204)
    entries = timeline_entries(history(*PROGRESS, deliveries=[arrived], now=300))
    assert [(entry.gap or entry.after, entry.title, entry.detail) for entry in entries] == [
        ("", "Sending to Twilio", ""),
        ("+0.2 s", "Started at Twilio", "answered after 180 ms"),
        ("+0.8 s", "Twilio reports: ringing", "sequence number 1"),
        ("3 min 20 s without an event", "Twilio reports: completed", "lasted 9 s, SIP 200, sequence number 3"),
        ("+0.6 s", "Delivery “completed” arrived", "attempt 2, answered 204"),
        ("+1.4 s", "Priced", "−0.00750 USD"),
    ]


def test_a_callback_that_settles_a_call_has_one_line_although_two_events_follow() -> None:
    settling = [
        event(1, "call.callback", CallStatus="ringing"),
        event(1.001, "call.started", sid=SID, settled_by="callback"),
        event(1.002, "call.status", status="ringing", previous=None),
    ]
    assert [entry.title for entry in timeline_entries(history(*settling))] == ["Twilio reports: ringing", "Started at Twilio"]


def test_a_status_that_no_callback_reported_has_a_line() -> None:
    entries = timeline_entries(history(event(1, "call.status", status="ringing", previous="queued")))
    assert [(entry.title, entry.detail) for entry in entries] == [("Status: ringing", "before: queued")]


ATTEMPT = {"result": "rejected", "status": 400, "code": 21215, "milliseconds": 3}
LINES: dict[tuple[str, str, str], dict[str, Any]] = {
    ("call.pending", "Sending to Twilio again", "attempt 2"): {"attempt": 2},
    ("call.scheduled", "Waits to be tried again", "Twilio took no more requests at that moment (status 429) after 3 ms"): {
        "problem": "upstream-throttled",
        "attempts": [{"status": 429, "milliseconds": 3}],
    },
    ("call.started", "Started at Twilio", "2 attempts, the last: answered after 9 ms"): {
        "attempts": [ATTEMPT, {"result": "started", "milliseconds": 9}]
    },
    ("call.not_started", "Not started", "Twilio refused it (status 400, code 21215) after 3 ms"): {
        "problem": "upstream-rejected",
        "attempts": [ATTEMPT],
    },
    ("call.not_started", "Taken as not started", "5 searches of Twilio's list did not find it"): {"searches": 5},
    ("call.not_started", "Expired", "before it was dialled"): {"settled_by": "expired"},
    ("call.unknown", "Unknown whether it has started", "the answer had status 500 (code 20500) after 2 ms"): {
        "reason": "status_500",
        "attempts": [{"result": "status_500", "status": 500, "code": 20500, "milliseconds": 2}],
    },
    ("call.unknown", "Unknown whether it has started", "the process that sent it has ended"): {},
    ("call.callback", "Twilio reports: busy", "SIP 486"): {
        "CallStatus": "busy",
        "CallDuration": "0",
        "SipResponseCode": "486",
    },
    (
        "call.searched",
        "Search of Twilio's list found several calls, and cannot tell which one it is",
        "calls that it could be: 2, other requests that could have placed them: 1",
    ): {"result": "ambiguous", "candidates": 2, "rivals": 1},
    ("call.searched", "Search of Twilio's list proves nothing", "Twilio's list could not be read to its end"): {
        "result": "inconclusive",
        "candidates": 0,
        "reason": "list_too_long",
    },
    ("call.updated", "Ended through Callgate", "the request had to wait until then"): {
        "status": "completed",
        "parameters": ["status"],
        "remembered": True,
    },
    ("call.updated", "Changed through Callgate", "url, method"): {"parameters": ["url", "method"]},
    ("call.update_forgotten", "Request to end it dropped", "the call had ended"): {"status": "completed", "reason": "ended"},
    ("call.update_unknown", "Unknown whether it was changed", "url, no answer in time"): {
        "parameters": ["url"],
        "reason": "read_timeout",
    },
    ("call.deleted", "Deleted at Twilio", "not through Callgate"): {"by": "twilio"},
    ("call.recording", "Recording", "create, it is unknown whether Twilio did it, no answer in time"): {
        "action": "create",
        "result": "unknown",
        "reason": "deadline",
    },
    ("call.stream", "Stream", "create, not done, Twilio refused it"): {
        "action": "create",
        "result": "not_done",
        "reason": "rejected",
    },
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]}: {line[2]}")
def test_a_line_says_what_happened_in_plain_words(line: tuple[str, str, str]) -> None:
    type_, *words = line
    (entry,) = timeline_entries(history(event(1, type_, **LINES[line])))
    assert [entry.title, entry.detail] == words


def test_the_time_since_the_last_line_is_told_once_it_is_long() -> None:
    waits = history(PROGRESS[0], now=5)
    assert time_since_last_entry(timeline_entries(waits), waits) == ""
    waits = history(PROGRESS[0], now=65)
    assert time_since_last_entry(timeline_entries(waits), waits) == "1 min 5 s"
    cut = history(PROGRESS[0], now=65, has_more_events=True)
    assert time_since_last_entry(timeline_entries(cut), cut) == ""


def test_deliveries_say_how_they_stand() -> None:
    lines = [
        delivery(1, "initiated", state="pending"),
        delivery(2, "ringing", state="pending", held=True),
        delivery(3, "answered", state="pending", attempts=3, last_attempt_at=at(4), last_status=500, next_attempt_at=at(80)),
        delivery(5, "completed", state="gave_up", attempts=12, last_attempt_at=at(50), last_error="refused_address"),
    ]
    entries = timeline_entries(history(deliveries=lines))
    assert [(entry.title, entry.detail, entry.tone) for entry in entries] == [
        ("Delivery “initiated” waits", "", ""),
        ("Delivery “ringing” waits", "for an earlier event of the call", ""),
        ("Delivery “answered” failed", "attempt 3, answered 500, tried again in 20 s", "warning"),
        ("Delivery “completed” given up", "attempt 12, its address is not allowed", "danger"),
    ]


def test_every_documented_event_has_words_and_an_unknown_one_its_name() -> None:
    description = EventRecord.model_fields["type"].description or ""
    types = [part for part in description.split("`")[1::2] if part.startswith("call.")]
    assert len(types) >= 20
    for type_ in [*types, "call.of_a_later_version"]:
        (entry,) = timeline_entries(history(event(1, type_)))
        assert entry.title
        assert "call." not in entry.title


def test_what_stands_behind_a_line_is_masked_until_it_is_revealed() -> None:
    called = history(*PROGRESS)
    assert "kate" not in json.dumps([entry.raw for entry in timeline_entries(called)])
    assert "Jack" not in json.dumps([entry.raw for entry in timeline_entries(called)])
    assert "sip:kate@example.com" in json.dumps([entry.raw for entry in timeline_entries(called, reveal=True)])
