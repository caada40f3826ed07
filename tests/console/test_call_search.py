"""Tests how the list of calls interprets its search box and its filters."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.calls.ids import cursor_of
from app.console.calls.search import STORED_PROBLEMS, CallQuery, Search, read_call_form, read_search
from app.errors import all_errors

OWN_ID = "01a20722-82cb-7520-b5df-0e45ebf88f42"
NOW = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "search"),
    [
        (OWN_ID, Search("id", (OWN_ID,))),
        (f"  {OWN_ID.upper()} ", Search("id", (OWN_ID,))),
        ("1b4e28ba-2fa1-41d2-883f-0016d3cca427", Search("key", ("1b4e28ba-2fa1-41d2-883f-0016d3cca427",))),
        ("CA" + "e" * 32, Search("sid", ("CA" + "e" * 32,))),
        ("+15551234567", Search("number", ("+15551234567",))),
        (" 15551234567", Search("number", ("+15551234567",))),
        ("(415) 555-1212", Search("number", ("(415) 555-1212", "+14155551212"))),
        ("sip:kate@example.com", Search("to", ("sip:kate@example.com",))),
        ("client:kate", Search("to", ("client:kate",))),
        ("kate@example.com", Search("to", ("sip:kate@example.com", "sips:kate@example.com"))),
        ("order-4711", Search("key", ("order-4711",))),
        ("key:+15551234567", Search("key", ("+15551234567",))),
        (f"key: {OWN_ID}", Search("key", (OWN_ID,))),
        ("from:Jack", Search("from", ("Jack",))),
        ("to:4711", Search("to", ("4711",))),
        ("from:+15551234567", Search("from", ("+15551234567",))),
        ("Žofie", None),
        ("x" * 256, None),
        ("a\x00b", None),
        ("key:é", None),
    ],
)
def test_the_form_of_a_text_says_what_is_searched(text: str, search: Search | None) -> None:
    assert read_search(text) == search


def test_a_form_without_values_filters_nothing() -> None:
    form = read_call_form([("q", ""), ("tenant", " "), ("status", ""), ("since", "")])
    assert (form.query, form.texts, form.errors) == (CallQuery(), {}, {})


def test_a_form_is_read_whole() -> None:
    call_id = UUID(OWN_ID)
    form = read_call_form(
        [
            ("q", "order-4711"),
            ("tenant", "sales"),
            ("queue", "reminders"),
            ("execution", "not_started"),
            ("status", "busy"),
            ("problem", "upstream-rejected"),
            ("since", "2026-11-28T09:30"),
            ("until", "2026-11-28T10:30:00+01:00"),
            ("cursor", cursor_of(call_id)),
        ]
    )
    assert form.errors == {}
    assert form.query == CallQuery(
        Search("key", ("order-4711",)), "sales", "reminders", "not_started", "busy", "upstream-rejected", NOW, NOW, call_id
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("q", "Žofie"),
        ("tenant", "a\x00b"),
        ("execution", "running"),
        ("status", "answered"),
        ("problem", "upstream_rejected"),
        ("since", "yesterday"),
        ("until", "0001-01-01T00:00+23:00"),
        ("cursor", "x"),
    ],
)
def test_a_value_that_cannot_be_read_is_an_error_and_never_ignored(name: str, value: str) -> None:
    form = read_call_form([(name, value), ("status", "busy")] if name != "status" else [(name, value)])
    assert form.errors.keys() == {name}
    assert form.query == CallQuery()
    assert form.texts[name] == value


def test_an_unknown_filter_and_one_given_twice_are_errors() -> None:
    assert read_call_form([("colour", "red")]).errors.keys() == {"unknown"}
    assert read_call_form([("status", "busy"), ("status", "failed")]).errors.keys() == {"status"}


def test_a_filter_by_problem_looks_back_a_week_unless_it_says_since_when() -> None:
    week = timedelta(days=7)
    assert CallQuery(problem="none-found").with_problem_span(now=NOW).since == NOW - week
    assert CallQuery(problem="none-found", until=NOW - week).with_problem_span(now=NOW).since == NOW - 2 * week
    assert CallQuery(problem="none-found", since=NOW - 3 * week).with_problem_span(now=NOW).since == NOW - 3 * week
    assert CallQuery(status="busy").with_problem_span(now=NOW).since is None
    assert CallQuery(problem="none-found", until=datetime.min.replace(tzinfo=UTC)).with_problem_span(now=NOW).since is not None


def test_the_suggested_problems_exist() -> None:
    assert set(STORED_PROBLEMS) <= all_errors().keys()


def test_a_queue_is_named_as_queues_can_be() -> None:
    assert read_call_form([("queue", " reminders ")]).query == CallQuery(queue="reminders")
    for name in ("a queue", "x" * 64, "a\x00b", "-a"):
        assert read_call_form([("queue", name)]).errors.keys() == {"queue"}
