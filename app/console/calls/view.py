"""Turns calls into the texts, links and tables that the templates of the pages about calls show."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

from app.calls.search_plan import is_outcome_open
from app.console.calls.curl import curl_command, missing_secrets
from app.console.calls.member_rows import NameValueRow, parameter_rows, resource_rows
from app.console.calls.records import CallHistory, CallListLine, DeliveryRow
from app.console.calls.search import CallListFilterForm, CallSearch
from app.console.calls.summary import HistorySummary, summarize_history
from app.console.calls.texts import duration_in_words, problem_in_words
from app.console.calls.timeline import TimelineEntry, time_since_last_entry, timeline_entries
from app.console.deliveries.texts import can_be_sent_again, error_in_words, state_and_note_in_words
from app.console.masking import mask_address, mask_idempotency_key, mask_json, mask_text, mask_url
from app.console.times import format_form_time, read_form_time
from app.twilio.schemas import TERMINAL_STATUSES

CALLS_PATH: Final = "/console/calls"

_SEARCH_KIND_TEXTS: Final[Mapping[str, str]] = {
    "id": "a call's id",
    "sid": "Twilio's sid",
    "number": "a phone number, called or calling",
    "to": "an address that was called",
    "from": "a caller",
    "key": "an idempotency key",
}
# Seconds until a page refreshes itself: often after a recent event, seldom otherwise.
_FAST_REFRESH_INTERVAL_S, _SLOW_REFRESH_INTERVAL_S = 2, 15
# A price, a delivery or a correction may come for a while after the end of a call.
_REFRESH_TIME_AFTER_END = timedelta(minutes=10)
_FAST_REFRESH_PERIOD = timedelta(hours=1)


def search_kind_text(search: CallSearch | None) -> str:
    """Returns in words how the text in the search box was understood, such as "an idempotency key"; "" if `search` is None."""
    return _SEARCH_KIND_TEXTS[search.kind] if search else ""


def badge_text(call: Any) -> str:
    """Returns the word in a call's badge.

    For a started call it is Twilio's status, otherwise Callgate's `execution`, such as "pending".
    """
    return str((call.status or "started") if call.execution == "started" else call.execution)


def duration_text(call: Any) -> str:
    """Returns the length of a call in words, or "" if the call was not answered or has not ended."""
    return duration_in_words(timedelta(seconds=call.duration)) if call.duration and call.status in TERMINAL_STATUSES else ""


def refusal_text(line: CallListLine) -> str:
    """Returns why a call was not started, as a text to show beside the badge; "" for any other call."""
    if line.execution != "not_started":
        return ""
    if line.settled_by in ("expired", "canceled"):
        return f"{line.settled_by} before it was dialled"
    return problem_in_words(line.problem)


def time_field_value(form: CallListFilterForm, name: str) -> str:
    """Returns the UTC time to show in the form's field `name`; "" if that field is empty or cannot be read."""
    try:
        read = read_form_time(form.texts.get(name, ""))
    except ValueError:
        return ""
    return format_form_time(read) if read else ""


def call_list_page_url(form: CallListFilterForm, cursor: str | None) -> str | None:
    """Returns the URL of the page that begins at the cursor, with the same filters; None if there is no cursor."""
    if cursor is None:
        return None
    filters = {name: value for name, value in form.texts.items() if name != "cursor"}
    return f"{CALLS_PATH}?{urlencode(filters | {'cursor': cursor})}"


def first_call_list_page_url(form: CallListFilterForm) -> str | None:
    """Returns the URL of the list's first page, with the same filters; None if the current page is the first one."""
    if "cursor" not in form.texts:
        return None
    filters = {name: value for name, value in form.texts.items() if name != "cursor"}
    return f"{CALLS_PATH}?{urlencode(filters)}" if filters else CALLS_PATH


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """A delivery, as a line of the table below the timeline on the page of a call."""

    row: DeliveryRow
    url: str
    answer: str
    next_in: str
    state: str
    can_be_sent_again: bool


@dataclass(frozen=True, slots=True)
class CallView:
    """A call as its page shows it. Personal data is masked, unless `revealed`."""

    history: CallHistory
    revealed: bool
    summary: HistorySummary
    state: str
    to: str
    from_: str
    idempotency_key: str | None
    length: str
    entries: Sequence[TimelineEntry]
    time_since_last_event: str
    """The time since the last event, in words; "" if this time is short, or if the page does not refresh itself."""
    deliveries: Sequence[DeliveryLine]
    can_end: bool
    refresh_interval_s: int | None
    """The page refreshes itself after this number of seconds.

    None if it does not, because no more events are expected or because the page shows personal data.
    """
    parameters: Sequence[NameValueRow]
    resource: Sequence[NameValueRow]
    warnings: Sequence[Mapping[str, Any]]
    problem: Sequence[NameValueRow]
    raw: str
    """The call's parameters, warnings and problem and Twilio's resource, as one JSON text."""
    curl: str | None
    """The curl command that creates a call with the same parameters; None while personal data is masked."""
    missing_secrets: Sequence[str]


