"""Decides which call in Twilio's list belongs to a record. A call is bound only if the match is unambiguous."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from app.calls import repository
from app.calls.models import Call
from app.database.engine import Session
from app.jobs.candidates import DATE_TOLERANCE, MAX_CLOCK_SKEW, Candidates
from app.twilio.schemas import CallResource

SearchResult = Literal["bound", "ambiguous", "inconclusive", "none"]
"""How a search of Twilio's list ended.

`bound`: the call was found. `ambiguous`: calls were found, and it is uncertain which one it is. `inconclusive`: none was found,
but the list may lack one. `none`: there is none.
"""


class SearchFinding(NamedTuple):
    """The result of a search for one call. `data` has details, such as the number of candidates, for the call's event.

    If the result is `bound`, `resource` is the call at Twilio that belongs to the record.
    """

    result: SearchResult
    data: Mapping[str, Any]
    resource: CallResource | None = None


async def evaluate_candidates(
    session: Session,
    call: Call,
    candidates: Candidates,
    clock_offset: timedelta | None,
    *,
    max_start_delay: timedelta,
    unrecorded_rivals: int = 0,
) -> SearchFinding:
    """Decides whether one of the candidates is the call of the record `call`. The caller must have locked the record.

    Writes nothing. `max_start_delay` is the longest time from `call.pending_since` until Twilio creates the call.
    `clock_offset` is Twilio's clock minus Postgres's; None if unknown. Rivals are other creations that may have started a
    candidate. `unrecorded_rivals` is the number of those that this function cannot find in the database.
    """
    # Count rivals before reading bound sids: an intent that is bound in between must appear in one of the two.
    undated = any(entry.date_created is None for entry, _ in candidates.calls.values())
    distance = None if undated else max_start_delay + 2 * MAX_CLOCK_SKEW + DATE_TOLERANCE
    rivals = unrecorded_rivals + await repository.count_rivals(session, call, span=distance)
    free = candidates.calls.keys() - await repository.sids_with_record(session, candidates.calls.keys())
    certain = [entry for entry, rating in candidates.calls.values() if entry.sid in free and rating == "yes"]
    numbers = {"candidates": len(free), "rivals": rivals}
    if not free:
        doubt = reason_for_doubt(candidates, clock_offset)
        return SearchFinding("inconclusive", numbers | {"reason": doubt}) if doubt else SearchFinding("none", numbers)
    if len(free) == len(certain) == 1 and not rivals and clock_offset is not None and abs(clock_offset) <= MAX_CLOCK_SKEW:
        return SearchFinding("bound", numbers, certain[0])
    return SearchFinding("ambiguous", numbers)


def reason_for_doubt(candidates: Candidates, clock_offset: timedelta | None) -> str | None:
    """Returns a code that says why the search may have missed a call at Twilio; None if the search is conclusive."""
    if not candidates.is_complete:
        return "list_too_long"
    if clock_offset is None:
        return "clock_offset_unknown"
    # With a larger offset, the call's date may be outside the searched span.
    return "clock_offset_too_large" if abs(clock_offset) > DATE_TOLERANCE else None
