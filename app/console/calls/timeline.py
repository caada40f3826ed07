"""Merges all that happened to a call into one timeline: callbacks, searches of Twilio's calls, changes and deliveries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from app.console.calls.records import CallHistory, DeliveryRow, EventRow
from app.console.calls.texts import SEARCH_RESULT_TEXTS, Tone, duration_in_words, problem_in_words, reason_in_words, with_spaces
from app.console.deliveries.texts import error_in_words
from app.console.filters import money_text
from app.console.masking import mask_json, mask_text

EntryKind = Literal["call", "callback", "status", "search", "change", "delivery"]

MIN_SHOWN_GAP = timedelta(seconds=9.95)
"""The shortest time between two events that has a line of its own. It is 9.95 s, because that is shown as "10 s"."""
# A shorter time between two lines is not shown: it would be rounded to 0 s.
_MIN_SHOWN_TIME = timedelta(milliseconds=50)
_MIN_GAP_WITH_DATE = timedelta(hours=6)
# A callback and the status that it changes are written by one statement.
_MAX_STATUS_DELAY = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A line of the timeline.

    The time since the previous line, in words, is in `after` if it is shorter than MIN_SHOWN_GAP, and in `gap` if it is longer.
    A field without a time is "". `has_date` says whether the line shows its date as well as its time.
    """

    at: datetime
    kind: EntryKind
    title: str
    detail: str = ""
    tone: Tone = ""
    id: str = ""
    raw: Mapping[str, Any] | None = None
    after: str = ""
    gap: str = ""
    has_date: bool = True


def timeline_entries(history: CallHistory, *, reveal: bool = False) -> list[TimelineEntry]:
    """Returns the lines of the timeline in order of time. Masks personal data in the lines unless `reveal` is true."""
    lines = [*_event_entries(history.events, reveal=reveal)]
    reported = {event.id: event.at for event in history.events}
    lines += [
        _delivery_entry(each, written_at=max(each.at, reported.get(each.id, each.at)), now=history.now)
        for each in history.deliveries
    ]
    lines.sort(key=lambda entry: entry.at)  # stable: events of one moment keep their order
    return list(_with_times_since_previous_line(lines))


def time_since_last_entry(entries: Sequence[TimelineEntry], history: CallHistory) -> str:
    """Returns in words how much time has passed since the last line of the timeline.

    Returns "" if this time is shorter than MIN_SHOWN_GAP, or if the call has so many events that the history lacks the latest
    ones.
    """
    if history.has_more_events:
        return ""
    quiet = history.now - entries[-1].at if entries else timedelta(0)
    return duration_in_words(quiet) if quiet >= MIN_SHOWN_GAP else ""


def _with_times_since_previous_line(entries: Sequence[TimelineEntry]) -> Iterator[TimelineEntry]:
    before: datetime | None = None
    for entry in entries:
        between = entry.at - before if before else timedelta(0)
        if before is None:
            yield entry
        elif between >= MIN_SHOWN_GAP:
            yield replace(entry, gap=f"{duration_in_words(between)} without an event", has_date=between >= _MIN_GAP_WITH_DATE)
        else:
            yield replace(entry, after=f"+{duration_in_words(between)}" if between >= _MIN_SHOWN_TIME else "", has_date=False)
        before = entry.at


def _event_entries(events: Sequence[EventRow], *, reveal: bool) -> Iterator[TimelineEntry]:
    callback: EventRow | None = None
    for event in events:
        if event.type == "call.callback":
            callback = event
        if not (callback is not None and _is_status_in_callback(event, callback)):
            title, detail, tone = _describe_event(event)
            raw = dict(event.data)
            yield TimelineEntry(
                at=event.at,
                kind=_ENTRY_KINDS.get(event.type, "call"),
                title=title,
                detail=detail if reveal else mask_text(detail),
                tone=tone,
                id=f"e-{event.id}",
                raw={"type": event.type, "data": raw if reveal else mask_json(raw)},
            )


def _is_status_in_callback(event: EventRow, callback: EventRow) -> bool:
    """Returns whether the event only repeats the status that `callback`, the last callback before the event, reported."""
    return (
        event.type == "call.status"
        and event.at - callback.at < _MAX_STATUS_DELAY
        and event.data.get("status") == callback.data.get("CallStatus")
    )


def _describe_event(event: EventRow) -> tuple[str, str, Tone]:
    """Returns the title, the detail and the tone (how urgent it is) of an event's line in the timeline."""
    describe = _DESCRIBE_BY_EVENT_TYPE.get(event.type)
    if describe is not None:
        return describe(event)
    # An event about a subresource, or of a later version of Callgate.
    data = event.data
    noun = with_spaces(event.type.removeprefix("call.")).capitalize()
    result = str(data.get("result") or "")
    words = [str(data.get("action") or ""), _UPDATE_RESULTS.get(result) or with_spaces(result), str(data.get("sid") or "")]
    words += [reason_in_words(str(data["reason"]))] if data.get("reason") else []
    return noun, ", ".join(filter(None, words)), "warning" if result == "unknown" else ""


