"""Reads many calls of an account from pages of Twilio's list, with fewer requests than if each call were fetched.

If a call is not in the list, it does not count as deleted, because the list is eventually consistent and its pages move while
they are read. The caller fetches such calls one by one. app/calls/refresh_plan.py says when a call is due, and so how often the
list is read.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from app.twilio.client import TwilioClient
from app.twilio.schemas import CallResource, Credential

MIN_SWEPT_CALLS = 3
"""The minimum number of calls of one account that are read from Twilio's list. A smaller number is fetched one by one."""
_MISSING_CALLS_PER_PAGE = 10
"""Another page of the list is read only if at least this many wanted calls are missing for each page that was read so far."""


class SweepResult(NamedTuple):
    """The result of reading Twilio's list.

    `found` has the wanted calls that were in the list, by sid. `newest_entries` has all entries of the first page, the newest
    first.
    """

    found: Mapping[str, CallResource]
    newest_entries: Sequence[Mapping[str, Any]]


async def sweep_call_list(
    twilio: TwilioClient, credential: Credential, *, wanted: Collection[str], deadline_s: float, last_page_after_s: float
) -> SweepResult:
    """Looks for calls on the newest pages of Twilio's list. `wanted` has the sids of these calls. Raises TwilioError.

    Stops when all wanted calls are found, or when so few are missing that it takes fewer requests to fetch them one by one.
    Requests no further page when `last_page_after_s` seconds have passed. `deadline_s` is the time limit of each request. The
    list is not filtered by start time, because such a filter would hide queued calls.
    """
    found: dict[str, CallResource] = {}
    newest: Sequence[Mapping[str, Any]] = ()
    pages = 0
    clock = asyncio.get_running_loop().time
    stop_at = clock() + last_page_after_s
    async for entries in twilio.pages_of_calls(credential, {}, deadline_s=deadline_s):
        newest = newest or entries
        for entry in entries:
            if entry.get("sid") in wanted and (resource := CallResource.parse_answer(entry)) is not None:
                found[resource.sid] = resource
        pages += 1
        missing = len(wanted) - len(found)
        if not missing or pages > missing // _MISSING_CALLS_PER_PAGE or clock() >= stop_at:
            break
    return SweepResult(found, newest)
