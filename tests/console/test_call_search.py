"""Tests how the list of calls interprets its search box and its filters."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.calls.ids import encode_call_cursor
from app.console.calls.search import CREATION_PROBLEM_SLUGS, CallListFilters, CallSearch, parse_call_list_form, parse_search
from app.errors import error_classes_by_slug

OWN_ID = "01a20722-82cb-7520-b5df-0e45ebf88f42"
NOW = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "search"),
    [
        (OWN_ID, CallSearch("id", (OWN_ID,))),
        (f"  {OWN_ID.upper()} ", CallSearch("id", (OWN_ID,))),
        ("1b4e28ba-2fa1-41d2-883f-0016d3cca427", CallSearch("key", ("1b4e28ba-2fa1-41d2-883f-0016d3cca427",))),
        ("CA" + "e" * 32, CallSearch("sid", ("CA" + "e" * 32,))),
        ("+15551234567", CallSearch("number", ("+15551234567",))),
        (" 15551234567", CallSearch("number", ("+15551234567",))),
        ("(415) 555-1212", CallSearch("number", ("(415) 555-1212", "+14155551212"))),
        ("sip:kate@example.com", CallSearch("to", ("sip:kate@example.com",))),
        ("client:kate", CallSearch("to", ("client:kate",))),
        ("kate@example.com", CallSearch("to", ("sip:kate@example.com", "sips:kate@example.com"))),
        ("order-4711", CallSearch("key", ("order-4711",))),
        ("key:+15551234567", CallSearch("key", ("+15551234567",))),
        (f"key: {OWN_ID}", CallSearch("key", (OWN_ID,))),
        ("from:Jack", CallSearch("from", ("Jack",))),
        ("to:4711", CallSearch("to", ("4711",))),
        ("from:+15551234567", CallSearch("from", ("+15551234567",))),
        ("Žofie", None),
        ("x" * 256, None),
        ("a\x00b", None),
        ("key:é", None),
    ],
)
def test_the_form_of_a_text_says_what_is_searched(text: str, search: CallSearch | None) -> None:
    assert parse_search(text) == search


def test_a_form_without_values_filters_nothing() -> None:
    form = parse_call_list_form([("q", ""), ("tenant", " "), ("status", ""), ("since", "")])
    assert (form.query, form.texts, form.errors) == (CallListFilters(), {}, {})


def test_a_form_is_read_whole() -> None:
    call_id = UUID(OWN_ID)
    form = parse_call_list_form(
        [
            ("q", "order-4711"),
            ("tenant", "sales"),
            ("queue", "reminders"),
            ("execution", "not_started"),
            ("status", "busy"),
            ("problem", "upstream-rejected"),
            ("since", "2026-11-28T09:30"),
            ("until", "2026-11-28T10:30:00+01:00"),
            ("cursor", encode_call_cursor(call_id)),
        ]
    )
    assert form.errors == {}
    assert form.query == CallListFilters(
        CallSearch("key", ("order-4711",)), "sales", "reminders", "not_started", "busy", "upstream-rejected", NOW, NOW, call_id
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
    form = parse_call_list_form([(name, value), ("status", "busy")] if name != "status" else [(name, value)])
    assert form.errors.keys() == {name}
    assert form.query == CallListFilters()
    assert form.texts[name] == value


def test_an_unknown_filter_and_one_given_twice_are_errors() -> None:
    assert parse_call_list_form([("colour", "red")]).errors.keys() == {"unknown"}
    assert parse_call_list_form([("status", "busy"), ("status", "failed")]).errors.keys() == {"status"}


def test_a_filter_by_problem_looks_back_a_week_unless_it_says_since_when() -> None:
    week = timedelta(days=7)
    assert CallListFilters(problem="none-found").with_default_since(now=NOW).since == NOW - week
    assert CallListFilters(problem="none-found", until=NOW - week).with_default_since(now=NOW).since == NOW - 2 * week
    assert CallListFilters(problem="none-found", since=NOW - 3 * week).with_default_since(now=NOW).since == NOW - 3 * week
    assert CallListFilters(status="busy").with_default_since(now=NOW).since is None
    assert (
        CallListFilters(problem="none-found", until=datetime.min.replace(tzinfo=UTC)).with_default_since(now=NOW).since
        is not None
    )


def test_the_suggested_problems_exist() -> None:
    assert set(CREATION_PROBLEM_SLUGS) <= error_classes_by_slug().keys()


def test_a_queue_is_named_as_queues_can_be() -> None:
    assert parse_call_list_form([("queue", " reminders ")]).query == CallListFilters(queue="reminders")
    for name in ("a queue", "x" * 64, "a\x00b", "-a"):
        assert parse_call_list_form([("queue", name)]).errors.keys() == {"queue"}
