"""Measures the backlogs in the database for Prometheus: the age of the oldest item, and the number of items.

Every worker measures the same values, so a Prometheus query over several workers takes their `max`. Only
`callgate_grant_counts_unsaved` is a value of the worker itself. API processes do not run this job, which saves load on the
database.
`callgate_gauges_measured_timestamp_seconds` shows when the values were measured.
"""

from datetime import datetime

from prometheus_client import Gauge

from app.calls.control.repository import earliest_pending_update_due_at
from app.calls.repository import transaction_start_time
from app.calls.statistics import count_calls_to_refresh, oldest_open_call_times
from app.database.engine import Database
from app.deliveries.repository import read_delivery_backlog
from app.observability import Metrics
from app.scheduling.grant_counters import KnownGrantCounts
from app.scheduling.grant_halts import read_grant_halt_state
from app.scheduling.schedule import PRIORITIES
from app.scheduling.statistics import read_scheduling_backlog


class BacklogGauges:
    def __init__(self, database: Database, metrics: Metrics, counters: KnownGrantCounts) -> None:
        self._database = database
        self._counters = counters

        def gauge(name: str, help_: str) -> Gauge:
            return Gauge(f"callgate_{name}", help_, registry=metrics.registry)

        self._oldest_pending = gauge("oldest_pending_seconds", "Age of the oldest creation that is pending; 0: there is none.")
        self._oldest_unknown = gauge(
            "oldest_unknown_seconds", "Age of the oldest creation of unknown outcome that is searched for; 0: there is none."
        )
        self._refresh_lag = gauge("refresh_lag_seconds", "Seconds since the most overdue refresh of a call became due.")
        self._active_calls = gauge(
            "active_calls", "Started calls that are refreshed because they have not ended; 10,000 are counted."
        )
        self._unpriced_calls = gauge("unpriced_calls", "Ended calls whose price is waited for; 10,000 are counted.")
        self._pending_deliveries = gauge(
            "pending_deliveries", "Deliveries to tenants that are not made yet; 10,000 are counted."
        )
        self._oldest_delivery = gauge("oldest_delivery_seconds", "Age of the oldest pending delivery; 0: there is none.")
        self._delivery_lag = gauge("delivery_lag_seconds", "Seconds since the most overdue attempt of a delivery became due.")
        self._update_lag = gauge(
            "update_lag_seconds", "Seconds since the most overdue remembered request to end a call became due."
        )
        self._waiting_calls = Gauge(
            "callgate_scheduled_calls",
            "Scheduled calls that wait, by priority; 10,000 of each are counted.",
            ["priority"],
            registry=metrics.registry,
        )
        self._oldest_due = Gauge(
            "callgate_oldest_due_seconds",
            "For how long the scheduled call has been due that waits the longest, by priority. Without paused queues and "
            "suspended tenants; 0: none is due.",
            ["priority"],
            registry=metrics.registry,
        )
        self._grants_halted = gauge(
            "grants_halted", "1: no scheduled call is granted: earlier grants may be lost, or an operator has halted them."
        )
        self._unsaved_counts = gauge(
            "grant_counts_unsaved", "Accounts whose latest count of grants is not in CALLGATE_GRANT_COUNTER_DIR yet."
        )
        self._dial_slots = gauge("dial_slots", "Slots of scheduled calls. One whose call has ended is freed within a minute.")
        self._measured_at = gauge("gauges_measured_timestamp_seconds", "When this worker last measured its gauges.")

    async def step(self) -> bool:
        """Measures all backlogs and sets the gauges. Returns false, so that the job pauses. Raises DatabaseUnavailable."""
        self._unsaved_counts.set(self._counters.unsaved_count)
        async with self._database.begin() as session:
            moment = await transaction_start_time(session)
            waiting = await oldest_open_call_times(session)
            calls = await count_calls_to_refresh(session)
            deliveries = await read_delivery_backlog(session)
            update_due_at = await earliest_pending_update_due_at(session)
        state = await read_grant_halt_state(self._database)
        scheduled = await read_scheduling_backlog(self._database, priority_count=len(PRIORITIES))
        for place, priority in enumerate(PRIORITIES):
            self._waiting_calls.labels(priority).set(scheduled.waiting_by_priority[place])
            self._oldest_due.labels(priority).set(scheduled.oldest_due_s.get(place, 0))
        self._grants_halted.set(state is not None and not state.may_grant)
        self._dial_slots.set(scheduled.slots_in_use)
        self._oldest_pending.set(_age_s(moment, waiting.get("pending")))
        self._oldest_unknown.set(_age_s(moment, waiting.get("unknown")))
        self._refresh_lag.set(_age_s(moment, calls.most_overdue))
        self._active_calls.set(calls.active)
        self._unpriced_calls.set(calls.unpriced)
        self._pending_deliveries.set(deliveries.pending)
        self._oldest_delivery.set(_age_s(moment, deliveries.oldest_pending_since))
        self._delivery_lag.set(_age_s(moment, deliveries.earliest_due_at))
        self._update_lag.set(_age_s(moment, update_due_at))
        self._measured_at.set_to_current_time()
        return False


def _age_s(now: datetime, since: datetime | None) -> float:
    return max((now - since).total_seconds(), 0.0) if since else 0.0
