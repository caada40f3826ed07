"""Reads started calls from Twilio repeatedly, and updates their records, until the calls have ended and have a price.

If several calls of an account are due at the same time, they are read from Twilio's list (app.jobs.call_list_scan). One or two
calls are fetched one by one. app.calls.refresh_times decides when a call is due.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

import structlog

from app.calls import leases
from app.calls.leases import CallDueForRefresh
from app.calls.not_found_at_twilio import is_call_not_found, is_deleted_at_twilio
from app.calls.outbox import final_delivery, needs_final_delivery
from app.calls.progress import apply_deletion, apply_resource
from app.calls.refresh_times import (
    CALLBACK_OVERDUE_INTERVALS,
    call_age,
    refresh_time_after_response,
    refresh_time_without_response,
)
from app.calls.store import CallState, ChangedCall, read_calls, write_changed_calls
from app.clock import monotonic_seconds
from app.database.engine import Database
from app.jobs.account_tasks import AccountTaskGroup
from app.jobs.call_list_scan import MIN_CALLS_FOR_LIST, find_calls_in_list
from app.jobs.isolation import log_and_suppress_errors
from app.observability import Metrics
from app.observability.tracing import trace_background_work
from app.scheduling.dial_slots import mark_calls_missing_at_twilio
from app.tenants.directory import TenantDirectory
from app.twilio.client import TwilioClient, try_credentials
from app.twilio.errors import (
    POOL_TIMEOUT,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotSent,
    TwilioRejected,
    TwilioThrottled,
    TwilioTimeout,
)
from app.twilio.schemas import CallResource

logger = structlog.stdlib.get_logger(__name__)

BATCH_SIZE = 500
# How many calls of one account are fetched one by one in a step.
MAX_FETCHES_PER_ACCOUNT = 20
_MAX_CONCURRENT_FETCHES = 5
_WRITE_BATCH_SIZE = 100
_MIN_PAUSE = timedelta(seconds=30)
# After one of these errors of a fetch, further requests for the same account would most probably fail, too.
_ACCOUNT_WIDE_FETCH_ERRORS = (TwilioThrottled, TwilioNotSent, TwilioTimeout, TwilioCredentialRejected)
# The same for errors of the list. Others concern only the list, which may be too slow, or forbidden to the key: the calls are
# then fetched one by one.
_ACCOUNT_WIDE_LIST_ERRORS = (TwilioThrottled, TwilioNotSent)

RefreshResult = Literal["changed", "unchanged", "gone", "failed"]
FirstPageCheck = Callable[[UUID, Sequence[Mapping[str, Any]]], Awaitable[None]]
"""A function that checks the first page of Twilio's list of calls. Its arguments are the account's id and that page."""


@dataclass(frozen=True, slots=True)
class _FetchResult:
    """The result of reading one call: `resource` is the call as Twilio returned it, or `error` is the error of the request.

    Both are None if no request was sent for the call. If requests for the account are paused, `pause` is the time until the
    next one may be sent.
    """

    resource: CallResource | None = None
    error: TwilioError | None = None
    pause: timedelta | None = None

    @property
    def has_response_about_call(self) -> bool:
        """Whether Twilio has answered about this call. A 429 or a refused credential says nothing about the call."""
        return self.resource is not None or isinstance(self.error, TwilioRejected)

    @property
    def has_error_other_than_throttling(self) -> bool:
        """Whether the request failed for another reason than Twilio's limit on the rate of requests."""
        return self.error is not None and not isinstance(self.error, TwilioThrottled)


