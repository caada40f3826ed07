"""Finds the calls at Twilio that a request to create a call may have started, and rates how well each of them matches.

This is done for requests whose outcome is unknown, and by `callgate queues release`. Twilio's list of an account is read once
for many calls. If this list is too long or cannot be read in time, Twilio filters it by the called address, with two requests
for each spelling of the address that Twilio may use.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple
from uuid import UUID

from app.calls.models import Call
from app.tenants.directory import TenantDirectory
from app.twilio.addresses import (
    address_key,
    address_spellings,
    caller_key,
    has_no_optional_parts,
    is_same_address,
    is_same_caller,
    possible_address_keys,
)
from app.twilio.client import TwilioClient, try_credentials
from app.twilio.clock import MAX_TRUSTED_OFFSET, MIN_OFFSET_TO_WARN
from app.twilio.errors import TwilioOutcomeUnknown
from app.twilio.schemas import MAX_QUEUE_TIME, CallResource

# A match can be certain only if Postgres's clock, which dates creations, and Twilio's clock differ by no more than this.
MAX_CLOCK_SKEW = MIN_OFFSET_TO_WARN
# If the date of a call is outside the expected time by no more than this, the call is not bound, but the result of the search
# is not "none" either.
DATE_TOLERANCE = MAX_TRUSTED_OFFSET
# How long after its creation a call may start: as long as Twilio may keep it queued. A day is added, because Twilio's filter
# compares only dates.
_MAX_TIME_TO_START = MAX_QUEUE_TIME + timedelta(days=1)
API_CALL_DIRECTION = "outbound-api"
_MAX_ADDRESSES_IN_MEMORY = 10_000
"""The maximum number of addresses of an account whose calls at Twilio are kept in memory."""

MatchRating = Literal["yes", "perhaps", "no"]
"""Whether a given request to create a call has started a given call in Twilio's list."""
EntryFilter = Callable[[Mapping[str, Any]], bool]
"""A function that returns whether to keep an entry of Twilio's list, which is a JSON object."""


@dataclass(frozen=True, slots=True)
class CallCandidates:
    """The result of searching Twilio's list for the call that one request may have started.

    `calls` has each call that the request may have started, by sid, with a rating: how well it matches the request.
    """

    calls: Mapping[str, tuple[CallResource, MatchRating]]
    is_complete: bool
    """Whether the search would have found the call for every spelling of the address that Twilio may use."""
    twilio_clock_offset: timedelta | None
    """Twilio's clock minus this machine's clock; None if unknown."""


class _ListedCalls(NamedTuple):
    """Entries of Twilio's list of calls, grouped by the called address in normalized form (`address_key`).

    Entries without an address have the key None.
    """

    entries: Mapping[str | None, Sequence[CallResource]]
    twilio_clock_offset: timedelta | None
    """Twilio's clock minus this machine's clock when the entries were read; None if unknown."""


