"""Words for the pages about calls: for durations, results of searches of Twilio's list of calls, reasons and problems."""

from datetime import timedelta
from typing import Final, Literal

from app.errors import error_classes_by_slug

Tone = Literal["", "ok", "warning", "danger"]
"""How urgently someone should look at something. The value is the name of a class in the style sheet; "" means not urgent."""

SEARCH_RESULT_TEXTS: Final = {
    "none": "found nothing",
    "ambiguous": "found several calls, and cannot tell which one it is",
    "inconclusive": "proves nothing",
    "bound": "found it",
}
REFUSAL_TEXTS: Final = {
    "upstream-rejected": "Twilio refused it",
    "upstream-credentials-rejected": "Twilio refused the account's credentials",
    "upstream-throttled": "Twilio took no more requests at that moment",
    "upstream-unreachable": "The last attempt could not be sent to Twilio",
    "database-unavailable": "The database was unavailable, so nothing was sent",
}
"""Explanations of some problems with which a creation can end, by slug.

For every other problem, the page shows the problem's title.
"""
_REASON_TEXTS: Final = {
    "abandoned": "the process that sent it has ended",
    "grant_lost": "whether it was dialled was not recorded",
    "sid_taken": "Twilio's answer named another call",
    "answer_of_another_call": "Twilio's answer named another call",
    "answer_without_sid": "Twilio's answer did not name the call",
    "unreadable_answer": "Twilio's answer could not be read",
    "answer_too_long": "Twilio's answer could not be read",
    "contradictory_answers": "Twilio's answers contradicted each other",
    **dict.fromkeys(("connect_error", "connect_timeout", "pool_timeout"), "no connection"),
    **dict.fromkeys(("read_timeout", "write_timeout", "deadline"), "no answer in time"),
    **dict.fromkeys(("read_error", "write_error", "close_error", "remote_protocol_error"), "the connection broke"),
    "no_credential": "the account has no usable credential",
    "credential_rejected": "Twilio refused the credential",
    "rejected": "Twilio refused it",
    "throttled": "Twilio took no more requests at that moment",
    "list_too_long": "Twilio's list could not be read to its end",
    "clock_offset_unknown": "it is not known whether Twilio's clock is right",
    "clock_offset_too_large": "Twilio's clock differs too much from the database's",
    "not_started": "the call was not started",
    "ended": "the call had ended",
}

_SHOW_TENTHS_BELOW_S = 9.95
_TIME_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def duration_in_words(length: timedelta) -> str:
    """Returns a length of time in at most two units: "0.4 s", "9 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    seconds = max(length.total_seconds(), 0.0)
    if seconds < _SHOW_TENTHS_BELOW_S:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for size, unit, smaller, small_unit in _TIME_UNITS:
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def with_spaces(word: str) -> str:
    """Returns the word with spaces instead of `_` and `-`: "user defined message" for `user_defined_message`."""
    return word.replace("_", " ").replace("-", " ")


def reason_in_words(reason: str) -> str:
    """Returns in words why a request to Twilio, or a search of Twilio's list of calls, had no result.

    `reason` is a word such as `read_timeout` or `status_500`.
    """
    if reason.startswith("status_"):
        return f"the answer had {with_spaces(reason)}"
    return _REASON_TEXTS.get(reason) or with_spaces(reason)


def problem_in_words(problem: object) -> str:
    """Returns in words what an API error means. `problem` is its slug: the last part of its `type` in problem+json.

    Returns "" for None, and an unknown slug unchanged.
    """
    slug = str(problem or "")
    error = error_classes_by_slug().get(slug)
    return REFUSAL_TEXTS.get(slug) or (error.title if error else slug)
