"""Makes sentences such as "Rang once, answered, 9 s, −0.00750 USD.", which say what happened to a call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.calls.last_answer import CallRow
from app.console.calls.records import CallHistory, EventRow
from app.console.calls.texts import SEARCH_RESULT_TEXTS, Tone, duration_in_words, problem_in_words, reason_in_words
from app.console.filters import money_text
from app.console.masking import mask_text
from app.twilio.schemas import TERMINAL_STATUSES

# A creation is pending for at most this long, unless no worker runs or the time budgets are set higher.
_NORMAL_PENDING_TIME = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class HistorySummary:
    """What happened to a call, in sentences. `tone` says how urgently someone should look at the call."""

    text: str
    tone: Tone


def summarize_history(history: CallHistory, *, reveal: bool = False) -> HistorySummary:
    """Returns the sentences about a call, and their tone. Masks personal data in the sentences, unless `reveal` is true."""
    summary = _DESCRIBE_BY_EXECUTION[history.call.execution](history)
    sentences = [summary.text, *_additional_sentences(history)]
    text = " ".join(sentences)
    return HistorySummary(text if reveal else mask_text(text), _overall_tone(history, summary.tone))


def _overall_tone(history: CallHistory, tone: Tone) -> Tone:
    """Returns `tone`, or a more urgent tone if something in the call's history requires attention.

    The result is "danger" if Twilio has reported a second call for the same request. It is at least "warning" if Twilio answers
    that it has no such call, or if a delivery was given up.
    """
    if _last_event(history, "call.second_sid"):
        return "danger"
    is_given_up = any(each.state == "gave_up" for each in history.deliveries)
    is_missing = history.slot is not None and history.slot.missing_since is not None
    return "warning" if (is_given_up or is_missing) and tone != "danger" else tone


def _describe_scheduled(history: CallHistory) -> HistorySummary:
    dial, now = history.dial, history.now
    if dial is None:
        return HistorySummary("Its turn has come; it is about to be dialled.", "")
    if dial.due_at > now:
        text = _describe_call_before_due_time(history, duration_in_words(dial.due_at - now))
    else:
        text = f"Has been due for {duration_in_words(now - dial.due_at)} and waits {_wait_reason_clause(history)}"
    if dial.ring_by <= now:
        return HistorySummary(f"{text}. It was not dialled by its latest time, so it expires.", "warning")
    return HistorySummary(f"{text}; it expires unless it is dialled within {duration_in_words(dial.ring_by - now)}.", "")


def _describe_call_before_due_time(history: CallHistory, wait: str) -> str:
    """Returns a sentence, without its full stop, about a scheduled call before the time at which it is due to be dialled.

    `wait` is how long it takes until that time, in words.
    """
    refused = _last_refusal_while_scheduled(history)
    if refused:
        return f"Was not started: {problem_in_words(refused)}. It is tried again in {wait}"
    return f"Waits{f' in the queue {history.queue}' if history.queue else ''} and is due in {wait}"


def _wait_reason_clause(history: CallHistory) -> str:
    """Returns why a scheduled call still waits after the time at which it was due to be dialled, such as "for its turn"."""
    if history.is_queue_paused:
        return f"because the queue {history.queue} is paused"
    return f"for its turn{f' in the queue {history.queue}' if history.queue else ''}"


def _describe_pending(history: CallHistory) -> HistorySummary:
    age = history.now - history.call.pending_since
    if age > _NORMAL_PENDING_TIME:
        return HistorySummary(f"Has been pending for {duration_in_words(age)}, too long: check that a worker runs.", "danger")
    return HistorySummary(f"Has been on its way to Twilio for {duration_in_words(age)}.", "")


def _describe_unknown(history: CallHistory) -> HistorySummary:
    call, now = history.call, history.now
    event = _last_event(history, "call.unknown")
    reason = str(event.data.get("reason", "")) if event else ""
    text = "It is unknown whether Twilio has this call"
    text += f": {reason_in_words(reason or 'abandoned')}."
    searches = [each for each in history.events if each.type == "call.searched"]
    if searches:
        result = str(searches[-1].data.get("result"))
        which = "A search" if len(searches) == 1 else f"The last of {len(searches)} searches"
        text += f" {which} of Twilio's list {SEARCH_RESULT_TEXTS.get(result, result)}."
    if call.search_at is None:
        return HistorySummary(f"{text} It is not searched for any more: only a callback can settle it.", "danger")
    when = f"in {duration_in_words(call.search_at - now)}" if call.search_at > now else "now"
    search = "The next search" if searches else "The first search of Twilio's list"
    return HistorySummary(f"{text} {search} is {when}. It is never dialled again.", "warning")


def _describe_not_started(history: CallHistory) -> HistorySummary:
    call = history.call
    if call.settled_by == "expired":
        return HistorySummary("Expired: it was not dialled before its latest time. It did not ring.", "warning")
    if call.settled_by == "canceled":
        return HistorySummary("Canceled before it was dialled. It did not ring.", "")
    if call.settled_by == "none_found":
        event = _last_event(history, "call.not_started")
        searches = event.data.get("searches") if event else None
        how_often = f"{searches} searches" if searches else "Searches"
        return HistorySummary(
            f"It was unknown whether Twilio had this call. {how_often} of Twilio's list did not find it. "
            "It most likely did not ring.",
            "warning",
        )
    return HistorySummary(f"{_describe_refusal(call.problem or {})} It did not ring.", "warning")


def _describe_refusal(problem: Mapping[str, Any]) -> str:
    said = _twilio_error_words(problem.get("upstream") or {})
    return f"{problem_in_words(problem.get('slug')) or 'Not started'}{f' ({said})' if said else ''}."


def _twilio_error_words(upstream: Mapping[str, Any]) -> str:
    """Returns Twilio's error response in words: its error code (without one, the HTTP status) and its message."""
    number = next((f"{name} {upstream[name]}" for name in ("code", "status") if upstream.get(name)), "")
    message = str(upstream.get("message") or "").strip().rstrip(".")
    return ": ".join(filter(None, [number, f"“{message}”" if message else ""]))