@dataclass(frozen=True, slots=True)
class CallRefresher:
    """Reads started calls from Twilio repeatedly, and updates their records, until the calls have ended and have a price."""

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    metrics: Metrics
    interval: timedelta
    fetch_deadline_s: float
    first_page_checks: Sequence[FirstPageCheck] = ()
    tasks: AccountTaskGroup = field(default_factory=AccountTaskGroup)
    # Accounts that Twilio throttles, or whose requests fail, each with the end of its pause as a value of
    # `monotonic_seconds()`. No request is sent for an account before that.
    _pauses: dict[UUID, float] = field(default_factory=dict)

    async def step(self) -> bool:
        """Starts to update the records of a batch of due calls from Twilio.

        Returns false if no call was due, or if too many tasks of earlier steps still run.
        """
        if self.tasks.is_full:
            return False
        # Longer than a refresh can take (twice `fetch_deadline_s` for the list, and then the fetches), so that no other worker
        # repeats it meanwhile.
        lease = timedelta(seconds=2 * MAX_FETCHES_PER_ACCOUNT / _MAX_CONCURRENT_FETCHES * self.fetch_deadline_s + 30)
        busy_accounts = self.tasks.busy_accounts()
        async with self.database.begin() as session:
            due = await leases.claim_calls_to_refresh(session, lease=lease, limit=BATCH_SIZE, busy_accounts=busy_accounts)
        self.tasks.start_task_per_account(due, self._refresh_calls_of_account, event="refresh_crashed")
        return bool(due)

    async def delete_expired_leases(self) -> bool:
        """Deletes leases that expired more than a day ago. A lease reserves a due call for one worker.

        Returns false, so that the job pauses before the next time.
        """
        async with self.database.begin() as session:
            await leases.delete_expired_leases(session)
        return False

    async def _refresh_calls_of_account(self, calls: Sequence[CallDueForRefresh]) -> None:
        """Reads the calls, which must all have the same account, from Twilio, and updates their records."""
        results = await self._read_calls_from_twilio(calls[0].account_id, calls)
        for start in range(0, len(calls), _WRITE_BATCH_SIZE):
            await self._write_results({call.id: results[call.id] for call in calls[start : start + _WRITE_BATCH_SIZE]})
        async with self.database.begin() as session:
            await leases.delete_done_refresh_leases(session, calls)

    async def _read_calls_from_twilio(self, account_id: UUID, calls: Sequence[CallDueForRefresh]) -> dict[UUID, _FetchResult]:
        """Reads calls of the account from Twilio. Returns the result for each call, by the call's id.

        MIN_CALLS_FOR_LIST calls or more are looked for in Twilio's list first. Fewer calls, and calls that are missing in the
        list, are fetched one by one. Sends nothing while requests for the account are paused.
        """
        if pause := self._remaining_pause(account_id):
            return {call.id: _FetchResult(pause=pause) for call in calls}
        found: Mapping[str, CallResource] = {}
        try:
            if len(calls) >= MIN_CALLS_FOR_LIST:
                wanted = {call.sid: call.pending_since for call in calls}
                deadline_s = self.fetch_deadline_s
                ask = partial(
                    find_calls_in_list, self.twilio, wanted=wanted, deadline_s=deadline_s, stop_reading_after_s=deadline_s
                )
                found, newest_entries = await try_credentials(await self.directory.active_credentials(account_id), ask)
                for check in self.first_page_checks:
                    # An error of a check, such as that of a locked record, does not concern the calls to refresh.
                    with log_and_suppress_errors("listed_calls_check_failed", account_id=str(account_id)):
                        await check(account_id, newest_entries)
        except TwilioError as error:
            if _affects_whole_account(error, _ACCOUNT_WIDE_LIST_ERRORS):
                return self._pause_account(account_id, calls, error)
            # An error of the list proves nothing about a call: the call may exist, and the key may be allowed to fetch it.
            logger.warning("sweep_failed", account_id=str(account_id), calls=len(calls), reason=error.reason)
        results = {call.id: _FetchResult(found[call.sid]) for call in calls if call.sid in found}
        return results | await self._fetch_one_by_one(account_id, [call for call in calls if call.id not in results])

    async def _fetch_one_by_one(self, account_id: UUID, calls: Sequence[CallDueForRefresh]) -> dict[UUID, _FetchResult]:
        """Fetches the first MAX_FETCHES_PER_ACCOUNT calls, with a request for each. Returns a result for the id of each call.

        The results of further calls are empty: no request was sent for them.
        """
        results = dict.fromkeys((call.id for call in calls[MAX_FETCHES_PER_ACCOUNT:]), _FetchResult())
        waiting = iter(calls[:MAX_FETCHES_PER_ACCOUNT])

        async def fetch_each() -> None:
            for call in waiting:
                results[call.id] = await self._fetch(account_id, call)

        async with asyncio.TaskGroup() as group:
            for _ in range(_MAX_CONCURRENT_FETCHES):
                group.create_task(fetch_each())
        return results

    async def _fetch(self, account_id: UUID, call: CallDueForRefresh) -> _FetchResult:
        if pause := self._remaining_pause(account_id):
            return _FetchResult(pause=pause)
        with trace_background_work("refresh", caused_by=call.traceparent, attributes={"callgate.call_id": str(call.id)}):
            try:
                ask = partial(self.twilio.fetch_call, sid=call.sid, deadline_s=self.fetch_deadline_s)
                return _FetchResult(await try_credentials(await self.directory.active_credentials(account_id), ask))
            except TwilioError as error:
                if _affects_whole_account(error, _ACCOUNT_WIDE_FETCH_ERRORS):
                    return self._pause_account(account_id, [call], error)[call.id]
                status = error.answer.status if error.answer else None
                level = logging.INFO if is_call_not_found(error) else logging.WARNING
                logger.log(level, "refresh_failed", call_id=str(call.id), call_sid=call.sid, reason=error.reason, status=status)
                return _FetchResult(error=error)

    def _remaining_pause(self, account_id: UUID) -> timedelta | None:
        """Returns how long requests for the account are still paused; None if they are not paused now."""
        left_s = self._pauses.get(account_id, 0.0) - monotonic_seconds()
        return timedelta(seconds=left_s) if left_s > 0 else None

    def _pause_account(
        self, account_id: UUID, calls: Collection[CallDueForRefresh], error: TwilioError
    ) -> dict[UUID, _FetchResult]:
        """Stops requests for one account for as long as Twilio's `error` asks, and at least for _MIN_PAUSE.

        Requests for other accounts go on. Returns a result with `error` and the pause for each of `calls`, by id.
        """
        retry_after_s = error.answer.retry_after_s if error.answer else None
        wait = max(timedelta(seconds=retry_after_s or 0), _MIN_PAUSE)
        self._pauses[account_id] = monotonic_seconds() + wait.total_seconds()
        fields = {"account_id": str(account_id), "calls": len(calls), "wait_s": wait.total_seconds()}
        logger.warning("refresh_paused", reason=error.reason, **fields)
        return {call.id: _FetchResult(error=error, pause=wait) for call in calls}

    async def _write_results(self, results: dict[UUID, _FetchResult]) -> None:
        """Updates the records of calls. `results` maps the id of each call to what was read from Twilio.

        Does not write a record that has changed meanwhile, or that is locked. Its call is read from Twilio again later.
        """
        calls = await read_calls(self.database, results)
        changes = {call_id: self._apply_result(call, results[call_id]) for call_id, call in calls.items()}
        written = await write_changed_calls(self.database, [changed for changed, _ in changes.values()])
        missing = [call_id for call_id, each in results.items() if each.error is not None and is_call_not_found(each.error)]
        found = [call_id for call_id, each in results.items() if each.resource is not None]
        await mark_calls_missing_at_twilio(self.database, missing=missing, found=found)
        for call_id in written:
            self.metrics.calls.refreshes.labels(changes[call_id][1]).inc()

    def _apply_result(self, call: CallState, fetched: _FetchResult) -> tuple[ChangedCall, RefreshResult]:
        """Applies Twilio's answer to a record in memory. Returns what to write, and the result for the metrics."""
        changed = ChangedCall(call)
        result: RefreshResult
        gone = fetched.error is not None and is_deleted_at_twilio(call, fetched.error, now=call.now)
        if fetched.resource is not None and call.sid == fetched.resource.sid:
            changed.events += apply_resource(call, fetched.resource)
            result = "changed" if changed.events else "unchanged"
        elif gone:
            changed.events += apply_deletion(call, by="twilio", now=call.now)
            result = "gone"
        else:
            result = "failed"
        if fetched == _FetchResult():
            result = "unchanged"
        due_at = None if call.deleted_at else self._next_refresh_time(call, fetched)
        if needs_final_delivery(call):
            # Twilio's callback, which has more fields, may still arrive.
            deliver_at = (
                call.now + CALLBACK_OVERDUE_INTERVALS * self.interval - call_age(call, now=call.now, since=call.end_time)
            )
            if deliver_at > call.now:
                due_at = deliver_at if due_at is None else min(due_at, deliver_at)
            else:
                changed.deliveries.append(final_delivery(call))
        call.refresh_at = due_at
        return changed, result

    def _next_refresh_time(self, call: CallState, fetched: _FetchResult) -> datetime | None:
        """Returns when to refresh the call again; None if it needs no more refreshes."""
        if fetched.has_response_about_call:
            return refresh_time_after_response(call, now=call.now, interval=self.interval)
        due_at = refresh_time_without_response(
            call, now=call.now, interval=self.interval, has_failed=fetched.has_error_other_than_throttling
        )
        if due_at and fetched.pause:
            return max(due_at, call.now + fetched.pause)
        if due_at and fetched.error is None:
            return call.now + self.interval  # too many were missing in the list to fetch all of them
        return due_at


def _affects_whole_account(error: TwilioError, account_wide_errors: tuple[type[TwilioError], ...]) -> bool:
    """Returns whether the error is one of `account_wide_errors`, and is not caused by Callgate's own full connection pool."""
    return isinstance(error, account_wide_errors) and error.reason != POOL_TIMEOUT