def _describe_scheduled(event: EventRow) -> tuple[str, str, Tone]:
    if problem := event.data.get("problem"):
        return "Waits to be tried again", _with_request_facts(problem_in_words(problem), event.data), "warning"
    due = _parse_time(event.data.get("due_at"))
    return "Scheduled", f"due in {duration_in_words(due - event.at)}" if due and due > event.at else "", ""


def _describe_pending(event: EventRow) -> tuple[str, str, Tone]:
    attempt = event.data.get("attempt", 1)
    return ("Sending to Twilio", "", "") if attempt == 1 else ("Sending to Twilio again", f"attempt {attempt}", "")


def _describe_started(event: EventRow) -> tuple[str, str, Tone]:
    how = {"callback": "a callback shows it", "list": "a search of Twilio's list shows it"}
    return (
        "Started at Twilio",
        how.get(str(event.data.get("settled_by")), "") or _with_request_facts("answered", event.data),
        "ok",
    )


def _describe_not_started(event: EventRow) -> tuple[str, str, Tone]:
    settled_by = event.data.get("settled_by")
    if settled_by in ("expired", "canceled"):
        return str(settled_by).capitalize(), "before it was dialled", "warning" if settled_by == "expired" else ""
    if searches := event.data.get("searches"):
        return "Taken as not started", f"{searches} searches of Twilio's list did not find it", "warning"
    return "Not started", _with_request_facts(problem_in_words(event.data.get("problem")), event.data), "warning"


def _describe_unknown(event: EventRow) -> tuple[str, str, Tone]:
    reason = reason_in_words(str(event.data.get("reason") or "abandoned"))
    return "Unknown whether it has started", _with_request_facts(reason, event.data), "warning"


def _describe_callback(event: EventRow) -> tuple[str, str, Tone]:
    data = event.data
    sip = data.get("SipResponseCode")
    parts = [f"SIP {sip}" if sip else "", f"sequence number {data['SequenceNumber']}" if data.get("SequenceNumber") else ""]
    if data.get("CallDuration") not in (None, "", "0"):
        parts.insert(0, f"lasted {data['CallDuration']} s")
    return f"Twilio reports: {data.get('CallStatus') or 'a callback'}", ", ".join(filter(None, parts)), ""


def _describe_status(event: EventRow) -> tuple[str, str, Tone]:
    previous = event.data.get("previous")
    return f"Status: {event.data.get('status')}", f"before: {previous}" if previous else "", ""


def _describe_price(event: EventRow) -> tuple[str, str, Tone]:
    try:
        price = Decimal(str(event.data.get("price")))
    except InvalidOperation:
        return "Price", "", ""
    return "Priced", money_text(price, event.data.get("price_unit")), ""


def _describe_search(event: EventRow) -> tuple[str, str, Tone]:
    data = event.data
    result = str(data.get("result"))
    words = [f"{noun}: {data[name]}" for name, noun in _SEARCH_COUNT_TEXTS.items() if data.get(name) and result != "bound"]
    words += [reason_in_words(str(data["reason"]))] if data.get("reason") else []
    return f"Search of Twilio's list {SEARCH_RESULT_TEXTS.get(result, result)}", ", ".join(words), ""


def _describe_correction(event: EventRow) -> tuple[str, str, Tone]:
    was = event.data.get("was") or {}
    why = problem_in_words(was.get("problem") or was.get("settled_by"))
    return "Has started after all", f"it was reported as not started{f': {why}' if why else ''}", "danger"


def _describe_change(event: EventRow) -> tuple[str, str, Tone]:
    data = event.data
    title, tone = _CALL_END_TEXTS[event.type] if data.get("status") else _CHANGE_TEXTS[event.type]
    words = [] if data.get("status") else [str(name) for name in data.get("parameters", [])]
    words += ["the request had to wait until then"] if data.get("remembered") else []
    words += [reason_in_words(str(data["reason"]))] if data.get("reason") else []
    return title, ", ".join(words), tone


