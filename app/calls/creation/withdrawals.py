"""Settle intents whose commit is in doubt and which are not dialled, so that they stay `not_started` whatever Postgres does."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.calls import repository
from app.calls.creation.store import BATCH, NewCall, withdraw_intents
from app.calls.settlement import RecordChange, Settlement
from app.calls.stored_problem import stored_form
from app.database import Database
from app.database.batcher import Batcher, Busy
from app.database.retry_queue import RetryQueue
from app.errors import DatabaseUnavailable

# A record that is given up here is left to the worker, which marks it `unknown`.
_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class _Reopening:
    """Another attempt for a record. `event_id` is that of the event which was to be committed with it."""

    call_id: UUID
    attempt: int
    event_id: UUID


class Withdrawals:
    def __init__(self, database: Database, settlement: Settlement) -> None:
        self._database = database
        self._settlement = settlement
        self._intents: Batcher[NewCall, None] = Batcher(self._write_intents, max_batch=BATCH)
        self._queue = RetryQueue(self._withdraw, name="withdrawals", max_batch=BATCH, limit=_LIMIT)

    def intent(self, call: NewCall) -> None:
        """A new call."""
        self._queue.add(call)

    def reopening(self, call_id: UUID, attempt: int, *, event_id: UUID) -> None:
        """The record's attempt of that number, if `event_id` was committed with it: otherwise it is another request's."""
        self._queue.add(_Reopening(call_id, attempt, event_id))

    async def close(self) -> None:
        """Try once more what is still to be written."""
        await self._queue.close()

    async def _withdraw(self, intent: NewCall | _Reopening) -> None:
        if isinstance(intent, _Reopening):
            await self._withdraw_reopening(intent)
        else:
            await self._intents.submit(intent)

    async def _write_intents(self, calls: Sequence[NewCall]) -> Sequence[Busy | None]:
        return await withdraw_intents(self._database, calls, self._change())

    async def _withdraw_reopening(self, reopening: _Reopening) -> None:
        async with self._database.begin() as session:
            call = await repository.lock_call(session, reopening.call_id)
            if call is None:
                return
            open_ = call.execution == "pending" and call.attempt == reopening.attempt
            if open_ and await repository.has_event(session, call.id, reopening.event_id):
                await self._settlement.apply(session, call, self._change())
            elif call.execution == "not_started" and call.attempt == reopening.attempt - 1:
                # The number is used up, so that a reopening that comes late finds another one than it was made for.
                call.attempt = reopening.attempt

    def _change(self) -> RecordChange:
        return self._settlement.change_to_not_started(stored_form(DatabaseUnavailable()), data={})
