"""Decides what the calls of Twilio's list say about a creation. Binds only what is unambiguous."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from app.calls import repository
from app.calls.models import Call
from app.database.engine import Session
from app.jobs.candidates import CLOCK_SKEW, DATE_TOLERANCE, Candidates
from app.twilio.schemas import CallResource

SearchResult = Literal["bound", "ambiguous", "inconclusive", "none"]


class SearchFinding(NamedTuple):
    """What a search found about a call, and the call at Twilio to bind it to."""

    result: SearchResult
    data: Mapping[str, Any]
    resource: CallResource | None = None


async def judge(
    session: Session,
    call: Call,
    candidates: Candidates,
    clock_offset: timedelta | None,
    *,
    span: timedelta,
    more_rivals: int = 0,
) -> SearchFinding:
    """Decides what the candidates say about a locked call. Writes nothing.

    `span` is the longest time from `pending_since` until Twilio creates the call. `clock_offset` is Twilio's clock minus
    Postgres's; None if unknown. `more_rivals` are creations that may have started a candidate and that the records do not show.
    """
    # Count rivals before reading bound sids: an intent that is bound in between must appear in one of the two.
    undated = any(entry.date_created is None for entry, _ in candidates.calls.values())
    distance = None if undated else span + 2 * CLOCK_SKEW + DATE_TOLERANCE
    rivals = more_rivals + await repository.count_rivals(session, call, span=distance)
    free = candidates.calls.keys() - await repository.bound_sids(session, candidates.calls.keys())
    certain = [entry for entry, likeness in candidates.calls.values() if entry.sid in free and likeness == "yes"]
    numbers = {"candidates": len(free), "rivals": rivals}
    if not free:
        doubt = reason_for_doubt(candidates, clock_offset)
        return SearchFinding("inconclusive", numbers | {"reason": doubt}) if doubt else SearchFinding("none", numbers)
    if len(free) == len(certain) == 1 and not rivals and clock_offset is not None and abs(clock_offset) <= CLOCK_SKEW:
        return SearchFinding("bound", numbers, certain[0])
    return SearchFinding("ambiguous", numbers)


def reason_for_doubt(candidates: Candidates, clock_offset: timedelta | None) -> str | None:
    """Returns why Twilio may have a call that the search did not find; None if it has none."""
    if not candidates.is_complete:
        return "list_too_long"
    if clock_offset is None:
        return "clock_offset_unknown"
    # With a larger offset, the call's date may be outside the searched span.
    return "clock_offset_too_large" if abs(clock_offset) > DATE_TOLERANCE else None