def _delivery_entry(delivery: DeliveryRow, *, written_at: datetime, now: datetime) -> TimelineEntry:
    """Returns the timeline's line for a delivery. The line's time is that of the last attempt to send the delivery.

    If there was no attempt, the time is `written_at`.

    `written_at` must not be earlier than the event that the delivery reports; otherwise the line would stand before that event.
    """
    name, answer = f"Delivery “{delivery.event}”", _receiver_answer_text(delivery)
    tries = "" if delivery.attempts <= 1 else f"attempt {delivery.attempts}"
    at, tone = delivery.last_attempt_at or written_at, _DELIVERY_TONES[delivery.state]
    if delivery.state == "delivered":
        at, title = delivery.delivered_at or at, f"{name} arrived"
    elif delivery.state == "gave_up":
        title = f"{name} given up"
    elif delivery.attempts:
        title, tone = f"{name} failed", "warning"
        if delivery.next_attempt_at and delivery.next_attempt_at > now:
            answer = f"{answer}, tried again in {duration_in_words(delivery.next_attempt_at - now)}"
    else:
        title = f"{name} waits"
        answer = "for an earlier event of the call" if delivery.held else ""
    return TimelineEntry(at, "delivery", title, ", ".join(filter(None, [tries, answer])), tone, id=f"d-{delivery.id}")


def _receiver_answer_text(delivery: DeliveryRow) -> str:
    """Returns in words the status of the receiver's last answer, or why there was no answer; "" before the first attempt."""
    if delivery.last_error is None and delivery.last_status:
        return f"answered {delivery.last_status}"
    return error_in_words(delivery.last_error, None) or ""


def _with_request_facts(text: str, data: Mapping[str, Any]) -> str:
    """Returns the text with facts about the event's requests to Twilio: their number, and how the last one was answered.

    `data` is the data of the event, which lists the requests in `attempts`. If there are none, returns `text` unchanged.
    """
    attempts = [each for each in data.get("attempts") or [] if isinstance(each, Mapping)]
    if not attempts:
        return text
    last = attempts[-1]
    numbers = [words for name in ("status", "code") if last.get(name) and (words := f"{name} {last[name]}") not in text]
    answered = f"{text} ({', '.join(numbers)})" if numbers else text
    count = "" if len(attempts) == 1 else f"{len(attempts)} attempts, the last: "
    return f"{count}{answered} after {last.get('milliseconds', 0)} ms"


def _parse_time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


_DELIVERY_TONES: Final[Mapping[str, Tone]] = {"delivered": "ok", "gave_up": "danger", "pending": ""}
_DELETED_BY_TEXTS: Final = {"tenant": "through Callgate", "twilio": "not through Callgate"}
_UPDATE_RESULTS: Final = {"sent": "sent to Twilio", "unknown": "it is unknown whether Twilio did it"}
_SEARCH_COUNT_TEXTS: Final = {"candidates": "calls that it could be", "rivals": "other requests that could have placed them"}
_CHANGE_TEXTS: Final[Mapping[str, tuple[str, Tone]]] = {
    "call.updated": ("Changed through Callgate", ""),
    "call.update_remembered": ("Request to change it stored", ""),
    "call.update_forgotten": ("Request to change it dropped", ""),
    "call.update_unknown": ("Unknown whether it was changed", "warning"),
}
# For changes that end the call.
_CALL_END_TEXTS: Final[Mapping[str, tuple[str, Tone]]] = {
    "call.updated": ("Ended through Callgate", ""),
    "call.update_remembered": ("Request to end it stored", ""),
    "call.update_forgotten": ("Request to end it dropped", ""),
    "call.update_unknown": ("Unknown whether it was ended", "warning"),
}
_DESCRIBE_BY_EVENT_TYPE: Final[Mapping[str, Callable[[EventRow], tuple[str, str, Tone]]]] = {
    "call.scheduled": _describe_scheduled,
    "call.pending": _describe_pending,
    "call.started": _describe_started,
    "call.not_started": _describe_not_started,
    "call.unknown": _describe_unknown,
    "call.callback": _describe_callback,
    "call.status": _describe_status,
    "call.priced": _describe_price,
    "call.searched": _describe_search,
    "call.corrected": _describe_correction,
    "call.second_sid": lambda event: ("Second call at Twilio", str(event.data.get("sid", "")), "danger"),
    **dict.fromkeys(_CHANGE_TEXTS, _describe_change),
    "call.deleted": lambda event: ("Deleted at Twilio", _DELETED_BY_TEXTS.get(str(event.data.get("by")), ""), ""),
    "call.redialed": lambda event: ("Redialled as another call", str(event.data.get("call_id", "")), ""),
    "call.redial_expired": lambda _: ("Not redialled: the end was known too late", "", "warning"),
    "call.redial_not_written": lambda event: ("The redial was not written", f"SQLSTATE {event.data.get('sqlstate')}", "danger"),
}
_ENTRY_KINDS: Final[Mapping[str, EntryKind]] = {
    "call.callback": "callback",
    "call.status": "status",
    "call.priced": "status",
    "call.searched": "search",
    **dict.fromkeys([*_CHANGE_TEXTS, "call.deleted"], "change"),
}
