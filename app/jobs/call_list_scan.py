"""Reads many calls of an account from pages of Twilio's list, with fewer requests than if each call were fetched.

If a call is not in the list, it does not count as deleted, because the list is eventually consistent and its pages move while
they are read. The caller fetches such calls one by one. app/calls/refresh_times.py says when a call is due, and so how often
the list is read.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from app.jobs.candidates import DATE_TOLERANCE
from app.twilio.client import TwilioClient
from app.twilio.schemas import CallResource, Credential

MIN_CALLS_FOR_LIST = 3
"""The minimum number of calls of one account that are read from Twilio's list. A smaller number is fetched one by one."""
_MIN_MISSING_CALLS_PER_PAGE = 10
"""Another page of the list is read only if at least this many wanted calls are missing for each page that was read so far."""


class ListScanResult(NamedTuple):
    """The result of looking for certain calls in Twilio's list (`find_calls_in_list`).

    `found` has those of the calls that were in the list, by sid. `newest_entries` has all entries of the first page, the newest
    first.
    """

    found: Mapping[str, CallResource]
    newest_entries: Sequence[Mapping[str, Any]]


async def find_calls_in_list(
    twilio: TwilioClient,
    credential: Credential,
    *,
    wanted: Mapping[str, datetime],
    deadline_s: float,
    stop_reading_after_s: float,
) -> ListScanResult:
    """Looks for calls on the newest pages of Twilio's list. Raises TwilioError if a page cannot be read.

    `wanted` has the sids of these calls, each with the time when the call was requested. `deadline_s` is the time limit of each
    request. The list is not filtered by start time, because such a filter would hide queued calls. Stops in these cases:
    - All wanted calls are found.
    - So few calls are missing that it takes fewer requests to fetch them one by one.
    - The dates in the list show that most missing calls are too far back.
    - `stop_reading_after_s` seconds have passed.
    """
    found: dict[str, CallResource] = {}
    newest: Sequence[Mapping[str, Any]] = ()
    pages = 0
    clock = asyncio.get_running_loop().time
    stop_at = clock() + stop_reading_after_s
    async for entries in twilio.pages_of_calls(credential, {}, deadline_s=deadline_s):
        newest = newest or entries
        found_before = len(found)
        for entry in entries:
            if entry.get("sid") in wanted and (resource := CallResource.parse_answer(entry)) is not None:
                found[resource.sid] = resource
        pages += 1
        more_pages = (len(wanted) - len(found)) // _MIN_MISSING_CALLS_PER_PAGE + 1 - pages
        if more_pages <= 0 or clock() >= stop_at:
            break
        # A page that showed enough wanted calls was worth its request, so the next one is read without a look at the dates.
        if len(found) - found_before < _MIN_MISSING_CALLS_PER_PAGE:
            requested_at = sorted(time for sid, time in wanted.items() if sid not in found)
            if _are_missing_calls_unlikely_on_next_pages(
                requested_at, _date_created(newest[:1]), _date_created(entries[-1:]), pages, more_pages
            ):
                break
    return ListScanResult(found, newest)


def _are_missing_calls_unlikely_on_next_pages(
    requested_at: Sequence[datetime], newest: datetime | None, oldest: datetime | None, pages: int, more_pages: int
) -> bool:
    """Returns whether further pages of the list most probably have so few of the missing calls that reading should stop.

    `requested_at` has the times at which the missing calls were requested, the oldest first. `pages` is the number of pages
    that were read. `newest` and `oldest` are the dates of their first and their last entry; None if unknown. At most
    `more_pages` further pages would be read.
    """
    if newest is None or oldest is None:
        return False
    if oldest < requested_at[0] - DATE_TOLERANCE:
        return True
    # The average time that a page covers shows how far back the next pages reach. They must reach half of the missing calls.
    return oldest - requested_at[len(requested_at) // 2] > (newest - oldest) / pages * more_pages


def _date_created(entries: Sequence[Mapping[str, Any]]) -> datetime | None:
    """Returns the date of the first of `entries`; None if there is none, or if it has no date."""
    entry = CallResource.parse_answer(entries[0]) if entries else None
    return entry.date_created if entry else None
