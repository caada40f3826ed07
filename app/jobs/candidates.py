"""Find those of Twilio's calls that a creation of unknown outcome may be, and tell how surely.

The list of the whole account is read, once for all calls of a batch that were placed on it in the same hour. Only where that
is too long is the list asked for single addresses, as Twilio may spell them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

from app.calls.models import Call
from app.tenants.directory import TenantDirectory
from app.twilio.addresses import address_key, address_spellings, caller_key, is_plain, is_same_address, is_same_caller
from app.twilio.client import TwilioClient, first_accepted
from app.twilio.clock import MAX_TRUSTED_OFFSET, WARN_OFFSET
from app.twilio.errors import TwilioListTooLong
from app.twilio.schemas import CallResource

# Between Postgres's clock, by which an intent is dated, and Twilio's.
CLOCK_SKEW = WARN_OFFSET
# A call dated outside that, but not by more than this, is neither taken for ours nor taken as a sign that there is none.
NEAR = MAX_TRUSTED_OFFSET
# How long Twilio keeps a call queued, in days of its list's filters.
_LONGEST_QUEUE = timedelta(days=2)
_DIRECTION = "outbound-api"

Likeness = Literal["yes", "perhaps", "no"]
Keep = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Candidates:
    """`calls` by sid, and how surely each is the one; only those that may be it."""

    calls: Mapping[str, tuple[CallResource, Likeness]]
    is_complete: bool
    """Whether Twilio would have shown the call, however it spells its address."""
    twilio_ahead: timedelta | None
    """By how much Twilio's clock is ahead of this machine's, as far as is known."""


@dataclass(frozen=True, slots=True)
class CallLists:
    """Twilio's lists for one batch of calls. The methods raise TwilioError."""

    tenants: TenantDirectory
    twilio: TwilioClient
    batch: Sequence[Call]
    longest_life: timedelta
    deadline_s: float
    _reading: dict[tuple[UUID, datetime], asyncio.Task[list[CallResource] | None]] = field(default_factory=dict)

    async def candidates(self, call: Call) -> Candidates:
        listed = await self._of_account(call)
        is_complete = listed is not None or is_plain(call.to)
        if listed is None:
            listed = await self._of_address(call)
        likely = {entry.sid: (entry, likeness(call, entry, longest_life=self.longest_life)) for entry in listed}
        calls = {sid: one for sid, one in likely.items() if one[1] != "no"}
        return Candidates(calls, is_complete, await self._twilio_ahead(call))

    async def _of_account(self, call: Call) -> list[CallResource] | None:
        """All that was placed at about that time, to an address of the batch; None when the list is too long to read."""
        group = _group(call)
        if group not in self._reading:
            calls = [one for one in self.batch if _group(one) == group]
            self._reading[group] = asyncio.create_task(self._read_account(calls))
        return await self._reading[group]

    async def _read_account(self, calls: Sequence[Call]) -> list[CallResource] | None:
        keys = {address_key(call.to) for call in calls}

        def keep(entry: Mapping[str, Any]) -> bool:
            to = _text(entry.get("to"))
            return to is None or address_key(to) in keys

        try:
            async with asyncio.timeout(2 * self.deadline_s):
                return await self._read(calls, {}, keep)
        except (TwilioListTooLong, TimeoutError):
            return None

    async def _of_address(self, call: Call) -> list[CallResource]:
        listed: list[CallResource] = []
        async with asyncio.timeout(2 * self.deadline_s):
            for to in address_spellings(call.to):
                listed += await self._read([call], {"To": to}, lambda _: True)
        return listed

    async def _read(self, calls: Sequence[Call], filters: Mapping[str, str], keep: Keep) -> list[CallResource]:
        """Two questions, for a queued call has no start time to be found by. In this order: it may be dialled in between.

        Whether Twilio heeds more of StartTime than the day is not known: the one bound is exact, and the other a day's end.
        """
        since = min(call.pending_since for call in calls) - CLOCK_SKEW - NEAR
        until = max(call.pending_since for call in calls) + self.longest_life + _LONGEST_QUEUE
        started = {"StartTime>": since.strftime("%Y-%m-%dT%H:%M:%SZ"), "StartTime<": until.date().isoformat()}
        credentials = await self.tenants.credentials(calls[0].account_id)
        listed: list[CallResource] = []
        for narrowed in ({"Status": "queued"}, started):
            ask = partial(self.twilio.list_calls, filters={**filters, **narrowed}, deadline_s=self.deadline_s, keep=keep)
            listed += await first_accepted(credentials, ask)
        return listed

    async def _twilio_ahead(self, call: Call) -> timedelta | None:
        offsets = [self.twilio.clock.offset(access.base_url) for access in await self.tenants.credentials(call.account_id)]
        return max((offset for offset in offsets if offset is not None), key=abs, default=None)


def likeness(call: Call, entry: CallResource, *, longest_life: timedelta) -> Likeness:
    """Whether Twilio's call is one that this intent may have asked for. What Twilio leaves out proves nothing."""
    shown_to, shown_from = _text(entry.raw.get("to")), _text(entry.raw.get("from"))
    if entry.direction not in (_DIRECTION, None):
        return "no"
    if shown_to and address_key(shown_to) != address_key(call.to):
        return "no"
    callers = [caller for caller in (call.from_, call.parameters.get("caller_id")) if caller]
    if shown_from and caller_key(shown_from) not in map(caller_key, callers):
        return "no"
    exact = bool(entry.direction and shown_to and shown_from) and (
        is_same_address(call.to, shown_to or "") and is_same_caller(call.from_, shown_from or "")
    )
    if entry.date_created is not None:
        earliest, latest = call.pending_since - CLOCK_SKEW, call.pending_since + longest_life + CLOCK_SKEW
        if not earliest - NEAR <= entry.date_created <= latest + NEAR:
            return "no"
        exact = exact and earliest <= entry.date_created <= latest
    return "yes" if exact else "perhaps"


def _group(call: Call) -> tuple[UUID, datetime]:
    return call.account_id, call.pending_since.replace(minute=0, second=0, microsecond=0)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