@dataclass(slots=True)
class AccountCallList:
    """Twilio's list of an account's calls that were created from `since` to `until`. It is read once, when it is first needed.

    Calls for which `keep` returns false are not kept in memory. If the list is too long or cannot be read in time, the calls to
    each address are read separately, with Twilio's filter for the called address. Reading a list may take `2 * deadline_s`
    seconds.
    """

    directory: TenantDirectory
    twilio: TwilioClient
    account_id: UUID
    since: datetime
    until: datetime
    deadline_s: float
    keep: EntryFilter = lambda _: True
    _whole_list: asyncio.Task[_ListedCalls | None] | None = None
    _by_address: dict[str, asyncio.Task[_ListedCalls]] = field(default_factory=dict)

    async def find_candidates(self, call: Call, *, max_start_delay: timedelta) -> CallCandidates:
        """Returns the calls in Twilio's list that the request for `call`, Callgate's record, may have started.

        `max_start_delay` is the longest time from the attempt to dial (`call.pending_since`) until Twilio may start the call.
        Raises TwilioError or TimeoutError if the list cannot be read.
        """
        if self._whole_list is None:
            self._whole_list = asyncio.create_task(self._read_whole_list())
        read = await self._whole_list
        is_complete = read is not None or has_no_optional_parts(call.to)
        found = read or await self._calls_to_address(call.to)
        entries = [entry for key in (*possible_address_keys(call.to), None) for entry in found.entries.get(key, ())]
        return CallCandidates(
            possible_matches(call, entries, max_start_delay=max_start_delay), is_complete, found.twilio_clock_offset
        )

    async def _read_whole_list(self) -> _ListedCalls | None:
        """Returns the whole list; None if it is too long, takes too long, or if Twilio's answer is lost or unreadable.

        The caller can then ask for the calls to one address, whose list is shorter.
        """
        try:
            return await self._read_filtered_list([{}], self.keep)
        except (TwilioOutcomeUnknown, TimeoutError):
            return None

    async def _calls_to_address(self, to: str) -> _ListedCalls:
        if to not in self._by_address:
            if len(self._by_address) >= _MAX_ADDRESSES_IN_MEMORY:
                del self._by_address[next(iter(self._by_address))]
            filters = [{"To": spelling} for spelling in address_spellings(to)]
            self._by_address[to] = asyncio.create_task(self._read_filtered_list(filters, lambda _: True))
        return await self._by_address[to]

    async def _read_filtered_list(self, filters: Iterable[Mapping[str, str]], keep: EntryFilter) -> _ListedCalls:
        """Returns the entries of Twilio's list that match one of `filters`, and for which `keep` returns true.

        Twilio applies the filters; each takes two requests. The first is for queued calls, which have no start time. The second
        is for calls with a start time from `since` to `until` plus the longest time for which Twilio queues a call. In this
        order, a call that leaves the queue between the two requests is found by the second one. Twilio may use only the day of
        StartTime, so the upper bound is a whole day. The result has the offset of Twilio's clock when the list was read,
        because `callgate queues release` may evaluate the list much later. Raises TwilioError or TimeoutError.
        """
        until = self.until + _MAX_TIME_TO_START
        started = {"StartTime>": self.since.strftime("%Y-%m-%dT%H:%M:%SZ"), "StartTime<": until.date().isoformat()}
        credentials = await self.directory.active_credentials(self.account_id)
        entries: dict[str | None, list[CallResource]] = defaultdict(list)
        async with asyncio.timeout(2 * self.deadline_s):
            for each, extra in product(filters, ({"Status": "queued"}, started)):
                ask = partial(self.twilio.list_calls, filters={**each, **extra}, deadline_s=self.deadline_s, keep=keep)
                for entry in await try_credentials(credentials, ask):
                    to = _text_or_none(entry.raw.get("to"))
                    entries[to and address_key(to)].append(entry)
        return _ListedCalls(entries, await twilio_clock_offset(self.directory, self.twilio, self.account_id))


@dataclass(frozen=True, slots=True)
class TwilioCallSearch:
    """Finds the calls at Twilio that the requests for a batch of records may have started.

    Reads one list of calls for all records of the batch that have the same account and were dialled in the same hour.
    `max_start_delay` is the longest time from an attempt to dial (`pending_since`) until Twilio may start the call.
    """

    directory: TenantDirectory
    twilio: TwilioClient
    batch: Sequence[Call]
    max_start_delay: timedelta
    deadline_s: float
    _lists: dict[tuple[UUID, datetime], AccountCallList] = field(default_factory=dict)

    async def find_candidates(self, call: Call) -> CallCandidates:
        """Returns the calls in Twilio's list that the request for `call`, a record of the batch, may have started.

        Raises TwilioError or TimeoutError if the list cannot be read.
        """
        group = _account_and_dial_hour(call)
        if group not in self._lists:
            calls = [other for other in self.batch if _account_and_dial_hour(other) == group]
            self._lists[group] = AccountCallList(
                self.directory,
                self.twilio,
                call.account_id,
                since=earliest_date_created(min(each.pending_since for each in calls)),
                until=max(each.pending_since for each in calls) + self.max_start_delay,
                deadline_s=self.deadline_s,
                keep=called_address_filter(calls),
            )
        return await self._lists[group].find_candidates(call, max_start_delay=self.max_start_delay)


