"""Sends Twilio the stored requests to end a call.

`CallControl`, which handles requests to end a call, stores a request in two cases: it is unknown whether Twilio has started the
call, or Twilio gave no reliable answer to the request.
"""

from dataclasses import dataclass, field
from datetime import timedelta

from app.calls.control import repository as control_repository
from app.calls.control.service import CallControl
from app.calls.models import Call
from app.database.engine import Database
from app.jobs.account_tasks import AccountTaskGroup

BATCH_SIZE = 20


@dataclass(frozen=True, slots=True)
class PendingUpdateSender:
    """Sends Twilio each stored request to end a call, once it is known that Twilio has started the call."""

    database: Database
    control: CallControl
    tasks: AccountTaskGroup = field(default_factory=AccountTaskGroup)

    async def step(self) -> bool:
        """Starts to send a batch of due requests to Twilio.

        Returns false if no request was due, or if too many tasks of earlier steps still run.
        """
        if self.tasks.is_full:
            return False
        # Longer than an update can take, so that no other worker applies it at the same time.
        lease = timedelta(seconds=2 * self.control.deadline_s + 30)
        busy_accounts = self.tasks.busy_accounts()
        async with self.database.begin() as session:
            due = await control_repository.claim_pending_updates(
                session, lease=lease, limit=BATCH_SIZE, busy_accounts=busy_accounts
            )
        updates = {call.id: update for update, call in due}

        async def send_update(call: Call) -> None:
            await self.control.send_pending_update(updates[call.id], call)

        self.tasks.start_for_each_call([call for _, call in due], send_update, event="control_crashed")
        return bool(due)
