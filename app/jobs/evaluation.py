"""Decides which call in Twilio's list a creation has started. A call is bound only if the match is unambiguous."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from app.calls import repository
from app.calls.models import Call
from app.database.engine import Session
from app.jobs.candidates import CLOCK_SKEW, DATE_TOLERANCE, Candidates
from app.twilio.schemas import CallResource

SearchResult = Literal["bound", "ambiguous", "inconclusive", "none"]
"""`ambiguous`: calls were found, but none can be bound for certain. `inconclusive`: none was found, but one may be missing."""


class SearchFinding(NamedTuple):
    """The result of a search for one call. `resource` is the call at Twilio to bind to the record, if the result is `bound`.

    `data` are details for the event.
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
    span: timedelta,
    more_rivals: int = 0,
) -> SearchFinding:
    """Decides whether one of the candidates is the call of this record, which the caller has locked. Writes nothing.

    `span` is the longest time from `pending_since` until Twilio creates the call. `clock_offset` is Twilio's clock minus
    Postgres's; None if unknown. `more_rivals` is the number of other creations that may have started a candidate, but that the
    records do not show.
    """
    # Count rivals before reading bound sids: an intent that is bound in between must appear in one of the two.
    undated = any(entry.date_created is None for entry, _ in candidates.calls.values())
    distance = None if undated else span + 2 * CLOCK_SKEW + DATE_TOLERANCE
    rivals = more_rivals + await repository.count_rivals(session, call, span=distance)
    free = candidates.calls.keys() - await repository.sids_with_record(session, candidates.calls.keys())
    certain = [entry for entry, rating in candidates.calls.values() if entry.sid in free and rating == "yes"]
    numbers = {"candidates": len(free), "rivals": rivals}
    if not free:
        doubt = reason_for_doubt(candidates, clock_offset)
        return SearchFinding("inconclusive", numbers | {"reason": doubt}) if doubt else SearchFinding("none", numbers)
    if len(free) == len(certain) == 1 and not rivals and clock_offset is not None and abs(clock_offset) <= CLOCK_SKEW:
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
