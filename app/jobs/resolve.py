"""Finds out whether Twilio has started a call, if the process that requested the call ended early or got no reliable answer.

A search binds a record to a call in Twilio's list only if the match is unambiguous: there is exactly one matching call without
a record, and no other request can have started it. Otherwise the record waits for the callback or another search. `SearchPlan`
in `app/calls/search_plan.py` says when to search. This module never dials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

import structlog

from app.calls import leases, repository
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database.engine import Database, Session
from app.jobs.account_tasks import AccountTaskGroup
from app.jobs.candidates import (
    CallCandidates,
    TwilioCallSearch,
    called_address_filter,
    earliest_date_created,
    possible_matches,
    twilio_clock_offset,
)
from app.jobs.isolation import run_for_each_call
from app.jobs.search_result import SearchFinding, SearchResult, evaluate_candidates
from app.observability import Metrics
from app.observability.tracing import trace_background_work
from app.tenants.directory import TenantDirectory
from app.twilio.call_list import CALL_LIST_PAGE_SIZE
from app.twilio.client import TwilioClient
from app.twilio.errors import TwilioError
from app.twilio.schemas import CallResource

logger = structlog.stdlib.get_logger(__name__)

ABANDONED_BATCH_SIZE = 20
SEARCH_BATCH_SIZE = 100
"""The maximum number of calls that one claim takes. Twilio's list is read once for an account's calls of the same hour."""
_MAX_UNKNOWN_CALLS_PER_PAGE = 20
"""The maximum number of an account's calls of unknown outcome that are looked for in a page that was read for a refresh."""
_MAX_CONCURRENT_SEARCHES = 20


