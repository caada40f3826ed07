"""Decides which of the calls that a search has found at Twilio is the call of a record with unknown outcome.

A record is bound to a call at Twilio only if no other call matches the record, and no other record matches the call.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from app.calls import repository
from app.calls.models import Call
from app.database.engine import Session
from app.jobs.candidates import DATE_TOLERANCE, MAX_CLOCK_SKEW, CallCandidates, max_time_between_matching_requests
from app.twilio.schemas import CallResource

SearchResult = Literal["bound", "ambiguous", "inconclusive", "none"]
"""How a search of Twilio's list for the call of one record ended.

`bound`: one call is certainly the call of the record. `ambiguous`: there are calls that may be the call, but none that
certainly is. `inconclusive`: there is no such call in the list, but the search may have missed it. `none`: Twilio has no such
call.
"""


class SearchFinding(NamedTuple):
    """The result of a search for the call of one record.

    `data` has details for the record's event, such as the number of candidates. If the result is `bound`, `resource` is the
    call at Twilio that belongs to the record.
    """

    result: SearchResult
    data: Mapping[str, Any]
    resource: CallResource | None = None


async def evaluate_candidates(
    session: Session,
    call: Call,
    candidates: CallCandidates,
    clock_offset: timedelta | None,
    *,
    max_start_delay: timedelta,
) -> SearchFinding:
    """Decides whether one of the candidates is the call of this record. The caller must have locked the record.

    Writes nothing. `max_start_delay` is the longest time from the attempt to dial (`call.pending_since`) until Twilio creates
    the call. `clock_offset` is Twilio's clock minus Postgres's; None if unknown. `data` of the result counts `rivals`: other
    records whose requests may have started one of the candidates.
    """
    # Count rivals before reading the sids that have a record. A rival that gets a sid in between is then seen at least once.
    undated = any(entry.date_created is None for entry, _ in candidates.calls.values())
    distance = None if undated else max_time_between_matching_requests(max_start_delay)
    rivals = await repository.count_rival_creations(session, call, span=distance)
    free = candidates.calls.keys() - await repository.find_recorded_sids(session, candidates.calls.keys())
    certain = [entry for entry, rating in candidates.calls.values() if entry.sid in free and rating == "yes"]
    numbers = {"candidates": len(free), "rivals": rivals}
    if not free:
        doubt = inconclusive_reason(candidates, clock_offset)
        return SearchFinding("inconclusive", numbers | {"reason": doubt}) if doubt else SearchFinding("none", numbers)
    if len(free) == len(certain) == 1 and not rivals and clock_offset is not None and abs(clock_offset) <= MAX_CLOCK_SKEW:
        return SearchFinding("bound", numbers, certain[0])
    return SearchFinding("ambiguous", numbers)


def inconclusive_reason(candidates: CallCandidates, clock_offset: timedelta | None) -> str | None:
    """Returns a code that says why the search may have missed a call at Twilio; None if the search is conclusive."""
    if not candidates.is_complete:
        return "list_too_long"
    if clock_offset is None:
        return "clock_offset_unknown"
    # With a larger offset, the call's date may be outside the searched span.
    return "clock_offset_too_large" if abs(clock_offset) > DATE_TOLERANCE else None
