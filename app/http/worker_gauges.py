"""Metrics of the running workers. API processes measure them, because a stopped worker cannot report itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from prometheus_client import Gauge

from app.database.engine import Database
from app.database.heartbeats import summarize_workers
from app.errors import DatabaseUnavailable
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

MEASURE_INTERVAL_S = 15.0


class WorkerGauges:
    """Prometheus gauges of the running workers. A background task sets them, so a scrape never waits for the database."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._running = Gauge(
            "callgate_workers", "Workers that have reported to the database within the last minute.", registry=metrics.registry
        )
        self._last_seen = Gauge(
            "callgate_worker_heartbeat_timestamp_seconds",
            "When a worker reported to the database for the last time; 0: none has lately.",
            registry=metrics.registry,
        )

    @contextlib.asynccontextmanager
    async def measuring_in_background(self) -> AsyncIterator[None]:
        """Sets the gauges every MEASURE_INTERVAL_S seconds in a background task, until the context ends."""
        measuring = asyncio.create_task(self._measure_repeatedly())
        try:
            yield
        finally:
            measuring.cancel()
            await asyncio.wait([measuring])

    async def measure(self) -> None:
        """Reads the workers' heartbeats from the database and sets the gauges.

        Raises DatabaseUnavailable if the database cannot be read.
        """
        async with self._database.begin() as session:
            found = await summarize_workers(session)
        self._running.set(found.running)
        self._last_seen.set(found.last_seen_at.timestamp() if found.last_seen_at else 0)

    async def _measure_repeatedly(self) -> None:
        while True:
            try:
                await self.measure()
            except DatabaseUnavailable:
                pass  # app.database has logged it.
            except Exception:
                logger.exception("worker_gauges_failed")
            await asyncio.sleep(MEASURE_INTERVAL_S)
