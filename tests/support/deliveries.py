"""Claims deliveries as a worker does."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from app.database.engine import Database
from app.database.partitions import MonthRange
from app.deliveries import store
from app.deliveries.store import ClaimedDelivery


async def claim_deliveries(
    database: Database, *, months: MonthRange | None = None, finished_delivery_ids: Collection[UUID] = ()
) -> list[ClaimedDelivery]:
    return await store.claim_deliveries(
        database,
        months=months,
        lease=timedelta(minutes=1),
        limit=9,
        per_tenant=9,
        busy_tenant_ids=[],
        finished_delivery_ids=finished_delivery_ids,
    )
