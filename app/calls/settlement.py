"""How an execution is settled, whoever finds out: the response, a callback, Twilio's list, or nobody.

Whatever proves that a call exists wins over everything: over `unknown`, over a `none_found` that was a guess, and over a
`not_started` that turns out to be wrong. Every step is an event on the record.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import structlog

from app.calls import repository
from app.calls.models import Call
from app.calls.progress import resource_columns, take_resource
from app.database import Session
from app.errors import NoneFound
from app.observability import Metrics
from app.twilio.schemas import CallResource

logger = structlog.stdlib.get_logger(__name__)

_LONGEST_WAIT = timedelta(hours=1)
_GIVE_UP = timedelta(days=7)

ANOTHERS_SID = (
    "the sid is that of another record, to which it stays bound, and the outcome of this one is unknown: "
    "Twilio gives no sid twice, but a stand-in for it may always answer the same"
)

SettledBy = Literal["response", "callback", "list"]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How Twilio's list is searched for a call of unknown outcome: ever further apart, `searches` times in `period`."""

    searches: int
    period: timedelta

    @property
    def first_wait(self) -> timedelta:
        return self.period / self.searches**2

    def wait_after(self, clean: int) -> timedelta | None:
        """How long to wait for the next search after so many clean ones.

        A record that was given up as none found is looked for twice more, much later; then never again.
        """
        if clean < self.searches:
            return self.period * (((clean + 1) / self.searches) ** 2 - (clean / self.searches) ** 2)
        late = clean - self.searches
        return (self.period * 4, self.period * 96)[late] if late < 2 else None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a record that is open, and the event that tells of it. When is for the database's clock to say."""

    columns: dict[str, Any]
    event: str
    data: dict[str, Any]
    refresh_in: timedelta | None = None
    search_in: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The `async` methods work on a row that the caller has locked (`repository.lock_call`), in the caller's transaction."""

    metrics: Metrics
    first_refresh: timedelta
    plan: SearchPlan

    def change_to_started(self, resource: CallResource, *, data: dict[str, Any]) -> Change:
        """By Twilio's own answer to the creation."""
        settled = {"execution": "started", "settled_by": "response", "problem": None, "sid": resource.sid}
        told = {"sid": resource.sid, "settled_by": "response"} | data
        return Change(settled | resource_columns(resource), "call.started", told, refresh_in=self.first_refresh)

    def change_to_not_started(self, problem: dict[str, Any], *, data: dict[str, Any]) -> Change:
        """Proven by Twilio's answer, or by there being none to have."""
        settled = {"execution": "not_started", "settled_by": "response", "problem": problem}
        return Change(settled, "call.not_started", {"problem": problem["slug"]} | data)

    def change_to_unknown(self, *, data: dict[str, Any]) -> Change:
        """A call may exist. From now on callbacks and searches decide."""
        return Change({"execution": "unknown"}, "call.unknown", data, search_in=self.plan.wait_after(0))

    async def started(
        self, session: Session, call: Call, resource: CallResource, *, by: SettledBy, data: dict[str, Any]
    ) -> None:
        """Proof that Twilio created this call."""
        if call.execution == "started":
            await self._known_already(session, call, resource, by=by)
            return
        if await repository.bound_sids(session, [resource.sid]):
            await self._second_sid(session, call, resource, by=by)
            return
        corrected = call.execution == "not_started"
        was = {"settled_by": call.settled_by, "problem": (call.problem or {}).get("slug")}
        call.sid = resource.sid
        call.execution, call.settled_by, call.problem = "started", by, None
        take_resource(call, resource)
        await self._stamp(session, call, refresh_in=self.first_refresh)
        told = {"sid": resource.sid, "settled_by": by} | data
        if corrected:
            told["was"] = was
            self.metrics.corrected.inc()
            logger.error("execution_corrected", call_id=str(call.id), call_sid=resource.sid, was=was, by=by)
        await repository.add_event(session, call.id, "call.corrected" if corrected else "call.started", told)
        self.count(call)

    async def apply(self, session: Session, call: Call, change: Change) -> None:
        now = await repository.now(session)
        for name, value in change.columns.items():
            setattr(call, name, value)
        call.settled_at = None if call.execution == "unknown" else now
        call.clean_searches = 0
        call.refresh_at = None if change.refresh_in is None else now + change.refresh_in
        call.search_at = None if change.search_in is None else now + change.search_in
        await repository.add_event(session, call.id, change.event, change.data)
        self.count(call)

    async def none_found(self, session: Session, call: Call, *, data: dict[str, Any]) -> None:
        """Enough clean searches over enough time: as far as can be known, no call was created."""
        call.execution, call.settled_by = "not_started", "none_found"
        call.problem = {"slug": NoneFound.slug, "detail": NoneFound.default_detail}
        await self._stamp(session, call, refresh_in=None)
        await repository.add_event(session, call.id, "call.not_started", {"settled_by": "none_found"} | data)
        self.count(call)

    async def search_again(self, session: Session, call: Call, *, clean: int) -> None:
        """When to search Twilio's list (again), after so many searches that showed nothing."""
        wait = self.plan.wait_after(clean)
        call.clean_searches = clean
        call.search_at = None if wait is None else await repository.now(session) + wait

    async def search_later(self, session: Session, call: Call) -> None:
        """Again after a search that says nothing, ever less often; after some days it is left to the callback."""
        now = await repository.now(session)
        age = now - call.pending_since
        wait = min(max(self.plan.first_wait, age / 4), _LONGEST_WAIT)
        call.search_at = now + wait if age < _GIVE_UP else None

    def count(self, call: Call) -> None:
        """Once the record says how it was settled, and is committed or as good as committed."""
        if call.settled_by is not None and call.settled_at is not None:
            self.metrics.settled.labels(call.settled_by).inc()
            waited = call.settled_at - call.pending_since
            self.metrics.settle_seconds.labels(call.settled_by).observe(waited.total_seconds())

    async def _stamp(self, session: Session, call: Call, *, refresh_in: timedelta | None) -> None:
        """Settled now, by the database's clock; `refresh_in` None: there is nothing to follow."""
        call.settled_at = await repository.now(session)
        call.search_at = None
        call.refresh_at = None if refresh_in is None else call.settled_at + refresh_in

    async def _known_already(self, session: Session, call: Call, resource: CallResource, *, by: SettledBy) -> None:
        if call.sid != resource.sid:
            await self._second_sid(session, call, resource, by=by)
            return
        for type_, news in take_resource(call, resource):
            await repository.add_event(session, call.id, type_, news)

    async def _second_sid(self, session: Session, call: Call, resource: CallResource, *, by: SettledBy) -> None:
        """Two calls for one intent, or two intents for one call: it must not be, and if it is, somebody has to hear."""
        why = "Twilio reports a second call for this record" if call.sid else ANOTHERS_SID
        logger.error("second_sid", call_id=str(call.id), call_sid=call.sid, other_sid=resource.sid, by=by, why=why)
        await repository.add_event(session, call.id, "call.second_sid", {"sid": resource.sid, "by": by})
