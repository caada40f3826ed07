"""Sends updates to Twilio that were requested before the call's outcome was known, or whose answer was lost."""

from dataclasses import dataclass
from datetime import timedelta

from app.calls.control import repository as control_repository
from app.calls.control.service import CallControl
from app.calls.models import Call
from app.database.engine import Database
from app.jobs.isolation import run_isolated

BATCH_SIZE = 20


@dataclass(frozen=True, slots=True)
class PendingUpdateSender:
    """Sends stored updates, which end calls, to Twilio. An update is sent once the outcome of its call is known."""

    database: Database
    control: CallControl

    async def step(self) -> bool:
        """Sends a batch of pending updates of calls whose outcome is known. Returns false if there were none."""
        # Longer than an update can take, so that no other worker applies it at the same time.
        lease = timedelta(seconds=2 * self.control.deadline_s + 30)
        async with self.database.begin() as session:
            due = await control_repository.claim_pending_updates(session, lease=lease, limit=BATCH_SIZE)
        updates = {call.id: update for update, call in due}

        async def send_update(call: Call) -> None:
            await self.control.send_pending_update(updates[call.id], call)

        await run_isolated([call for _, call in due], send_update, event="control_crashed")
        return bool(due)
