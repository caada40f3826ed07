"""Cancels all waiting calls of a queue. Does not import FastAPI."""

from dataclasses import dataclass
from typing import Final

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.calls.creation.scheduled.store import end_waiting_calls_by_id, end_waiting_calls_of_queue
from app.calls.settlement import Settlement
from app.queues.service import QueueService
from app.queues.store import list_waiting_calls

# Calls in one statement. A worker that is about to dial one of them does not wait for the statement: either the worker or the
# statement gets the call.
_BATCH_SIZE: Final = 500


@dataclass(frozen=True, slots=True)
class QueueCancellation:
    queues: QueueService
    settlement: Settlement

    async def cancel(self, actor: Actor, tenant_id: str, name: str) -> int:
        """Cancels all waiting calls of the queue, so that none of them will ring. Returns their number. Calls under way go on.

        Raises NoSuchResource if there is no such queue. After any other error, some calls may be canceled already. It is safe
        to call this method again.
        """
        queue = await self.queues.get(tenant_id, name)
        change, canceled = self.settlement.change_to_canceled(), 0
        while True:
            async with self.queues.database.transaction() as connection:
                ended = await end_waiting_calls_of_queue(connection, queue.id, change, limit=_BATCH_SIZE)
                # Another session is about to dial or end the calls that were left out. If it fails, they still wait.
                left_out = [] if ended else await list_waiting_calls(connection, queue.id, limit=_BATCH_SIZE)
                if left_out:
                    ended = await end_waiting_calls_by_id(connection, left_out, change)
                if ended and not canceled:
                    await record_audit_event(connection, actor, action="queue.cancel", tenant_id=tenant_id, subject=name)
            self.settlement.count_undialled_calls(change, len(ended))
            canceled += len(ended)
            if not (ended or left_out):
                return canceled