def _describe_started(history: CallHistory) -> HistorySummary:
    call = history.call
    if call.status not in TERMINAL_STATUSES:
        return HistorySummary(f"{_describe_call_in_progress(history)}.", "")
    words = [*_end_of_call_words(history), *_price_words(call)]
    return HistorySummary(", ".join(words) + ".", "warning" if call.status == "failed" else "ok")


def _describe_call_in_progress(history: CallHistory) -> str:
    """Returns the sentence about a started call that has not ended."""
    call, now = history.call, history.now
    status = call.status or "queued"
    since = duration_in_words(now - (_time_of_last_status(history, status) or call.settled_at or call.created_at))
    if status == "in-progress":
        return f"Rang once, answered{_answerer_words(call.answered_by)}, in progress for {since}"
    words = {"queued": "In Twilio's queue", "initiated": "Twilio has been dialling", "ringing": "Ringing"}
    return f"{words.get(status, f'Twilio has reported {status}')} for {since}"


def _end_of_call_words(history: CallHistory) -> list[str]:
    call = history.call
    sip = _sip_response(history)
    code = f" (SIP {sip})" if sip and sip != "200" else ""
    ended = " by a request through Callgate" if _was_ended_through_callgate(history) else ""
    match call.status:
        case "completed":
            length = [] if call.duration is None else [duration_in_words(timedelta(seconds=call.duration))]
            return [f"Rang once, answered{_answerer_words(call.answered_by)}", *length, *([f"ended{ended}"] if ended else [])]
        case "busy":
            return [f"Dialled once, busy{code}"]
        case "no-answer":
            return [f"Rang once, no answer{code}"]
        case "canceled":
            return [f"Canceled{ended} before it was answered{code}"]
    return [f"Twilio could not complete the call{code}"]


def _price_words(call: CallRow) -> list[str]:
    if call.price is None:
        return ["no price yet"] if call.status == "completed" else []
    return [money_text(call.price, call.price_unit)]


def _answerer_words(answered_by: str | None) -> str:
    """Returns the words that say who answered, such as " by a machine"; "" if that is unknown."""
    if not answered_by or answered_by in ("human", "unknown"):
        return f" by a {answered_by}" if answered_by == "human" else ""
    return " by a fax machine" if answered_by == "fax" else " by a machine"


