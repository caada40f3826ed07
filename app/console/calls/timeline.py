"""Merges events, callbacks, searches, changes and deliveries of a call into one timeline. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from app.console.calls.records import CallHistory, DeliveryRow, EventRow
from app.console.calls.words import REFUSALS, SEARCH_RESULTS, Tone, in_words, span
from app.console.filters import money
from app.console.masking import mask_json, mask_text
from app.errors import all_errors

EntryKind = Literal["call", "callback", "status", "search", "change", "delivery"]

FOLDED_FROM = timedelta(seconds=9.95)
"""A gap this long, which is rounded to 10 s, has a line of its own."""
# A shorter time between two lines would be rounded to none.
_SHOWN_FROM = timedelta(milliseconds=50)
_DATED_FROM = timedelta(hours=6)
# A callback and the status that it changes are written by one statement.
_SAME_MOMENT = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the timeline.

    `after` is the time since the line before it, `gap` says that this time was long. `has_date`: the date may be another one.
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


def timeline(history: CallHistory, *, reveal: bool = False) -> list[Entry]:
    """Returns the lines in order of time. Personal data in them is masked, unless `reveal`."""
    lines = [*_event_entries(history.events, reveal=reveal)]
    reported = {event.id: event.at for event in history.events}
    lines += [
        _delivery_entry(each, written_at=max(each.at, reported.get(each.id, each.at)), now=history.now)
        for each in history.deliveries
    ]
    lines.sort(key=lambda entry: entry.at)  # stable: events of one moment keep their order
    return list(_with_gaps(lines))


def quiet_since(entries: Sequence[Entry], history: CallHistory) -> str:
    """Returns how long nothing has happened since the last line; "" if that was a moment ago, or later lines are left out."""
    if history.has_more_events:
        return ""
    quiet = history.now - entries[-1].at if entries else timedelta(0)
    return span(quiet) if quiet >= FOLDED_FROM else ""


def _with_gaps(entries: Sequence[Entry]) -> Iterator[Entry]:
    before: datetime | None = None
    for entry in entries:
        between = entry.at - before if before else timedelta(0)
        if before is None:
            yield entry
        elif between >= FOLDED_FROM:
            yield replace(entry, gap=f"{span(between)} without an event", has_date=between >= _DATED_FROM)
        else:
            yield replace(entry, after=f"+{span(between)}" if between >= _SHOWN_FROM else "", has_date=False)
        before = entry.at


def _event_entries(events: Sequence[EventRow], *, reveal: bool) -> Iterator[Entry]:
    before: EventRow | None = None
    for event in events:
        if not (before is not None and _repeats(event, before)):
            title, detail, tone = _describe(event)
            raw = dict(event.data)
            yield Entry(
                at=event.at,
                kind=_KINDS.get(event.type, "call"),
                title=title,
                detail=detail if reveal else mask_text(detail),
                tone=tone,
                id=f"e-{event.id}",
                raw={"type": event.type, "data": raw if reveal else mask_json(raw)},
            )
        before = event


def _repeats(event: EventRow, before: EventRow) -> bool:
    """Returns whether the event is the change of status that the callback before it has reported."""
    return (
        event.type == "call.status"
        and before.type == "call.callback"
        and event.at - before.at < _SAME_MOMENT
        and event.data.get("status") == before.data.get("CallStatus")
    )


def _describe(event: EventRow) -> tuple[str, str, Tone]:
    """Returns title, detail and tone of an event."""
    describe = _DESCRIPTIONS.get(event.type)
    if describe is not None:
        return describe(event)
    # Of a subresource, or of a later version.
    data = event.data
    noun = in_words(event.type.removeprefix("call.")).capitalize()
    words = [str(data[name]) for name in ("action", "result", "sid") if data.get(name)]
    return noun, in_words(", ".join(words)), "warning" if data.get("result") == "unknown" else ""


def _describe_scheduled(event: EventRow) -> tuple[str, str, Tone]:
    if problem := event.data.get("problem"):
        return "Waits again", f"{_reason(problem)}; {_attempts(event.data)}".strip("; "), "warning"
    due = _time(event.data.get("due_at"))
    return "Scheduled", f"due in {span(due - event.at)}" if due and due > event.at else "", ""


def _describe_pending(event: EventRow) -> tuple[str, str, Tone]:
    attempt = event.data.get("attempt", 1)
    return ("Accepted", "", "") if attempt == 1 else ("Tried again", f"request {attempt} with the same key", "")


def _describe_started(event: EventRow) -> tuple[str, str, Tone]:
    how = {"callback": "a callback showed it", "list": "a search of Twilio's list showed it"}
    detail = how.get(str(event.data.get("settled_by")), "") or _attempts(event.data)
    return "Started at Twilio", detail, "ok"


def _describe_not_started(event: EventRow) -> tuple[str, str, Tone]:
    settled_by = event.data.get("settled_by")
    if settled_by in ("expired", "canceled"):
        return str(settled_by).capitalize(), "before it was dialled", "warning" if settled_by == "expired" else ""
    searches = event.data.get("searches")
    detail = f"{searches} searches found nothing" if searches else _attempts(event.data)
    return "Not started", f"{_reason(event.data.get('problem'))}; {detail}".strip("; "), "warning"


def _describe_unknown(event: EventRow) -> tuple[str, str, Tone]:
    reason = in_words(str(event.data.get("reason") or "the process that sent it has ended"))
    return "Unknown", _attempts(event.data) or reason, "warning"


def _describe_callback(event: EventRow) -> tuple[str, str, Tone]:
    data = event.data
    sip = data.get("SipResponseCode")
    parts = [f"SIP {sip}" if sip else "", f"sequence {data['SequenceNumber']}" if data.get("SequenceNumber") else ""]
    if data.get("CallDuration") not in (None, ""):
        parts.insert(0, f"{data['CallDuration']} s")
    return f"Twilio: {data.get('CallStatus') or 'callback'}", ", ".join(filter(None, parts)), ""


def _describe_status(event: EventRow) -> tuple[str, str, Tone]:
    previous = event.data.get("previous")
    return f"Status {event.data.get('status')}", f"after {previous}" if previous else "", ""


def _describe_price(event: EventRow) -> tuple[str, str, Tone]:
    try:
        price = Decimal(str(event.data.get("price")))
    except InvalidOperation:
        return "Price", "", ""
    return "Priced", money(price, event.data.get("price_unit")), ""


def _describe_search(event: EventRow) -> tuple[str, str, Tone]:
    data = event.data
    result = str(data.get("result"))
    numbers = [f"{name}: {data[name]}" for name in ("candidates", "rivals") if data.get(name)]
    reason = [in_words(str(data["reason"]))] if data.get("reason") else []
    return f"Search of Twilio's list {SEARCH_RESULTS.get(result, result)}", ", ".join([*numbers, *reason]), ""


def _describe_correction(event: EventRow) -> tuple[str, str, Tone]:
    was = event.data.get("was") or {}
    return "Has started after all", f"was {_reason(was.get('problem')) or was.get('settled_by') or 'not started'}", "danger"


def _describe_change(event: EventRow) -> tuple[str, str, Tone]:
    data = event.data
    title, tone = _CHANGES[event.type]
    status = data.get("status")
    what = "end the call" if status else ", ".join(data.get("parameters", []))
    more = [in_words(str(data["reason"]))] if data.get("reason") else []
    return title, ", ".join(filter(None, [what, *more])), tone


def _delivery_entry(delivery: DeliveryRow, *, written_at: datetime, now: datetime) -> Entry:
    """Returns the line of a delivery. It has the id of the event that it reports, and is written by another clock."""
    name, answer = f"Delivery of {delivery.event}", _answer(delivery)
    tries = "" if delivery.attempts <= 1 else f"attempt {delivery.attempts}"
    at, tone = delivery.last_attempt_at or written_at, _TONES[delivery.state]
    if delivery.state == "delivered":
        at, title = delivery.delivered_at or at, f"{name} arrived"
    elif delivery.state == "gave_up":
        title = f"{name} given up"
    elif delivery.attempts:
        title, tone = f"{name} failed", "warning"
        if delivery.next_attempt_at and delivery.next_attempt_at > now:
            answer = f"{answer}; tried again in {span(delivery.next_attempt_at - now)}".strip("; ")
    else:
        title = f"{name} waits"
        answer = "for the delivery before it" if delivery.held else ""
    return Entry(at, "delivery", title, ", ".join(filter(None, [tries, answer])), tone, id=f"d-{delivery.id}")


def _answer(delivery: DeliveryRow) -> str:
    if delivery.last_error:
        return in_words(delivery.last_error)
    return f"answered {delivery.last_status}" if delivery.last_status else ""


def _attempts(data: Mapping[str, Any]) -> str:
    """Returns how many requests were sent to Twilio, with the last answer, if it was not the expected one."""
    attempts = [each for each in data.get("attempts") or [] if isinstance(each, Mapping)]
    if not attempts:
        return ""
    last = attempts[-1]
    words = [] if last.get("result") == "started" else [in_words(str(last.get("result")))]
    answered = [f"{name} {last[name]}" for name in ("status", "code") if last.get(name)]
    words += [word for word in answered if word not in words]
    took = f"{last.get('milliseconds', 0)} ms"
    count = "" if len(attempts) == 1 else f"attempt {len(attempts)}"
    return ", ".join(filter(None, [count, *words, took]))


def _reason(problem: object) -> str:
    if not problem:
        return ""
    slug = str(problem)
    error = all_errors().get(slug)
    return REFUSALS.get(slug) or (error.title if error else slug)


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


_TONES: Final[Mapping[str, Tone]] = {"delivered": "ok", "gave_up": "danger", "pending": ""}
_CHANGES: Final[Mapping[str, tuple[str, Tone]]] = {
    "call.updated": ("Changed at Twilio", ""),
    "call.update_remembered": ("Request to end it waits", ""),
    "call.update_forgotten": ("Request to end it dropped", ""),
    "call.update_unknown": ("Change may have been made", "warning"),
}
_DESCRIPTIONS: Final[Mapping[str, Callable[[EventRow], tuple[str, str, Tone]]]] = {
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
    **dict.fromkeys(_CHANGES, _describe_change),
    "call.deleted": lambda event: ("Deleted at Twilio", f"by the {event.data.get('by')}", ""),
    "call.redialed": lambda event: ("Dialled again as another call", str(event.data.get("call_id", "")), ""),
    "call.redial_failed": lambda event: ("Redial could not be written", f"SQLSTATE {event.data.get('sqlstate')}", "danger"),
}
_KINDS: Final[Mapping[str, EntryKind]] = {
    "call.callback": "callback",
    "call.status": "status",
    "call.priced": "status",
    "call.searched": "search",
    **dict.fromkeys([*_CHANGES, "call.deleted"], "change"),
}
