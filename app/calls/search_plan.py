"""Decides when Twilio's list of calls is searched for a call whose outcome is unknown (docs/adr/0009).

The outcome of a creation is unknown if it is not certain whether Twilio has started the call.
"""

from dataclasses import dataclass
from datetime import timedelta

from app.calls.models import Call


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Says when Twilio's list of calls is searched for a call whose outcome is unknown.

    The first `searches` searches (CALLGATE_RESOLVE_SEARCHES) happen within `period` (CALLGATE_RESOLVE_PERIOD), at growing
    intervals.
    """

    searches: int
    period: timedelta

    @property
    def delay_until_first_search(self) -> timedelta:
        return self.period / self.searches**2

    def delay_until_next_search(self, clean_searches: int) -> timedelta | None:
        """Returns the wait until the next search; None if there is no further search.

        `clean_searches` is the number of searches so far that have shown that the list does not have the call. After `searches`
        of them, the call counts as not started. Two late searches follow, and may still find it.
        """
        if clean_searches < self.searches:
            return self.period * (((clean_searches + 1) / self.searches) ** 2 - (clean_searches / self.searches) ** 2)
        late = clean_searches - self.searches
        return (self.period * 4, self.period * 96)[late] if late < 2 else None


def is_outcome_open(call: Call) -> bool:
    """Returns whether a callback or a search may still show whether Twilio has started the call.

    Also returns True for a call that counts as not started because searches did not find it (`none_found`), as long as another
    search is planned.
    """
    return call.execution in ("pending", "unknown") or (call.settled_by == "none_found" and call.search_at is not None)
