"""Measure what concerns the whole database, for Prometheus: the oldest of what waits, and how much of it.

Every worker measures the same, so a query over them takes `max`; API processes do not, or each scrape would cost the database
something. What is stale says so: see `callgate_gauges_measured_timestamp_seconds`.
"""

from datetime import datetime

from prometheus_client import Gauge

from app.calls import repository
from app.database import Database
from app.observability import Metrics


class Gauges:
    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database

        def gauge(name: str, help_: str) -> Gauge:
            return Gauge(f"callgate_{name}", help_, registry=metrics.registry)

        self._pending = gauge("oldest_pending_seconds", "Age of the oldest creation that is pending; 0: there is none.")
        self._unknown = gauge("oldest_unknown_seconds", "Age of the oldest creation of unknown outcome; 0: there is none.")
        self._lag = gauge("refresh_lag_seconds", "For how long the most overdue refresh of a call has been due.")
        self._active = gauge(
            "active_calls", "Started calls that are refreshed because they have not ended; 10,000 are counted."
        )
        self._unpriced = gauge("unpriced_calls", "Ended calls whose price is waited for; 10,000 are counted.")
        self._measured = gauge("gauges_measured_timestamp_seconds", "When this worker measured these for the last time.")

    async def step(self) -> bool:
        """Always False: there is nothing more to do at once. A database that cannot be asked leaves the old values."""
        async with self._database.begin() as session:
            now = await repository.now(session)
            waiting = await repository.oldest_unsettled(session)
            followed = await repository.followed(session)
        self._pending.set(_age(now, waiting.get("pending")))
        self._unknown.set(_age(now, waiting.get("unknown")))
        self._lag.set(_age(now, followed.most_overdue))
        self._active.set(followed.active)
        self._unpriced.set(followed.unpriced)
        self._measured.set_to_current_time()
        return False


def _age(now: datetime, since: datetime | None) -> float:
    return max((now - since).total_seconds(), 0.0) if since else 0.0
