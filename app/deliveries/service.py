"""Lists the deliveries of a call, and sends deliveries again. Does not import FastAPI."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.calls import ids
from app.calls.repository import get_call
from app.calls.service import CallService
from app.database.engine import Database, Session, driver_connection
from app.deliveries import repository
from app.deliveries.models import Delivery
from app.deliveries.schemas import DeliveryRecord
from app.deliveries.stored_fields import webhook_id
from app.errors import CallNotFound, DatabaseUnavailable, DeliveryNotFound
from app.http.concurrency import ConcurrencyLimit
from app.tenants.caller import Caller

_REPLAY_BATCH_SIZE = 500
_MAX_REPLAY_BATCHES = 20  # of one request


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of a replay, which sends earlier deliveries again. `count` is the number of deliveries that are due again.

    `continue_since` is None if the replay was complete. Otherwise it is the `since` with which the next replay continues.
    """

    count: int
    continue_since: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryService:
    database: Database
    calls: CallService
    replay_limit: ConcurrencyLimit

    async def list(self, caller: Caller, id_or_sid: str) -> Sequence[DeliveryRecord]:
        call = await self.calls.get(caller, id_or_sid)
        async with self.database.begin() as session:
            return await _delivery_records(session, call.id, tenant_id=caller.tenant_id)

    async def retry(self, caller: Caller, id_or_sid: str, delivery_id: UUID, *, actor: Actor | None = None) -> DeliveryRecord:
        """Makes the delivery due now, whatever its state. Raises DeliveryNotFound if the call has no such delivery.

        If the delivery was delivered or given up, its attempts may fail for three more days before it is given up. With
        `actor`, the audit log records the retry and who requested it.
        """
        call = await self.calls.get(caller, id_or_sid)
        async with self.database.begin() as session:
            if not await repository.mark_delivery_due(session, delivery_id, call_id=call.id, tenant_id=caller.tenant_id):
                raise DeliveryNotFound
            if actor is not None:
                connection, subject = await driver_connection(session), str(delivery_id)
                await record_audit_event(
                    connection, actor, action="delivery.retry", tenant_id=caller.tenant_id, subject=subject
                )
            records = await _delivery_records(session, call.id, tenant_id=caller.tenant_id)
            return next(record for record in records if record.id == delivery_id)

    async def replay(self, caller: Caller, *, since: datetime, failed_only: bool, actor: Actor | None = None) -> ReplayResult:
        """Makes the tenant's given-up deliveries due again, the oldest first, if they were written at `since` or later.

        If `failed_only` is False, also makes delivered ones due again. One replay covers at most 10,000 deliveries and commits
        them in batches. If the database fails after the first batch, the result covers the committed batches only. With
        `actor`, the audit log records the replay, unless there was nothing to send again.
        """
        # Clamp to the times that an id can have: others may not exist in UTC.
        since = ids.creation_time_of_id(ids.lowest_call_id_at(since))
        count, after = 0, UUID(int=0)
        for _ in range(_MAX_REPLAY_BATCHES):
            try:
                slot = self.replay_limit.admit_request(caller.tenant_id, is_wait_unlimited=count > 0)
                async with slot, self.database.begin() as session:
                    replayed = await repository.mark_deliveries_due(
                        session,
                        tenant_id=caller.tenant_id,
                        since=since,
                        after=after,
                        failed_only=failed_only,
                        limit=_REPLAY_BATCH_SIZE,
                    )
                    if actor is not None and replayed and not count:
                        connection, subject = await driver_connection(session), since.isoformat()
                        await record_audit_event(
                            connection, actor, action="delivery.replay", tenant_id=caller.tenant_id, subject=subject
                        )
            except DatabaseUnavailable:
                if not count:
                    raise
                break
            count += len(replayed)
            if len(replayed) < _REPLAY_BATCH_SIZE:
                return ReplayResult(count, None)
            after = replayed[-1]
        return ReplayResult(count, ids.creation_time_of_id(after))


async def _delivery_records(session: Session, call_id: UUID, *, tenant_id: str) -> Sequence[DeliveryRecord]:
    deliveries = await repository.list_deliveries(session, call_id)
    # Read after the deliveries, which leave out the CallSid: an older record may not have it yet.
    call = await get_call(session, call_id, tenant_id=tenant_id)
    if call is None:
        raise CallNotFound
    records = []
    for delivery, reported in deliveries:
        fields = delivery.fields if delivery.fields is not None else reported.restore_left_out_fields(call) if reported else {}
        followed = {
            "webhook_id": delivery.webhook_id or webhook_id(call.id, delivery.event),
            "url": delivery.url or call.status_callback or "",
            "method": delivery.method or call.status_callback_method or "POST",
            "fields": fields,
        }
        own = {column.key: getattr(delivery, column.key) for column in Delivery.__mapper__.column_attrs}
        records.append(DeliveryRecord.model_validate(own | followed))
    return records
