"""Settle what is not known: find creations whose process died, and search Twilio's list for those whose answer was lost.

A search binds only what cannot be another's: exactly one call in Twilio's list that may be it and is nobody's, and no other
intent that it may belong to. In doubt it waits for the callback. Nothing here ever dials.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal

import structlog

from app.calls import leases, repository
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database import Database, Session
from app.jobs.isolation import each_apart
from app.observability import Metrics
from app.observability.tracing import trace
from app.tenants.service import TenantService
from app.twilio.client import TwilioClient, first_accepted
from app.twilio.errors import TwilioError
from app.twilio.schemas import CallResource

logger = structlog.stdlib.get_logger(__name__)

BATCH = 20
# Between Postgres's clock, by which an intent is dated, and Twilio's.
CLOCK_SKEW = timedelta(seconds=60)
# A call dated outside that, but not by more than this, is neither taken for ours nor taken as a sign that there is none.
_NEAR = timedelta(minutes=15)
# How long Twilio keeps a call queued, in days of its list's filters.
_LONGEST_QUEUE = timedelta(days=2)
_DIRECTION = "outbound-api"

Result = Literal["bound", "ambiguous", "none", "failed"]
Likeness = Literal["yes", "perhaps", "no"]


@dataclass(frozen=True, slots=True)
class Resolver:
    database: Database
    tenants: TenantService
    twilio: TwilioClient
    metrics: Metrics
    settlement: Settlement
    longest_life: timedelta
    deadline_s: float

    async def mark_abandoned(self) -> bool:
        """Find a batch whose process died between the two commits: what it had sent, nobody knows. False: there was none."""
        async with self.database.begin() as session:
            abandoned = await repository.claim_abandoned(session, older_than=self.longest_life, limit=BATCH)
            for call in abandoned:
                await self.settlement.apply(session, call, self.settlement.change_to_unknown(data={"reason": "abandoned"}))
        for call in abandoned:
            self.metrics.abandoned.inc()
            logger.warning("creation_abandoned", call_id=str(call.id))
        return bool(abandoned)

    async def search(self) -> bool:
        """Search for a batch of unknown calls; False when none was due."""
        # Longer than a search can take, so that no other worker searches for the same call meanwhile.
        lease = timedelta(seconds=2 * self.deadline_s + 30)
        async with self.database.begin() as session:
            due = await leases.claim_searches(session, lease=lease, limit=BATCH)
        await each_apart(due, self._search, broke="search_broke")
        if due:
            async with self.database.begin() as session:
                await leases.release_searches(session, due)
        return bool(due)

    async def _search(self, call: Call) -> None:
        with trace("search", caused_by=call.traceparent, attributes={"callgate.call_id": str(call.id)}):
            await self._take(call, await self._candidates(call))

    async def _candidates(self, call: Call) -> dict[str, CallResource] | None:
        """Twilio's calls that may be this one; None when Twilio could not be asked."""
        try:
            async with asyncio.timeout(2 * self.deadline_s):
                return {entry.sid: entry for entry in await self._listed(call) if self._resembles(call, entry) != "no"}
        except (TwilioError, TimeoutError) as error:
            reason = error.reason if isinstance(error, TwilioError) else "deadline"
            logger.warning("search_failed", call_id=str(call.id), reason=reason)
            return None

    async def _take(self, call: Call, candidates: dict[str, CallResource] | None) -> None:
        async with self.database.begin() as session:
            locked = await repository.lock_call(session, call.id)
            # Settled meanwhile, or, its lease having ended, searched for by somebody else.
            if locked is None or not _is_open(locked) or locked.search_at != call.search_at:
                return
            result = "failed" if candidates is None else await self._conclude(session, locked, candidates)
            if result == "none":
                clean = locked.clean_searches + 1
                if locked.execution == "unknown" and clean >= self.settlement.plan.searches:
                    await self.settlement.none_found(session, locked, data={"searches": clean})
                await self.settlement.search_again(session, locked, clean=clean)
            elif result != "bound":
                await self.settlement.search_later(session, locked)
        self.metrics.searches.labels(result).inc()

    async def _conclude(self, session: Session, call: Call, candidates: dict[str, CallResource]) -> Result:
        # Rivals first: one that is bound in between must count as a rival, or its sid as taken.
        undated = any(entry.date_created is None for entry in candidates.values())
        span = None if undated else self.longest_life + 2 * CLOCK_SKEW
        rivals = await repository.count_rivals(session, call, span=span)
        free = candidates.keys() - await repository.bound_sids(session, candidates.keys())
        certain = [entry for sid, entry in candidates.items() if sid in free and self._resembles(call, entry) == "yes"]
        bound = len(free) == len(certain) == 1 and not rivals
        result: Result = "none" if not free else "bound" if bound else "ambiguous"
        found = {"result": result, "candidates": len(free), "rivals": rivals}
        await repository.add_event(session, call.id, "call.searched", found)
        if bound:
            await self.settlement.started(session, call, certain[0], by="list", data={})
        return result

    async def _listed(self, call: Call) -> list[CallResource]:
        """What Twilio shows of calls to this address. Two questions, for a queued call has no start time to be found by."""
        since = (call.pending_since - _NEAR).date().isoformat()
        until = (call.pending_since + self.longest_life + _LONGEST_QUEUE).date().isoformat()
        listed: list[CallResource] = []
        accesses = await self.tenants.accesses(call.account_id)
        for narrowed in ({"StartTime>": since, "StartTime<": until}, {"Status": "queued"}):
            ask = partial(self.twilio.list_calls, filters={"To": call.to} | narrowed, deadline_s=self.deadline_s)
            listed += await first_accepted(accesses, ask)
        return listed

    def _resembles(self, call: Call, entry: CallResource) -> Likeness:
        """Whether Twilio's call is one that this intent may have asked for. What Twilio leaves out proves nothing."""
        shown_to, shown_from = entry.raw.get("to"), entry.raw.get("from")
        if entry.direction not in (_DIRECTION, None) or (shown_from and not _same_caller(call.from_, str(shown_from))):
            return "no"
        doubtful = entry.direction is None or not shown_from or shown_to != call.to
        if entry.date_created is not None:
            earliest, latest = call.pending_since - CLOCK_SKEW, call.pending_since + self.longest_life + CLOCK_SKEW
            if not earliest - _NEAR <= entry.date_created <= latest + _NEAR:
                return "no"
            doubtful = doubtful or not earliest <= entry.date_created <= latest
        return "perhaps" if doubtful else "yes"


def _is_open(call: Call) -> bool:
    return call.execution == "unknown" or (call.execution == "not_started" and call.settled_by == "none_found")


def _same_caller(ours: str, theirs: str) -> bool:
    """For a SIP call our `from` is the user part of what the SIP endpoint is shown."""
    return theirs == ours or theirs.removeprefix("sip:").partition("@")[0] == ours
