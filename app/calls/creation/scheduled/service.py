"""Commits the first records (intents) of scheduled calls, and repeats commits that are in doubt.

A commit is in doubt if the connection to Postgres is lost before the answer. Then a worker may already be dialling the call, so
the intent is not withdrawn, as that of an immediate call is. The insert is repeated for a minute, until it is certain that the
call has a record. A record that is there already stays as it is.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from app.calls.creation.scheduled.store import MAX_SCHEDULED_ROWS_PER_STATEMENT, ScheduledCall, insert_scheduled
from app.clock import elapsed
from app.database.batcher import Batcher
from app.database.engine import Database
from app.database.retry_queue import RetryQueue
from app.errors import DatabaseUnavailable

# The maximum number of inserts to repeat. A further one replaces the oldest, for whose call the answer was `unknown`.
_MAX_QUEUED = 10_000
# If Postgres has failed over meanwhile and has lost a call that was dialled, a later insert could make the call ring again.
# After a fail-over no call is dialled until an operator has released the waiting ones (`callgate queues release`), which takes
# longer than this.
_INSERT_AGAIN_FOR_S = 60.0

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _IntentInDoubt:
    """An intent whose commit is in doubt, and the time of its first insert as a value of the clock `elapsed()`."""

    scheduled: ScheduledCall
    began: float


class ScheduledIntents:
    """Writes the intents (first records) of scheduled calls in batches."""

    def __init__(self, database: Database, *, insert_again_for_s: float = _INSERT_AGAIN_FOR_S) -> None:
        self._database = database
        self._insert_again_for_s = insert_again_for_s
        self._intents = Batcher(self._write, max_batch=MAX_SCHEDULED_ROWS_PER_STATEMENT)
        self._in_doubt = RetryQueue(
            self._insert_again, name="scheduled_intents", max_batch=MAX_SCHEDULED_ROWS_PER_STATEMENT, max_items=_MAX_QUEUED
        )

    def __len__(self) -> int:
        """Returns the number of inserts that are still in doubt."""
        return len(self._in_doubt)

    async def commit(self, scheduled: ScheduledCall) -> bool:
        """Commits the intent. Returns False if a call with its idempotency key exists.

        If the commit is in doubt, makes the call `unknown` in memory, returns True, and repeats the insert in the background.
        """
        call, in_doubt = scheduled.call, _IntentInDoubt(scheduled, elapsed())
        try:
            written_at = await self._intents.submit(scheduled)
        except DatabaseUnavailable as error:
            if not error.commit_in_doubt:
                raise
            self._in_doubt.add(in_doubt)
            call.execution, written_at = "unknown", call.created_at
        except asyncio.CancelledError:
            # The server cancels requests at the end of its drain timeout. Their answer says that the outcome is unknown.
            self._in_doubt.add(in_doubt)
            raise
        if written_at is None:
            return False
        call.pending_since = call.updated_at = written_at
        return True

    async def close(self) -> None:
        """Tries once more to repeat the inserts that are still queued."""
        await self._in_doubt.close()

    async def _write(self, calls: Sequence[ScheduledCall]) -> Sequence[datetime | None]:
        inserted = await insert_scheduled(self._database, calls)
        return [inserted.get(scheduled.call.id) for scheduled in calls]

    async def _insert_again(self, in_doubt: _IntentInDoubt) -> None:
        if elapsed() - in_doubt.began < self._insert_again_for_s:
            await self._intents.submit(in_doubt.scheduled)
        else:
            logger.error("scheduled_call_given_up", call_id=str(in_doubt.scheduled.call.id))
