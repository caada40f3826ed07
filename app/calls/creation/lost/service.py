"""Writes calls, and attempts to place them, again if Postgres has lost them, for example in a failover to a lagging standby.

The process that dials a call keeps call and attempt in memory until the outcome is committed. An attempt is identified by its
number and `pending_since`, its start: after a loss, another process may begin an attempt with the same number.
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
from app.calls.stored_problem import not_started_reason
from app.database.engine import Database, Session, run_after_commit
from app.errors import DatabaseUnavailable
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)


def is_same_attempt(record: Call, call: Call | NewCall) -> bool:
    """Returns whether the record in Postgres shows the same attempt, by number and start, as `call`, the copy in memory."""
    return (record.attempt, record.pending_since) == (call.attempt, call.pending_since)


def is_attempt_lost(record: Call, call: Call | NewCall, outcome: Outcome) -> bool:
    """Returns whether Postgres has lost an attempt to dial, for example in a failover, so that it must be written again.

    `call` is this process's copy of the call in that attempt. `record` is the row in Postgres. An attempt is earlier if its
    `pending_since` is. The result depends on the record and on the outcome of the attempt:

    - The record is `started`: False.
    - The attempt has started a call, or may have: True if the record shows an earlier attempt or is `scheduled`.
    - The attempt has started no call: True only if the record is `not_started` in an earlier attempt with a lower number, and
      was neither canceled nor expired. A `scheduled` record is left to the command `callgate queues release`.
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
    """Writes again the records of calls and attempts that Postgres has lost, and counts and logs each loss.

    In the methods, `dial_row` is a scheduled call's row for the table `scheduled_dial` (`RequeueValues.dial_row`), or None.
    """

    database: Database
    metrics: Metrics

    async def restore_attempt(
        self, session: Session, record: Call, call: Call | NewCall, dial_row: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Restores, in a call's record, an attempt to dial that Postgres has lost. The call is then pending in that attempt.

        `call` is this process's copy of the call in that attempt; `record` is the locked row, which shows an older state. If
        the row shows that the call waits to be dialled, the wait ends.

        Returns the result `not_started` that the record showed, because it is wrong if the attempt has started the call.
        Returns None if the record showed no such result, or if the result was Twilio's response to an earlier attempt.
        """
        is_refutable = record.execution == "not_started" and record.settled_by != "response"
        was = not_started_reason(record.settled_by, record.problem) if is_refutable else None
        await restore_lost_attempt(session, record, call, dial_row=dial_row)
        data = {"attempt": call.attempt} | ({"was": was} if was else {})
        await repository.add_event(session, call.id, "call.pending", data)
        run_after_commit(session, partial(self._count_and_log_loss, call, call.attempt))
        return was

    async def insert_record(self, call: Call | NewCall, dial_row: Mapping[str, Any] | None) -> None:
        """Inserts the record of `call` again, as pending in the first attempt. Leaves an existing record as it is."""
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
        """Counts in the metrics, and logs, that Postgres has lost a record or an attempt.

        The caller has written it again, or does not know whether its commit succeeded.
        """
        self.metrics.calls.records_lost.inc()
        logger.error("record_lost", call_id=str(call.id), attempt=attempt)