async def twilio_clock_offset(directory: TenantDirectory, twilio: TwilioClient, account_id: UUID) -> timedelta | None:
    """Returns Twilio's clock minus this machine's clock, or None if no recent response of Twilio has shown its time.

    If the account's credentials use several base URLs, returns the largest difference.
    """
    offsets = [
        twilio.clock.offset_of_server(credential.base_url) for credential in await directory.active_credentials(account_id)
    ]
    return max((offset for offset in offsets if offset is not None), key=abs, default=None)


def called_address_filter(calls: Iterable[Call]) -> EntryFilter:
    """Returns a filter for Twilio's list. It keeps each entry that may be a call to the address of one of `calls`."""
    keys = {key for call in calls for key in possible_address_keys(call.to)}

    def keep(entry: Mapping[str, Any]) -> bool:
        to = _text_or_none(entry.get("to"))
        return to is None or address_key(to) in keys

    return keep


def possible_matches(
    call: Call, entries: Iterable[CallResource], *, max_start_delay: timedelta
) -> dict[str, tuple[CallResource, MatchRating]]:
    """Returns those of `entries`, calls in Twilio's list, that the request for the record `call` may have started.

    The result maps the sid to the entry and its rating, "yes" or "perhaps" (`rate_match`). `max_start_delay` is the longest
    time from the attempt to dial (`call.pending_since`) until Twilio starts the call.
    """
    rated = {entry.sid: (entry, rate_match(call, entry, max_start_delay=max_start_delay)) for entry in entries}
    return {sid: match for sid, match in rated.items() if match[1] != "no"}


def earliest_date_created(requested_at: datetime) -> datetime:
    """Returns the earliest `date_created` that Twilio can show for a call that was requested at `requested_at` or later.

    `requested_at` is a time by Postgres's clock.
    """
    return requested_at - MAX_CLOCK_SKEW - DATE_TOLERANCE


def max_time_between_matching_requests(max_start_delay: timedelta) -> timedelta:
    """Returns the longest time between two requests that may have started the same call in Twilio's list.

    `max_start_delay` is the longest time from an attempt to dial (`pending_since`) until Twilio starts the call.
    """
    return max_start_delay + 2 * MAX_CLOCK_SKEW + DATE_TOLERANCE


def rate_match(call: Call, entry: CallResource, *, max_start_delay: timedelta) -> MatchRating:
    """Rates how well `entry`, a call in Twilio's list, matches the request for the record `call`.

    "yes": direction, `to` and `from` are present and match exactly, and `date_created`, if present, is in the expected time.
    "no": one of these values contradicts the request. "perhaps": no value contradicts it, but some are missing or inexact.
    `max_start_delay` is the longest time from the attempt to dial (`call.pending_since`) until Twilio starts the call.
    """
    shown_to, shown_from = _text_or_none(entry.raw.get("to")), _text_or_none(entry.raw.get("from"))
    if entry.direction not in (API_CALL_DIRECTION, None):
        return "no"
    if shown_to and address_key(shown_to) not in possible_address_keys(call.to):
        return "no"
    callers = [caller for caller in (call.from_, call.parameters.get("caller_id")) if caller]
    if shown_from and caller_key(shown_from) not in map(caller_key, callers):
        return "no"
    exact = bool(entry.direction and shown_to and shown_from) and (
        is_same_address(call.to, shown_to or "") and is_same_caller(call.from_, shown_from or "")
    )
    if entry.date_created is not None:
        earliest, latest = call.pending_since - MAX_CLOCK_SKEW, call.pending_since + max_start_delay + MAX_CLOCK_SKEW
        if not earliest - DATE_TOLERANCE <= entry.date_created <= latest + DATE_TOLERANCE:
            return "no"
        exact = exact and earliest <= entry.date_created <= latest
    return "yes" if exact else "perhaps"


def _account_and_dial_hour(call: Call) -> tuple[UUID, datetime]:
    return call.account_id, call.pending_since.replace(minute=0, second=0, microsecond=0)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