def _additional_sentences(history: CallHistory) -> list[str]:
    """Returns sentences to add after the description of the call's state.

    There is a sentence for each fact that applies. It was unknown whether the call had started. The call was wrongly reported
    as not started. Twilio reports a second call for the request. A request to end the call is stored. The call was deleted at
    Twilio, or Twilio does not find it. Deliveries failed or were given up. The call is a redial, or was redialled.
    """
    call = history.call
    more = []
    if call.execution == "started" and call.settled_by in ("callback", "list"):
        how = "a callback" if call.settled_by == "callback" else "a search of Twilio's list"
        length = duration_in_words(call.settled_at - call.pending_since) if call.settled_at else "a time"
        more.append(f"Whether it had started was unknown for {length}, until {how} showed it.")
    corrected = _last_event(history, "call.corrected")
    if corrected:
        was = corrected.data.get("was") or {}
        why = problem_in_words(was.get("problem") or was.get("settled_by"))
        more.append(f"At first it was reported as not started{f': {why}' if why else ''}.")
    if _last_event(history, "call.second_sid"):
        more.append("Twilio reports a second call for this record, which must not happen: please report it.")
    if history.pending_end and call.execution != "started":
        more.append("It is ended as soon as it is known to have started.")
    elif history.pending_end and call.status not in TERMINAL_STATUSES:
        more.append("The request to end it is repeated until Twilio accepts or refuses it.")
    if call.deleted_at is not None:
        more.append("It was deleted at Twilio.")
    elif history.slot and history.slot.missing_since:
        more.append(
            f"For {duration_in_words(history.now - history.slot.missing_since)}, Twilio has answered that it has no such call. "
            "Until it has one, or the call is taken as deleted an hour after its start, it counts as a concurrent call of "
            "its account and queue."
        )
    more += _delivery_sentences(history)
    if call.redial_of is not None:
        more.append("It is the redial of an earlier call.")
    if history.redial_id is not None:
        more.append("It is redialled as another call, as its `redial` asks.")
    return more


def _delivery_sentences(history: CallHistory) -> list[str]:
    given_up = sum(each.state == "gave_up" for each in history.deliveries)
    failed = sum(each.state == "pending" and each.attempts > 0 for each in history.deliveries)
    sentences = []
    if given_up:
        sentences.append(f"{_delivery_count_with_verb(given_up, 'was', 'were')} given up.")
    if failed:
        verb = "is" if failed == 1 else "are"
        sentences.append(f"{_delivery_count_with_verb(failed, 'has', 'have')} failed so far and {verb} tried again.")
    return sentences


def _delivery_count_with_verb(number: int, one: str, many: str) -> str:
    """Returns the number of deliveries with its verb (`one` or `many`), such as "1 delivery was" or "2 deliveries were"."""
    return f"1 delivery {one}" if number == 1 else f"{number} deliveries {many}"


def _last_event(history: CallHistory, type_: str) -> EventRow | None:
    """Returns the last event of this type; None if the call has no such event."""
    return next((event for event in reversed(history.events) if event.type == type_), None)


def _last_refusal_while_scheduled(history: CallHistory) -> str | None:
    event = _last_event(history, "call.scheduled")
    problem = event.data.get("problem") if event else None
    return None if problem is None else str(problem)


def _time_of_last_status(history: CallHistory, status: str) -> datetime | None:
    """Returns when the call got this status; None if the call has no status event, or if the last one has another status."""
    event = _last_event(history, "call.status")
    return event.at if event and event.data.get("status") == status else None


def _sip_response(history: CallHistory) -> str | None:
    callback = _last_event(history, "call.callback")
    code = callback.data.get("SipResponseCode") if callback else None
    return None if code is None else str(code)


def _was_ended_through_callgate(history: CallHistory) -> bool:
    event = _last_event(history, "call.updated")
    return event is not None and event.data.get("status") in ("canceled", "completed")


_DESCRIBE_BY_EXECUTION: Final[Mapping[str, Callable[[CallHistory], HistorySummary]]] = {
    "scheduled": _describe_scheduled,
    "pending": _describe_pending,
    "unknown": _describe_unknown,
    "not_started": _describe_not_started,
    "started": _describe_started,
}
