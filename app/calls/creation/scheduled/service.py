"""Commits the first records (intents) of scheduled calls, and repeats commits that are in doubt.

A commit is in doubt if the connection to Postgres is lost before the answer. The intent of an immediate call is then withdrawn.
The intent of a scheduled call is not withdrawn, because a worker may already be dialling the call. Instead, it is inserted
again for up to a minute, until it is certain that the call has a record. A record that exists is not changed. If Postgres has
failed over, a call that was due may have been dialled and its record lost. So the call is then inserted as `pending`, and is
not dialled.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import structlog

from app.calls.creation.lost.store import insert_lost_intent
from app.calls.creation.scheduled.store import MAX_SCHEDULED_ROWS_PER_STATEMENT, ScheduledCall, insert_scheduled_calls
from app.clock import monotonic_seconds
from app.database.batcher import Batcher
from app.database.engine import Database
from app.database.retry_queue import RetryQueue
from app.errors import DatabaseUnavailable

# The maximum number of inserts to repeat. A further one replaces the oldest, for whose call the answer was `unknown`.
_MAX_QUEUED_INSERTS = 10_000
# The identity of the server shows a failover, but not that its data folder was restored. A restore takes longer than this.
_MAX_INSERT_RETRY_TIME_S = 60.0

logger = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _CallInsert:
    """The first record (intent) of a scheduled call, which is to be inserted, perhaps more than once.

    `began` is when the first insert was requested, as a value of the clock `monotonic_seconds()`. `server` is the Postgres
    server (CURRENT_SERVER_SQL) to which the first insert was sent, and None if none was sent yet. `is_in_doubt` is True if an
    earlier insert may have been committed.
    """

    scheduled: ScheduledCall
    began: float
    server: str | None = None
    is_in_doubt: bool = False


class _InsertResult(NamedTuple):
    """The result of an insert on a Postgres `server`. `written_at` is the time of the write; None if nothing was inserted."""

    written_at: datetime | None
    server: str


class ScheduledIntentWriter:
    """Writes the intents (first records) of scheduled calls in batches."""

    def __init__(self, database: Database, *, insert_again_for_s: float = _MAX_INSERT_RETRY_TIME_S) -> None:
        self._database = database
        self._insert_again_for_s = insert_again_for_s
        self._intents = Batcher(self._write_intents, max_batch=MAX_SCHEDULED_ROWS_PER_STATEMENT)
        self._in_doubt = RetryQueue(
            self._insert_intent_again,
            name="scheduled_intents",
            max_batch=MAX_SCHEDULED_ROWS_PER_STATEMENT,
            max_items=_MAX_QUEUED_INSERTS,
        )
        # The server of the last insert, and probably of the next one. If it is not, a repeated insert counts as lost: no call
        # rings twice.
        self._server: str | None = None

    def __len__(self) -> int:
        """Returns the number of inserts that will be repeated, because it is unknown whether they were committed."""
        return len(self._in_doubt)

    async def commit_intent(self, scheduled: ScheduledCall) -> bool:
        """Commits the intent. Returns False if a call with its idempotency key exists.

        If the connection is lost during the commit, makes the call `unknown` in memory, returns True, and repeats the insert in
        the background.
        """
        call, intent = scheduled.call, _CallInsert(scheduled, monotonic_seconds())
        try:
            written_at = (await self._intents.submit(intent)).written_at
        except DatabaseUnavailable as error:
            if not error.commit_in_doubt:
                raise
            self._queue_repeated_insert(intent)
            call.execution, written_at = "unknown", call.created_at
        except asyncio.CancelledError:
            # The server cancels requests at the end of its drain timeout. Their answer says that the outcome is unknown.
            self._queue_repeated_insert(intent)
            raise
        if written_at is None:
            return False
        call.pending_since = call.updated_at = written_at
        return True

    async def close(self) -> None:
        """Repeats the queued inserts at once. Stops if Postgres fails; what was not inserted stays queued."""
        await self._in_doubt.close()

    async def _write_intents(self, intents: Sequence[_CallInsert]) -> Sequence[_InsertResult]:
        if self._server is None:
            # No insert of this process has shown the server yet.
            self._server = (await insert_scheduled_calls(self._database, ())).server
        # An intent without a server was not sent, so it can be inserted on any server.
        only_on = {each.scheduled.call.id: each.server for each in intents if each.is_in_doubt}
        for each in intents:
            each.server = each.server or self._server
        server, written_at = await insert_scheduled_calls(
            self._database, [each.scheduled for each in intents], only_on_server=only_on
        )
        self._server = server
        return [_InsertResult(written_at.get(each.scheduled.call.id), server) for each in intents]

    def _queue_repeated_insert(self, intent: _CallInsert) -> None:
        intent.is_in_doubt = True
        self._in_doubt.add(intent)

    async def _insert_intent_again(self, intent: _CallInsert) -> None:
        call = intent.scheduled.call
        if monotonic_seconds() - intent.began >= self._insert_again_for_s:
            logger.error("scheduled_call_given_up", call_id=str(call.id))
            return
        written = await self._intents.submit(intent)
        if written.written_at is not None or written.server == intent.server:
            return
        # There is a record, or a worker may have dialled the call before a failover that has lost its record. Then the call is
        # not dialled any more. Like a pending call whose process died, it becomes unknown, and is searched for at Twilio. No
        # worker has dialled it before `not_before`, a time by Postgres's clock. `created_at` is a time by this machine's clock.
        since, dial = intent.scheduled.schedule.not_before, intent.scheduled.scheduled_dial_row()
        if await insert_lost_intent(self._database, call, pending_since=since, dial_row=dial):
            logger.warning("scheduled_call_unconfirmed", call_id=str(call.id))
