"""End the calls whose end was asked for before anybody knew whether they had started, or whose answer was lost."""

from dataclasses import dataclass
from datetime import timedelta

from app.calls.control import repository as control_repository
from app.calls.control.service import CallControl
from app.calls.models import Call
from app.database import Database
from app.jobs.isolation import run_isolated

BATCH = 20


@dataclass(frozen=True, slots=True)
class Controller:
    database: Database
    control: CallControl

    async def step(self) -> bool:
        """Carry out a batch of wishes whose calls are settled; False when there was none."""
        # Longer than one can take, so that no other worker does it at the same time.
        lease = timedelta(seconds=2 * self.control.deadline_s + 30)
        async with self.database.begin() as session:
            due = await control_repository.claim_pending_updates(session, lease=lease, limit=BATCH)
        wishes = {call.id: wish for wish, call in due}

        async def carry_out(call: Call) -> None:
            await self.control.carry_out(wishes[call.id], call)

        await run_isolated([call for _, call in due], carry_out, event="control_broke")
        return bool(due)
