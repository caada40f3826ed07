"""Words for lengths of time, results and reasons. Pure."""

from datetime import timedelta
from typing import Final, Literal

Tone = Literal["", "ok", "warning", "danger"]
"""How urgently someone should look: a class of the style sheet."""

SEARCH_RESULTS: Final = {
    "none": "found nothing",
    "ambiguous": "found calls that cannot be told apart",
    "inconclusive": "proved nothing",
    "bound": "found it",
}
REFUSALS: Final = {
    "upstream-rejected": "Twilio refused it",
    "upstream-credentials-rejected": "Twilio refused the account's credentials",
    "upstream-throttled": "Twilio took no more requests at that moment",
    "upstream-unreachable": "Twilio could not be reached, so nothing was sent",
    "database-unavailable": "The database was unavailable, so nothing was sent",
}
"""What a stored problem means, by its slug. Others are told by their title."""

_TENTHS_BELOW_S = 9.95
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def span(length: timedelta) -> str:
    """Returns a length of time in at most two units: "0.4 s", "9 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    seconds = max(length.total_seconds(), 0.0)
    if seconds < _TENTHS_BELOW_S:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for size, unit, smaller, small_unit in _UNITS:
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def in_words(word: str) -> str:
    """Returns a constant such as `clock_offset_unknown` as words."""
    return word.replace("_", " ").replace("-", " ")
