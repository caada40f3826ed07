"""Writes again records and attempts that Postgres has lost, for example in a failover to a standby that lagged behind.

The process that dials a call keeps both in memory until the outcome is committed. An attempt is identified by its number and
`pending_since`, the time when it began: after a loss, another process may begin an attempt with the same number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from app.calls import repository
from app.calls.creation.dial import NotStartedOutcome, Outcome
from app.calls.creation.lost.store import insert_lost_intent
from app.calls.creation.repository import restore_lost_attempt
from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.stored_problem import not_started_result
from app.database.engine import Database, Session, run_after_commit
from app.errors import DatabaseUnavailable
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)


def is_same_attempt(record: Call, call: Call | NewCall) -> bool:
    """Returns whether the record is in the same attempt as `call`."""
    return (record.attempt, record.pending_since) == (call.attempt, call.pending_since)


def is_attempt_lost(record: Call, call: Call | NewCall, outcome: Outcome) -> bool:
    """Returns whether Postgres has lost the attempt of `call`, so that the attempt must be written again.

    If Twilio has or may have started the call, returns True if the record shows an earlier attempt, or if the record says that
    the call waits to be dialled. Returns False if the record is started.

    If no call was started, returns True only if the record says that an earlier attempt started no call. If the record is
    `pending` or `unknown`, another attempt may have started a call. A waiting record is left to `callgate queues release`. A
    call that was canceled, or has expired, stays ended.
    """
    if record.execution == "started":
        return False
    is_later = record.pending_since < call.pending_since
    if isinstance(outcome, NotStartedOutcome):
        is_ended = record.execution == "not_started" and record.settled_by not in ("canceled", "expired")
        return is_later and is_ended and record.attempt < call.attempt
    return is_later or record.execution == "scheduled"


@dataclass(frozen=True, slots=True)
class LostRecordWriter:
    """Writes lost records and attempts again, and counts and logs them.

    `dial_row` is a scheduled call's row for `scheduled_dial` (`RequeueValues.row`). It is None for any other call.
    """

    database: Database
    metrics: Metrics

    async def restore_attempt(
        self, session: Session, record: Call, call: Call | NewCall, dial_row: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Makes the record pending in the attempt of `call`. If the record waited, it does not wait any more.

        Returns the result `not_started` that the record showed, if a call that has started refutes it. Returns None if there
        was no result, or if it was Twilio's response to an earlier attempt.
        """
        is_refutable = record.execution == "not_started" and record.settled_by != "response"
        was = not_started_result(record.settled_by, record.problem) if is_refutable else None
        await restore_lost_attempt(session, record, call, dial_row=dial_row)
        data = {"attempt": call.attempt} | ({"was": was} if was else {})
        await repository.add_event(session, call.id, "call.pending", data)
        run_after_commit(session, partial(self._count_and_log_loss, call, call.attempt))
        return was

    async def insert_record(self, call: Call | NewCall, dial_row: Mapping[str, Any] | None) -> None:
        """Inserts the record of `call`, pending in its first attempt. Changes nothing if there is a record."""
        lost_attempt, call.attempt = call.attempt, 1
        insert = partial(insert_lost_intent, self.database, call, pending_since=call.pending_since, dial_row=dial_row)
        try:
            if not await insert():
                # A later request has taken the key, or the call that this one redials has got another redial.
                call.idempotency_key = call.redial_of = None
                await insert()
        except DatabaseUnavailable as error:
            if error.commit_in_doubt:
                self._count_and_log_loss(call, lost_attempt)
            raise
        self._count_and_log_loss(call, lost_attempt)

    def _count_and_log_loss(self, call: Call | NewCall, attempt: int) -> None:
        """Counts and logs that a record or an attempt was lost. Call this method when it has or may have been written again."""
        self.metrics.calls.records_lost.inc()
        logger.error("record_lost", call_id=str(call.id), attempt=attempt)