def make_call_view(history: CallHistory, *, reveal: bool = False) -> CallView:
    call = history.call
    entries = timeline_entries(history, reveal=reveal)
    refresh_interval_s = None if reveal else _page_refresh_interval_s(history)
    show = str if reveal else mask_address
    show_text = str if reveal else mask_text
    return CallView(
        history=history,
        revealed=reveal,
        summary=summarize_history(history, reveal=reveal),
        state=badge_text(call),
        to=show(call.to),
        from_=show(call.from_),
        idempotency_key=call.idempotency_key and (str if reveal else mask_idempotency_key)(call.idempotency_key),
        length=duration_text(call),
        entries=entries,
        time_since_last_event=time_since_last_entry(entries, history) if refresh_interval_s else "",
        deliveries=[_delivery_line(each, history, reveal=reveal) for each in history.deliveries],
        can_end=can_be_ended(call),
        refresh_interval_s=refresh_interval_s,
        parameters=parameter_rows(call.parameters, reveal=reveal),
        resource=resource_rows(call.resource, reveal=reveal),
        warnings=[{name: show_text(str(value)) for name, value in warning.items()} for warning in call.warnings],
        problem=_problem_rows(call.problem, reveal=reveal),
        raw=_record_as_json(call, reveal=reveal),
        curl=curl_command(call.parameters, account_sid=call.account_sid) if reveal else None,
        missing_secrets=missing_secrets(call.parameters),
    )


def can_be_ended(call: Any) -> bool:
    """Returns whether a request to end the call can have an effect.

    Returns True if the call is scheduled, may have started, or has started and not ended.
    """
    if call.execution == "started":
        return call.status not in TERMINAL_STATUSES and call.deleted_at is None
    return call.execution == "scheduled" or is_outcome_open(call)


def _page_refresh_interval_s(history: CallHistory) -> int | None:
    call, now = history.call, history.now
    if can_be_ended(call):
        last = history.events[-1].at if history.events else call.created_at
        return _FAST_REFRESH_INTERVAL_S if now - last < _FAST_REFRESH_PERIOD else _SLOW_REFRESH_INTERVAL_S
    if now - call.updated_at > _REFRESH_TIME_AFTER_END:
        return None
    has_price = call.execution != "started" or call.price is not None
    is_delivered = all(each.state != "pending" for each in history.deliveries)
    return None if has_price and is_delivered else _FAST_REFRESH_INTERVAL_S


def _delivery_line(delivery: DeliveryRow, history: CallHistory, *, reveal: bool) -> DeliveryLine:
    due = delivery.next_attempt_at
    url = delivery.url or ""
    return DeliveryLine(
        delivery,
        url=url if reveal else mask_url(url),
        answer=error_in_words(delivery.last_error, None) or str(delivery.last_status or ""),
        next_in="" if due is None else duration_in_words(due - history.now) if due > history.now else "now",
        state=state_and_note_in_words(delivery)[0],
        can_be_sent_again=can_be_sent_again(delivery),
    )


def _problem_rows(problem: Mapping[str, Any] | None, *, reveal: bool) -> list[NameValueRow]:
    if not problem:
        return []
    upstream = problem.get("upstream") or {}
    detail = str(problem.get("detail") or "")
    # A detail that refers to `upstream` is left out: the members of `upstream` have rows of their own.
    rows = [("Problem", problem.get("slug")), ("Detail", "" if "`upstream`" in detail else detail)]
    rows += [(each["pointer"], each["detail"]) for each in problem.get("errors") or ()]
    rows += [(f"Twilio's {name.replace('_', ' ')}", value) for name, value in upstream.items()]
    return [(name, str(value) if reveal else mask_text(str(value))) for name, value in rows if value not in (None, "")]


def _record_as_json(call: Any, *, reveal: bool) -> str:
    shown = {"parameters": call.parameters, "warnings": call.warnings, "problem": call.problem, "resource": call.resource}
    shown = {name: value for name, value in shown.items() if value}
    return as_json(shown if reveal else mask_json(shown))


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
