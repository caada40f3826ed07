"""Dials a call whose record is committed. Commits the outcome even if the client disconnects or Postgres is unavailable."""

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog

from app.calls import repository
from app.calls.creation.dial import (
    DialTimeBudget,
    NotStartedOutcome,
    Outcome,
    PreparedCall,
    StartedOutcome,
    UnknownOutcome,
    dial,
)
from app.calls.creation.exception_logger import ExceptionLogger
from app.calls.creation.lost.service import LostRecordWriter, is_attempt_lost, is_same_attempt
from app.calls.creation.refused_accounts import slow_down_or_resume_account
from app.calls.creation.rejected_credentials import update_rejection_marks
from app.calls.creation.repository import lock_scheduled_dial
from app.calls.creation.scheduled.service import ScheduledIntentWriter
from app.calls.creation.store import MAX_ROWS_PER_STATEMENT, AttemptOutcome, NewCall, write_outcomes
from app.calls.creation.twilio_queue import TwilioQueueWatch
from app.calls.creation.undialled_calls import UndialledCallRecorder
from app.calls.models import Call
from app.calls.record_change import RecordChange
from app.calls.settlement import Settlement
from app.calls.store import SID_TAKEN_EXPLANATION, SidTaken
from app.calls.stored_problem import allows_scheduled_retry, error_as_json
from app.database.batcher import Batcher, RowLocked
from app.database.engine import Database
from app.database.errors import is_value_refused
from app.database.retry_queue import RetryQueue
from app.errors import CallgateError, DatabaseUnavailable
from app.observability import Metrics
from app.scheduling.store import pause_account_dialling
from app.tenants.directory import TenantDirectory, UsableAccount
from app.twilio.client import TwilioClient

Result = TypeVar("Result")
DialRow = Mapping[str, Any]

logger = structlog.stdlib.get_logger(__name__)

# How long a process that stops waits for outcomes to be committed. This time begins after the server has waited for its
# requests (CALLGATE_DRAIN_TIMEOUT).
DRAIN_COMMIT_TIMEOUT_S = 5.0


