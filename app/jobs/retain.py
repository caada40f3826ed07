"""Deletes data older than the settings `retention_days` and `audit_retention_days`, without slowing down requests.

Calls are deleted in small batches. After each batch the job pauses for a multiple of the batch's duration, so it deletes fewer
calls while the database is busy. Events, deliveries and audit events are deleted by dropping monthly partitions, which is
cheap. The setting `audit_retention_days` is for audit events. An idempotency key is kept as
long as its call.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from app.calls.repository import transaction_start_time
from app.database.engine import Database, Session
from app.database.partitions import Partition, drop_partition, expired_partitions, try_lock_partition
from app.jobs import repository
from app.jobs.candidates import max_time_between_matching_requests
from app.jobs.partitions import CALL_TABLES
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

BATCH_SIZE: Final = 50
# The pause after a batch, as a multiple of the batch's duration.
_PAUSE_TO_BATCH_TIME_RATIO: Final = 19
_MAX_PAUSE_S: Final = 5.0
_LOWEST_ID: Final = UUID(int=0)


@dataclass(slots=True)
class RetentionEnforcer:
    """Deletes calls, or rows of partitioned tables, that are older than `retention_period`."""

    database: Database
    metrics: Metrics
    retention_period: timedelta
    # The partitioned tables whose rows are kept for `retention_period`.
    tables: Sequence[str] = CALL_TABLES
    max_start_delay: timedelta = timedelta(0)
    """The longest time from the request for a call until Twilio starts it."""
    # The last id of the previous batch. Starting there avoids scanning dead rows that are not vacuumed yet.
    _last_id: UUID = _LOWEST_ID

    async def expire_calls(self) -> bool:
        """Deletes the next batch of old calls, in the order of their ids. Returns false if there are no more old calls.

        After it has returned false, the next step starts again with the lowest id.
        """
        began = time.monotonic()
        async with self.database.begin() as session:
            expired = await repository.lock_calls_to_delete(
                session,
                after=self._last_id,
                before=await self._deletion_cutoff(session),
                max_time_between_requests=max_time_between_matching_requests(self.max_start_delay),
                limit=BATCH_SIZE,
            )
            self._count_deleted("call", await repository.delete_calls(session, expired))
        self._last_id = expired[-1] if expired else _LOWEST_ID
        await self._pause_after_batch(began)
        return bool(expired)

    async def expire_default_partitions(self) -> bool:
        """Deletes a batch of old rows from the default partitions. Returns false if no row was deleted.

        The default partition of a table has the rows that were written while the partition of their month was missing.
        """
        began, gone = time.monotonic(), 0
        for table in self.tables:
            async with self.database.begin() as session:
                gone += await repository.delete_from_default_partition(
                    session, table, before=await self._deletion_cutoff(session), limit=BATCH_SIZE
                )
        self._count_deleted("stray", gone)
        await self._pause_after_batch(began)
        return bool(gone)

    async def drop_partitions(self) -> bool:
        """Drops partitions whose whole month is too old.

        A partition stays until a later step if another session locks it, or if a delivery of its month is pending. Returns
        false, so that the job pauses before the next step.
        """
        for table in self.tables:
            async with self.database.begin() as session:
                expired = await expired_partitions(session, table, before=await self._deletion_cutoff(session))
            for partition in expired:
                await self._drop_partition_if_unused(partition)
        return False

    async def _drop_partition_if_unused(self, partition: Partition) -> None:
        async with self.database.begin() as session:
            # Check under the lock: a replay may just have made a delivery pending again.
            dropped = await try_lock_partition(session, partition) and await repository.has_no_pending_deliveries(
                session, partition
            )
            if dropped:
                await drop_partition(session, partition)
        if dropped:
            self._count_deleted("partition", 1)
        logger.info("partition_dropped" if dropped else "partition_in_use", partition=partition.name)

    def _count_deleted(self, what: str, number: int) -> None:
        self.metrics.calls.expired.labels(what).inc(number)

    async def _pause_after_batch(self, began: float) -> None:
        await asyncio.sleep(min(_PAUSE_TO_BATCH_TIME_RATIO * (time.monotonic() - began), _MAX_PAUSE_S))

    async def _deletion_cutoff(self, session: Session) -> datetime:
        return await transaction_start_time(session) - self.retention_period
