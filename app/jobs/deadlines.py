"""Cancels dialled calls that are still in Twilio's queue at their `ring_by`, the latest time at which they may begin to ring.

Also frees the dial slots of ended calls (a slot stands for one concurrent call), and deletes idle rows of `dial_turn`, the
table of the order in which API keys and workloads take turns.
"""

from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from app.calls.control.service import CallControl
from app.calls.creation.deadlines import store
from app.calls.models import Call
from app.database.engine import Database
from app.jobs.account_tasks import AccountTaskGroup
from app.jobs.isolation import suppress_lock_timeout
from app.scheduling.dial_slots import lock_pace_and_free_slots
from app.twilio.errors import TwilioError

logger = structlog.stdlib.get_logger(__name__)

BATCH_SIZE = 20
# If no worker took a grant (the right to dial one call) for a call of an API key or workload for this long, it counts as new:
# those that already have waiting calls are served before it.
_DIAL_TURN_EXPIRES_AFTER = timedelta(hours=1)
_TURN_BATCH_SIZE = 500
# The time after which a call is checked again if its outcome is open, or if Twilio could not be asked.
_RETRY_DELAY = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class RingDeadlineEnforcer:
    """Cancels calls that Twilio still queues at their `ring_by`, the latest time at which a scheduled call may begin to ring.

    Also frees the dial slots of calls that have ended. A slot stands for one concurrent call of an account.
    """

    database: Database
    control: CallControl
    tasks: AccountTaskGroup = field(default_factory=AccountTaskGroup)

    async def step(self) -> bool:
        """Starts to check a batch of calls whose `ring_by` has passed, and to cancel those that Twilio still queues.

        Returns false if no such call was found, or if too many tasks of earlier steps still run.
        """
        if self.tasks.is_full:
            return False
        lease = timedelta(seconds=2 * self.control.deadline_s) + _RETRY_DELAY
        busy_accounts = self.tasks.busy_accounts()
        async with self.database.begin() as session:
            calls = await store.claim_calls_past_ring_by(session, lease=lease, limit=BATCH_SIZE, busy_accounts=busy_accounts)
        self.tasks.start_for_each_call(calls, self._enforce_deadline, event="deadline_crashed")
        return bool(calls)

    async def _enforce_deadline(self, call: Call) -> None:
        if call.execution != "started":
            # Nothing can be canceled before its sid is known. If it was not started, its slot is freed soon.
            await store.postpone_ring_by_check(self.database, call.id, _RETRY_DELAY)
            return
        if call.status in (None, "queued"):
            try:
                await self.control.cancel_if_queued(call)
            except TwilioError as error:
                logger.warning("deadline_not_kept_yet", call_id=str(call.id), reason=error.reason)
                await store.postpone_ring_by_check(self.database, call.id, _RETRY_DELAY)
                return
        await store.clear_ring_by(self.database, call.id)

    async def free_dial_slots(self) -> bool:
        """Frees the dial slots of ended calls in all accounts. A slot counts one call against the limit on concurrent calls.

        Leaves out an account if another session has locked the limits of the account or of one of its queues (rows of the table
        `pace`). Returns false, so that the job pauses before the next time.
        """
        for account_id in await store.accounts_with_taken_dial_slots(self.database):
            with suppress_lock_timeout():
                await lock_pace_and_free_slots(self.database, account_id)
        return False

    async def delete_idle_dial_turns(self) -> bool:
        """Deletes idle rows of `dial_turn`, the table of the order in which API keys and workloads take turns.

        A row is idle if no call of its API key or workload waits, and no worker has begun to dial one for an hour. A worker
        reads all rows of the account for each call that it dials, so there must be few. Returns false, so that the job pauses.
        """
        await store.delete_idle_dial_turn_rows(self.database, _DIAL_TURN_EXPIRES_AFTER, limit=_TURN_BATCH_SIZE)
        return False
