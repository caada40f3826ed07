"""Delete what is older than the operator wants to keep, so slowly that nobody notices.

Calls go in small batches, and the job rests for most of the time: the longer a batch takes, the longer it rests, so a busy
database is asked less. Events and deliveries go by the month, which costs next to nothing.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from app.database import Database, Partition, drop_partition, expired_partitions, lock_briefly
from app.jobs import repository
from app.jobs.partitions import PARTITIONED
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

BATCH: Final = 50
# Times as long as a batch took; at the most so many seconds.
_REST: Final = 19
_LONGEST_REST_S: Final = 5.0
_FIRST: Final = UUID(int=0)


@dataclass(slots=True)
class Retainer:
    database: Database
    metrics: Metrics
    keep: timedelta
    # Where the last batch ended: what has been deleted before, and not yet vacuumed, is not walked through again and again.
    _after: UUID = _FIRST

    async def expire_calls(self) -> bool:
        """Delete a batch of calls; False when none was left, and the next round begins with the oldest."""
        began = time.monotonic()
        async with self.database.begin() as session:
            expired = await repository.lock_expired_calls(session, after=self._after, before=self._expiry(), limit=BATCH)
            self._count("call", await repository.delete_calls(session, expired))
        self._after = expired[-1] if expired else _FIRST
        await self._rest(began)
        return bool(expired)

    async def expire_strays(self) -> bool:
        """Delete a batch of what lies in the default partitions, where it went for want of its month's; False: nothing did."""
        began, gone = time.monotonic(), 0
        for table in PARTITIONED:
            async with self.database.begin() as session:
                gone += await repository.expire_strays(session, table, before=self._expiry(), limit=BATCH)
        self._count("stray", gone)
        await self._rest(began)
        return bool(gone)

    async def drop_partitions(self) -> bool:
        """Drop the months that are wholly too old. Always False: what was not to be had now is tried in the next round."""
        for table in PARTITIONED:
            async with self.database.begin() as session:
                expired = await expired_partitions(session, table, before=self._expiry())
            for partition in expired:
                await self._drop(partition)
        return False

    async def _drop(self, partition: Partition) -> None:
        async with self.database.begin() as session:
            # Looked at under the lock: a delivery may just have been asked for again.
            dropped = await lock_briefly(session, partition) and await repository.is_over(session, partition)
            if dropped:
                await drop_partition(session, partition)
        if dropped:
            self._count("partition", 1)
        logger.info("partition_dropped" if dropped else "partition_in_use", partition=partition.name)

    def _count(self, what: str, number: int) -> None:
        self.metrics.expired.labels(what).inc(number)

    async def _rest(self, began: float) -> None:
        await asyncio.sleep(min(_REST * (time.monotonic() - began), _LONGEST_REST_S))

    def _expiry(self) -> datetime:
        return datetime.now(UTC) - self.keep