@dataclass(frozen=True, slots=True)
class OutcomeResolver:
    """Marks abandoned creations as `unknown`, and searches Twilio's lists for calls whose outcome is unknown. Never dials."""

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    metrics: Metrics
    settlement: Settlement
    max_start_delay: timedelta
    deadline_s: float
    tasks: AccountTaskGroup = field(default_factory=AccountTaskGroup)

    async def mark_abandoned_calls(self) -> bool:
        """Marks a batch of records as `unknown` that are `pending` because their process ended before it stored an outcome.

        Returns false if there were none.
        """
        async with self.database.begin() as session:
            abandoned = await repository.lock_abandoned_calls(
                session, older_than=self.max_start_delay, limit=ABANDONED_BATCH_SIZE
            )
            for call in abandoned:
                await self.settlement.apply_change(
                    session, call, self.settlement.change_to_unknown(data={"reason": "abandoned"})
                )
        for call in abandoned:
            self.metrics.calls.abandoned.inc()
            logger.warning("creation_abandoned", call_id=str(call.id))
        return bool(abandoned)

    async def search_unknown_calls(self) -> bool:
        """Starts to search Twilio's lists for a batch of calls whose outcome is unknown.

        Returns false if no search was due, or if too many tasks of earlier steps still run.
        """
        if self.tasks.is_full:
            return False
        busy_accounts = self.tasks.busy_accounts()
        async with self.database.begin() as session:
            due = await leases.claim_calls_to_search(
                session, lease=self._search_lease, limit=SEARCH_BATCH_SIZE, busy_accounts=busy_accounts
            )
            postgres_clock_offset = await repository.postgres_time_now(session) - datetime.now(UTC)
        self.tasks.start_task_per_account(due, partial(self._search_account, postgres_clock_offset), event="search_crashed")
        return bool(due)

    @property
    def _search_lease(self) -> timedelta:
        """The time for which a search is reserved for this worker. It is longer than the search can take.

        A search first reads the list of the account. If that list cannot be read completely, the search reads the list of the
        calls to the called address. Each of these two steps may take `2 * deadline_s` seconds.
        """
        return timedelta(seconds=4 * self.deadline_s + 30)

    async def _search_account(self, postgres_clock_offset: timedelta, calls: Sequence[Call]) -> None:
        """Searches Twilio's lists for calls of one account, and records the results.

        If this worker stops meanwhile, it begins no more searches. Other workers search for the remaining calls.
        `postgres_clock_offset` is Postgres's clock minus this machine's clock.
        """
        search = partial(self._search_call, self.make_call_search(calls), postgres_clock_offset)
        for start in range(0, len(calls), _MAX_CONCURRENT_SEARCHES):
            if self.tasks.is_stopping:
                break
            if start:
                async with self.database.begin() as session:
                    await leases.renew_search_leases(session, calls[start:], lease=self._search_lease)
            await run_for_each_call(calls[start : start + _MAX_CONCURRENT_SEARCHES], search, event="search_crashed")
        async with self.database.begin() as session:
            await leases.delete_done_search_leases(session, calls)

    def make_call_search(self, batch: Sequence[Call]) -> TwilioCallSearch:
        return TwilioCallSearch(self.directory, self.twilio, batch, self.max_start_delay, self.deadline_s)

    async def bind_unknown_calls_on_page(self, account_id: UUID, page: Sequence[Mapping[str, Any]]) -> None:
        """Looks for calls of unknown outcome in `page`, the first page of Twilio's list of the account's calls.

        If a match is certain, binds the record to Twilio's call, so that no search for it is needed. Otherwise the record does
        not change, because the page may be stale or incomplete. Raises DatabaseUnavailable.
        """
        async with self.database.begin() as session:
            unknown = await repository.list_unknown_calls(session, account_id, limit=_MAX_UNKNOWN_CALLS_PER_PAGE)
            postgres_clock_offset = await repository.postgres_time_now(session) - datetime.now(UTC)
        covered = [call for call in unknown if _shows_all_candidates(page, call)]
        ahead = await twilio_clock_offset(self.directory, self.twilio, account_id) if covered else None
        if ahead is None:
            return
        listed = [
            entry
            for each in filter(called_address_filter(covered), page)
            if (entry := CallResource.parse_answer(each)) is not None
        ]
        for call in covered:
            calls = possible_matches(call, listed, max_start_delay=self.max_start_delay)
            if not calls:
                continue
            async with self.database.begin() as session:
                locked = await repository.lock_call(session, call.id)
                if locked is None or not _is_searchable(locked):
                    continue
                shown, offset = CallCandidates(calls, True, ahead), ahead - postgres_clock_offset
                finding = await evaluate_candidates(session, locked, shown, offset, max_start_delay=self.max_start_delay)
                if finding.resource is None:
                    continue
                await self._write_finding(session, locked, finding)
            self.metrics.calls.searches.labels(finding.result).inc()

    async def _search_call(self, call_lists: TwilioCallSearch, postgres_clock_offset: timedelta, call: Call) -> None:
        """Searches Twilio's lists for one call and records the result.

        `postgres_clock_offset` is Postgres's clock minus this machine's clock.
        """
        with trace_background_work("search", caused_by=call.traceparent, attributes={"callgate.call_id": str(call.id)}):
            try:
                candidates = await call_lists.find_candidates(call)
            except (TwilioError, TimeoutError) as error:
                reason = error.reason if isinstance(error, TwilioError) else "deadline"
                logger.warning("search_failed", call_id=str(call.id), reason=reason)
                await self._record_search_result(call, None, None)
            else:
                ahead = candidates.twilio_clock_offset
                await self._record_search_result(call, candidates, None if ahead is None else ahead - postgres_clock_offset)

    async def _record_search_result(
        self, call: Call, candidates: CallCandidates | None, clock_offset: timedelta | None
    ) -> None:
        """Records the result of a search for `call`, and plans the next search if one is needed.

        Writes nothing if the outcome became known meanwhile, or if the result of another search was recorded, which changes
        `search_at`. `candidates` is None if the request to Twilio failed. `clock_offset` is Twilio's clock minus Postgres's;
        None if unknown.
        """
        async with self.database.begin() as session:
            locked = await repository.lock_call(session, call.id)
            # The call was settled meanwhile, or another worker has searched for it after the lease ended.
            if locked is None or not _is_searchable(locked) or locked.search_at != call.search_at:
                return
            result: SearchResult | Literal["failed"] = "failed"
            if candidates is not None:
                finding = await evaluate_candidates(
                    session, locked, candidates, clock_offset, max_start_delay=self.max_start_delay
                )
                await self._write_finding(session, locked, finding)
                result = finding.result
            if result == "none":
                clean = locked.clean_searches + 1
                if locked.execution == "unknown" and clean >= self.settlement.plan.searches:
                    await self.settlement.apply_change(
                        session, locked, self.settlement.change_to_none_found(data={"searches": clean})
                    )
                await self.settlement.plan_next_search(session, locked, clean_searches=clean)
            elif result != "bound":
                await self.settlement.plan_search_after_inconclusive_search(session, locked)
        self.metrics.calls.searches.labels(result).inc()

    async def _write_finding(self, session: Session, call: Call, finding: SearchFinding) -> None:
        await repository.add_event(session, call.id, "call.searched", {"result": finding.result, **finding.data})
        if finding.resource is not None:
            await self.settlement.bind_twilio_call(session, call, finding.resource, by="list", data={})


def _is_searchable(call: Call) -> bool:
    """Returns whether the result of a search may change this record.

    That is so if the outcome is `unknown`, or if it is `not_started` only because earlier searches found nothing.
    """
    return call.execution == "unknown" or (call.execution == "not_started" and call.settled_by == "none_found")


def _shows_all_candidates(page: Sequence[Mapping[str, Any]], call: Call) -> bool:
    """Returns whether the page has every call that the request for this record may have started.

    The page has the newest calls first. True if the page reaches back to before the request, or is the whole list.
    """
    last = CallResource.parse_answer(page[-1]) if page else None
    is_whole_list = len(page) < CALL_LIST_PAGE_SIZE
    return is_whole_list or (
        last is not None and last.date_created is not None and last.date_created < earliest_date_created(call.pending_since)
    )