@dataclass
class CallPlacer:
    """Dials the calls of one process and commits the outcomes. A client that disconnects does not cancel its dial.

    When the process stops, call `drain` to wait for the dials.
    """

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    metrics: Metrics
    settlement: Settlement
    undialled_calls: UndialledCallRecorder
    scheduled_intents: ScheduledIntentWriter
    budget: DialTimeBudget
    pause_if_twilio_queues: bool = False
    """Whether an account stops dialling for a moment when Twilio reports that it has queued a call of the account."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._outcomes: Batcher[tuple[Call | NewCall, RecordChange], datetime | None] = Batcher(
            self._write_outcomes, max_batch=MAX_ROWS_PER_STATEMENT
        )
        self._twilio_queue = TwilioQueueWatch(self.metrics.twilio)
        self._lost_records = LostRecordWriter(self.database, self.metrics)
        self._late_outcomes = RetryQueue(self._retry_outcome_commit, name="outcomes", max_batch=MAX_ROWS_PER_STATEMENT)

    async def place(self, call: Call | NewCall, account: UsableAccount, prepared: PreparedCall) -> Call | NewCall:
        """Dials the call, commits the outcome, and returns the record.

        If the outcome cannot be committed at once, the returned record is `unknown`, and the commit is retried in the
        background. Raises no Exception.
        """
        return await asyncio.shield(self._start_task(self._dial_and_commit_outcome(call, account, prepared)))

    async def commit_not_dialled(self, call: Call | NewCall, problem: CallgateError, prepared: PreparedCall) -> Call | NewCall:
        """Commits that a pending call was not dialled, with `problem` as the reason. Returns the record.

        A scheduled call waits to be dialled again if the problem is temporary. Like `place`, raises no Exception.
        """
        return await asyncio.shield(
            self._start_task(self._commit_outcome_and_adapt_account(call, NotStartedOutcome(problem, []), prepared))
        )

    async def drain(self) -> None:
        """Waits until all dials have ended, and writes what is queued because Postgres was unavailable.

        Queued are outcomes, first records of scheduled calls, and changes of calls that will not be dialled. Takes at most
        DRAIN_COMMIT_TIMEOUT_S. Logs an error with the number of dials and writes that are left.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_COMMIT_TIMEOUT_S):
                retries = (self._late_outcomes, self.undialled_calls, self.scheduled_intents)
                await asyncio.gather(*(each.close() for each in retries), self._wait_for_tasks())
                await self._late_outcomes.close()
        queued = len(self._late_outcomes) + len(self.undialled_calls) + len(self.scheduled_intents)
        if unsaved := len(self._tasks) + queued:
            logger.error("drain_timed_out", creations=unsaved)

    async def _wait_for_tasks(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _dial_and_commit_outcome(
        self, call: Call | NewCall, account: UsableAccount, prepared: PreparedCall
    ) -> Call | NewCall:
        """Dials the call, commits the outcome, counts it in the metrics, and marks rejected credentials. Returns the record."""
        outcome = await self._dial(call, account, prepared)
        settled = await self._commit_outcome_and_adapt_account(call, outcome, prepared)
        with ExceptionLogger("creation_not_counted", call):
            self.metrics.calls.creations_series(outcome.execution, _destination_kind(call.to)).inc()
            if isinstance(outcome, StartedOutcome) and outcome.resource.queue_time:
                self._twilio_queue.record_queued_call(call, queue_time_ms=outcome.resource.queue_time)
                if self.pause_if_twilio_queues:
                    await pause_account_dialling(self.database, call.account_id, queue_time_ms=outcome.resource.queue_time)
        with ExceptionLogger("credentials_not_marked", call):
            await update_rejection_marks(self.database, self.directory, account, outcome)
        return settled

    async def _commit_outcome_and_adapt_account(
        self, call: Call | NewCall, outcome: Outcome, prepared: PreparedCall
    ) -> Call | NewCall:
        """Commits the outcome and returns the record. After a scheduled call, also slows its account down or ends a slowdown.

        An account dials more slowly while Twilio refuses its scheduled calls for temporary reasons (refused_accounts.py).
        """
        settled = await self._commit_outcome(call, outcome, prepared)
        if prepared.requeue_values:
            with ExceptionLogger("account_not_slowed_down", call):
                await slow_down_or_resume_account(self.database, call, outcome, prepared.requeue_values)
        return settled

    async def _dial(self, call: Call | NewCall, account: UsableAccount, prepared: PreparedCall) -> Outcome:
        async def may_repeat() -> bool:
            """Returns whether the attempt may be repeated: the call is still pending, and no client has asked to end it.

            Returns False if Postgres is unavailable, because a repetition needs certainty.
            """
            try:
                async with self.database.begin() as session:
                    return await repository.may_repeat_dial_request(
                        session, call.id, attempt=call.attempt, pending_since=call.pending_since
                    )
            except DatabaseUnavailable:
                return False

        try:
            return await dial(self.twilio, account.credentials, prepared, budget=self.budget, may_repeat=may_repeat)
        except Exception:
            # A bug in Callgate proves nothing about the call: it must not be reported as "not started".
            logger.exception("dial_failed", call_id=str(call.id))
            return UnknownOutcome("internal_error", [])

    async def _commit_outcome(self, call: Call | NewCall, outcome: Outcome, prepared: PreparedCall) -> Call | NewCall:
        """Commits the outcome and returns the record. If the commit fails, returns the call as `unknown`.

        A failed commit is retried in the background, unless Postgres has refused the values.
        """
        change, dial_row = None, prepared.requeue_values.dial_row if prepared.requeue_values else None
        try:
            change = self._change_for_outcome(outcome, prepared)
            return await self._commit_change(call, outcome, change, dial_row)
        except Exception as error:
            if not isinstance(error, DatabaseUnavailable):
                logger.exception("outcome_not_committed", call_id=str(call.id))
            if change is not None and not is_value_refused(error):
                # The outcome is committed as soon as Postgres takes it. If this process ends first, a worker finds the call.
                self._late_outcomes.add((call, outcome, change, dial_row))
        call.execution = "unknown"
        return call

    def _change_for_outcome(self, outcome: Outcome, prepared: PreparedCall | None = None) -> RecordChange:
        """Returns the change that records this outcome of a dial. `prepared` may be None only for an `UnknownOutcome`."""
        data: dict[str, Any] = {"attempts": [attempt.event_data() for attempt in outcome.attempts]}
        match outcome:
            case StartedOutcome():
                expects_callbacks = prepared is not None and prepared.expects_callbacks
                return self.settlement.change_to_started(outcome.resource, data=data, expects_callbacks=expects_callbacks)
            case NotStartedOutcome():
                requeue = prepared.requeue_values if prepared else None
                problem = error_as_json(outcome.problem)
                if requeue and allows_scheduled_retry(outcome.problem):
                    due_in = max(requeue.retry_in, timedelta(seconds=outcome.problem.retry_after_s or 0))
                    return self.settlement.change_to_scheduled(problem, requeue.dial_row, due_in=due_in, data=data)
                return self.settlement.change_to_not_started(problem, data=data)
            case UnknownOutcome():
                return self.settlement.change_to_unknown(data={"reason": outcome.reason} | data)

    async def _commit_change(
        self, call: Call | NewCall, outcome: Outcome, change: RecordChange, dial_row: DialRow | None
    ) -> Call | NewCall:
        """Commits `change`, which records `outcome`, and returns the record.

        Uses `_commit_to_nonpending_record` if the record is missing or not pending any more. `dial_row` is a scheduled call's
        row for `scheduled_dial` (`RequeueValues.dial_row`), and None for any other call.
        """
        try:
            changed_at = await self._outcomes.submit((call, change))
        except SidTaken:
            return await self._commit_unknown_for_taken_sid(call, outcome, dial_row)
        if changed_at is None:
            # A callback or a worker has written an outcome meanwhile.
            return await self._commit_to_nonpending_record(call, outcome, change, dial_row)
        change.apply_to(call, now=changed_at)
        call.updated_at = changed_at
        with ExceptionLogger("settlement_not_counted", call):
            self.settlement.count_outcome(call)
        return call

    async def _commit_unknown_for_taken_sid(
        self, call: Call | NewCall, outcome: Outcome, dial_row: DialRow | None
    ) -> Call | NewCall:
        """Commits the outcome `unknown`, because the sid in Twilio's answer already belongs to another record."""
        sid = outcome.resource.sid if isinstance(outcome, StartedOutcome) else None
        logger.error("sid_taken", call_id=str(call.id), call_sid=sid, why=SID_TAKEN_EXPLANATION)
        unknown = UnknownOutcome("sid_taken", outcome.attempts)
        record = await self._commit_change(call, unknown, self._change_for_outcome(unknown), dial_row)
        self.metrics.calls.second_sids.inc()
        return record

    async def _write_outcomes(
        self, outcomes: Sequence[tuple[Call | NewCall, RecordChange]]
    ) -> list[datetime | RowLocked | None]:
        return await write_outcomes(self.database, [AttemptOutcome.from_change(call, change) for call, change in outcomes])

    async def _commit_to_nonpending_record(
        self, call: Call | NewCall, outcome: Outcome, change: RecordChange, dial_row: DialRow | None
    ) -> Call | NewCall:
        """Commits the outcome to a record that is not pending any more, for example because of a callback. Returns the record.

        If Postgres has lost the record or the attempt, first writes it again, as pending. A `StartedOutcome` is applied to a
        record in any state (`Settlement.bind_twilio_call`). Any other outcome is applied only if the record is `pending` or
        `unknown` and still in the same attempt.
        """
        async with self.database.begin() as session:
            if dial_row is not None:
                # Before the record, as a worker does when it takes the right to dial the call.
                await lock_scheduled_dial(session, call.id)
            locked = await repository.lock_call(session, call.id)
            if locked is not None:
                was = None
                if is_attempt_lost(locked, call, outcome):
                    was = await self._lost_records.restore_attempt(session, locked, call, dial_row)
                if isinstance(outcome, StartedOutcome):
                    await self.settlement.bind_twilio_call(
                        session, locked, outcome.resource, by="response", data=change.data, was=was
                    )
                elif is_same_attempt(locked, call) and locked.execution in ("pending", "unknown"):
                    # In any other state, the record has a more recent outcome.
                    await self.settlement.apply_change(session, locked, change)
                return locked
        await self._lost_records.insert_record(call, dial_row)
        return await self._commit_change(call, outcome, change, dial_row)

    async def _retry_outcome_commit(self, late_outcome: tuple[Call | NewCall, Outcome, RecordChange, DialRow | None]) -> None:
        """Tries once more to commit the outcome of a dial, after earlier commits failed."""
        await self._commit_change(*late_outcome)

    def _start_task(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("placement_failed", exc_info=error)


def _destination_kind(to: str) -> str:
    """Returns the kind of destination as a metric label: `sip`, `sips`, `client` or `phone`."""
    scheme = to.partition(":")[0].lower()
    return scheme if scheme in ("sip", "sips", "client") else "phone"
