"""Lists and repeats the deliveries of a tenant. Not aware of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.calls import ids
from app.calls.service import CallService
from app.database.engine import Database
from app.deliveries import repository
from app.deliveries.models import Delivery
from app.errors import DeliveryNotFound
from app.tenants.caller import Caller

_REPLAY_BATCH_SIZE = 500
_MAX_REPLAY_BATCHES = 20  # of one request


@dataclass(frozen=True, slots=True)
class Replay:
    count: int
    continue_since: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryService:
    database: Database
    calls: CallService

    async def list(self, caller: Caller, id_or_sid: str) -> Sequence[Delivery]:
        call = await self.calls.get(caller, id_or_sid)
        async with self.database.begin() as session:
            return await repository.list_deliveries(session, call.id)

    async def retry(self, caller: Caller, id_or_sid: str, delivery_id: UUID) -> Delivery:
        """Makes the delivery due now, whatever its state. A settled one is retried for three days again."""
        call = await self.calls.get(caller, id_or_sid)
        async with self.database.begin() as session:
            delivery = await repository.retry(session, delivery_id, call_id=call.id, tenant_id=caller.tenant_id)
        if delivery is None:
            raise DeliveryNotFound
        return delivery

    async def replay(self, caller: Caller, *, since: datetime, failed_only: bool) -> Replay:
        """Makes settled deliveries due again, the oldest first, at most 10,000, with one transaction per batch."""
        # Clamp to the times that an id can have: others may not exist in UTC.
        since = ids.created_at(ids.first_id_at(since))
        count, after = 0, UUID(int=0)
        for _ in range(_MAX_REPLAY_BATCHES):
            async with self.database.begin() as session:
                replayed = await repository.replay(
                    session,
                    tenant_id=caller.tenant_id,
                    since=since,
                    after=after,
                    failed_only=failed_only,
                    limit=_REPLAY_BATCH_SIZE,
                )
            count += len(replayed)
            if len(replayed) < _REPLAY_BATCH_SIZE:
                return Replay(count, None)
            after = replayed[-1]
        return Replay(count, ids.created_at(after))
