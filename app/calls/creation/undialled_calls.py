"""Records in the background that calls will not be dialled, although Postgres may have committed their intents or grants.

A call whose intent (first record) may be committed ends as `not_started`. If a grant (a worker's right to dial a scheduled
call) may be committed, the call waits again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.calls import repository
from app.calls.creation.dial import RequeueValues
from app.calls.creation.store import MAX_ROWS_PER_STATEMENT, NewCall, write_undialled_outcomes
from app.calls.models import Call
from app.calls.record_change import RecordChange
from app.calls.settlement import Settlement
from app.calls.stored_problem import error_as_json
from app.database.batcher import Batcher, RowLocked
from app.database.engine import Database
from app.database.retry_queue import RetryQueue
from app.errors import DatabaseUnavailable

# The maximum number of queued withdrawals. With more, the oldest is discarded, and the worker marks its record as `unknown`.
_MAX_QUEUED_WITHDRAWALS = 10_000


@dataclass(frozen=True, slots=True)
class _UndialledAttempt:
    """A further attempt to dial an existing call. This process gave it up before it sent anything to Twilio.

    It is not known whether the transaction that began the attempt was committed. If it was, it also wrote the event with the id
    `event_id`, and the outcome of the attempt must be recorded as `not_started`.
    """

    call_id: UUID
    attempt: int
    event_id: UUID


@dataclass(frozen=True, slots=True)
class _UnusedGrant:
    """A grant (the right to dial a scheduled call) that this process will not use.

    `pending_since` identifies the grant: if the grant was rolled back, another process may get one for the same attempt.
    """

    call_id: UUID
    attempt: int
    pending_since: datetime
    requeue: RequeueValues


class UndialledCallRecorder:
    """Records in the background that calls will not be dialled. Retries while Postgres is unavailable."""

    def __init__(self, database: Database, settlement: Settlement) -> None:
        self._database = database
        self._settlement = settlement
        self._intents: Batcher[NewCall, bool] = Batcher(self._withdraw_intents, max_batch=MAX_ROWS_PER_STATEMENT)
        self._queue = RetryQueue(
            self._write_withdrawal, name="withdrawals", max_batch=MAX_ROWS_PER_STATEMENT, max_items=_MAX_QUEUED_WITHDRAWALS
        )

    def __len__(self) -> int:
        return len(self._queue)

    def mark_call_not_started(self, call: NewCall) -> None:
        """Records in the background that a new call, which is not scheduled, is `not_started`."""
        self._queue.add(call)

    def mark_attempt_not_started(self, call_id: UUID, attempt: int, *, event_id: UUID) -> None:
        """Records in the background that a further attempt to place an existing call is `not_started`.

        The transaction that began the attempt also wrote the event with the id `event_id`. If there is no such event, the
        attempt of this number belongs to another request and is not changed.
        """
        self._queue.add(_UndialledAttempt(call_id, attempt, event_id))

    def requeue_call_of_unused_grant(self, call: NewCall, requeue: RequeueValues) -> None:
        """Starts a write in the background that makes a scheduled call wait to be dialled again.

        Call this method if this process will not use its grant, the right to dial the call. `call` is the record as the grant
        has changed it. Changes nothing if the grant was not committed.
        """
        self._queue.add(_UnusedGrant(call.id, call.attempt, call.pending_since, requeue))

    async def close(self) -> None:
        """Writes the queued changes at once. Stops if Postgres fails; what was not written stays queued."""
        await self._queue.close()

    async def _write_withdrawal(self, item: NewCall | _UndialledAttempt | _UnusedGrant) -> None:
        match item:
            case _UndialledAttempt():
                await self._withdraw_attempt(item)
            case _UnusedGrant():
                await self._requeue_call_of_grant(item)
            case _:
                if not await self._intents.submit(item):
                    await self._mark_existing_not_started(item)

    async def _withdraw_intents(self, calls: Sequence[NewCall]) -> Sequence[bool | RowLocked]:
        return await write_undialled_outcomes(self._database, calls, self._change_to_not_started())

    async def _mark_existing_not_started(self, intent: NewCall) -> None:
        """Writes `not_started` to the record of a new call, if the record is pending or a worker has marked it as `unknown`."""
        async with self._database.begin() as session:
            call = await repository.lock_call(session, intent.id)
            if call is not None and _is_attempt_open(call, intent.attempt):
                await self._settlement.apply_change(session, call, self._change_to_not_started())

    async def _withdraw_attempt(self, undialled: _UndialledAttempt) -> None:
        async with self._database.begin() as session:
            call = await repository.lock_call(session, undialled.call_id)
            if call is None:
                return
            if _is_attempt_open(call, undialled.attempt):
                if await repository.has_event(session, call.id, undialled.event_id):
                    await self._settlement.apply_change(session, call, self._change_to_not_started())
            elif call.execution == "not_started" and call.attempt == undialled.attempt - 1:
                # Uses up the number, so that a late commit of the undialled attempt finds another attempt and changes nothing.
                call.attempt = undialled.attempt

    async def _requeue_call_of_grant(self, grant: _UnusedGrant) -> None:
        async with self._database.begin() as session:
            # Waits for the grant's transaction if that has not ended yet.
            call = await repository.lock_call(session, grant.call_id)
            if call is not None and _is_attempt_open(call, grant.attempt) and call.pending_since == grant.pending_since:
                problem, requeue = error_as_json(DatabaseUnavailable()), grant.requeue
                change = self._settlement.change_to_scheduled(problem, requeue.dial_row, due_in=requeue.retry_in, data={})
                await self._settlement.apply_change(session, call, change)

    def _change_to_not_started(self) -> RecordChange:
        return self._settlement.change_to_not_started(error_as_json(DatabaseUnavailable()), data={})


def _is_attempt_open(call: Call, attempt: int) -> bool:
    """Returns whether the call has no outcome in this attempt: it is pending, or a worker has marked it as `unknown`."""
    return call.attempt == attempt and call.execution in ("pending", "unknown")
