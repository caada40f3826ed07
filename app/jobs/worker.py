"""Runs a worker: repeats the jobs, each with its own pause between two runs, and looks for due work of some of them.

A worker begins when the process is ready, and ends when the process is to stop. If a job fails, the error is logged and the job
is repeated; the other jobs go on.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import structlog

from app.calls.store import DELIVERIES_CHANNEL
from app.database.engine import Database
from app.database.listener import Listener
from app.deliveries.addresses import AllowList
from app.deliveries.sender import DeliveryHttpClient
from app.http.readiness import Readiness
from app.jobs.deadlines import RingDeadlineEnforcer
from app.jobs.deliver import DeliverySender
from app.jobs.dial import ScheduledCallDialer
from app.jobs.gauges import BacklogGauges
from app.jobs.heartbeat import HeartbeatWriter
from app.jobs.isolation import log_and_suppress_errors
from app.jobs.lost_grants import LostGrantWatch
from app.jobs.partitions import AUDIT_TABLES, PartitionCreator
from app.jobs.pending_updates import PendingUpdateSender
from app.jobs.refresh import CallRefresher
from app.jobs.resolve import OutcomeResolver
from app.jobs.retain import RetentionEnforcer
from app.jobs.rollup import CallCountRollUp
from app.jobs.store import jobs_with_due_work
from app.jobs.unrecorded_calls import UnrecordedCallDetector
from app.jobs.wake import debounce_wake
from app.observability import Metrics
from app.observability.tracing import Tracing
from app.scheduling.grant_counters import KnownGrantCounts, require_usable_counter_folder
from app.services import Services, dial_time_budget, open_services
from app.settings import Settings

logger = structlog.stdlib.get_logger(__name__)

_PARTITIONS_EVERY_S = 3600.0
_RETENTION_EVERY_S = 3600.0
_ROLL_UP_EVERY_S = 10.0
_DELETE_LEASES_EVERY_S = 3600.0
_GAUGES_EVERY_S = 15.0
_LOST_GRANT_CHECK_EVERY_S = 15.0
_FREE_DIAL_SLOTS_EVERY_S = 60.0
_DELETE_IDLE_DIAL_TURNS_EVERY_S = 600.0
_HEARTBEAT_EVERY_S = 15.0
# How often the jobs that `_wake_due_jobs` wakes look for work without a wake-up.
_MAX_PAUSE_WITHOUT_WAKE_UP_S = 15.0
_PAUSE_AFTER_FAILURE_S = 2.0
_READINESS_CHECK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the worker. The worker repeats `step`, and pauses for `idle_s` seconds after a step that left nothing to do."""

    name: str
    # Returns whether there may be more to do at once.
    step: Callable[[], Awaitable[bool]]
    idle_s: float
    # Is called when the worker stops: waits for work that a step has started, or cleans up.
    drain: Callable[[], Awaitable[None]] | None = None
    # Ends the pause early when it is set.
    wake: asyncio.Event = field(default_factory=asyncio.Event)


def make_jobs(settings: Settings, state: Services, metrics: Metrics, deliverer: DeliverySender) -> list[Job]:
    """Returns the jobs of one worker. Without a retention period, calls are never deleted."""
    budget = dial_time_budget(settings)
    calls_kept_for = None if settings.retention_days is None else timedelta(days=settings.retention_days)
    resolver = OutcomeResolver(
        database=state["database"],
        directory=state["directory"],
        twilio=state["twilio"],
        metrics=metrics,
        settlement=state["settlement"],
        max_start_delay=timedelta(seconds=budget.total_s + settings.abandon_margin),
        deadline_s=budget.attempt_s,
    )
    refresher = _make_refresher(settings, state, metrics, resolver, calls_kept_for)
    counters = KnownGrantCounts(settings.grant_counter_dir)
    dialer = _make_dialer(settings, state, counters)
    updates = PendingUpdateSender(state["database"], state["control"])
    deadlines = RingDeadlineEnforcer(state["database"], state["control"])
    heartbeat = HeartbeatWriter(state["database"])
    polled = [
        Job("refresh", refresher.step, _MAX_PAUSE_WITHOUT_WAKE_UP_S, refresher.tasks.drain, refresher.tasks.wake),
        Job("abandoned", resolver.mark_abandoned_calls, _MAX_PAUSE_WITHOUT_WAKE_UP_S),
        Job("search", resolver.search_unknown_calls, _MAX_PAUSE_WITHOUT_WAKE_UP_S, resolver.tasks.stop, resolver.tasks.wake),
        Job("control", updates.step, _MAX_PAUSE_WITHOUT_WAKE_UP_S, updates.tasks.drain, updates.tasks.wake),
        Job("deadlines", deadlines.step, _MAX_PAUSE_WITHOUT_WAKE_UP_S, deadlines.tasks.drain, deadlines.tasks.wake),
        Job("dial", dialer.step, _MAX_PAUSE_WITHOUT_WAKE_UP_S, dialer.drain, dialer.wake),
        Job("deliver", deliverer.step, _MAX_PAUSE_WITHOUT_WAKE_UP_S, deliverer.drain, deliverer.wake),
    ]
    audit = RetentionEnforcer(state["database"], metrics, timedelta(days=settings.audit_retention_days), AUDIT_TABLES)
    figures_kept_for, has_public_url = timedelta(days=settings.rollup_retention_days), bool(settings.public_url)
    rollup = CallCountRollUp(state["database"], figures_kept_for, calls_kept_for, has_public_url=has_public_url)
    jobs = [
        *polled,
        Job(
            "poll", partial(_wake_due_jobs, state["database"], polled, resolver.max_start_delay), settings.worker_poll_interval
        ),
        Job("guard", LostGrantWatch(state["database"], counters).step, _LOST_GRANT_CHECK_EVERY_S),
        Job("slots", deadlines.free_dial_slots, _FREE_DIAL_SLOTS_EVERY_S),
        Job("turns", deadlines.delete_idle_dial_turns, _DELETE_IDLE_DIAL_TURNS_EVERY_S),
        Job("heartbeat", heartbeat.step, _HEARTBEAT_EVERY_S, heartbeat.delete),
        Job("gauges", BacklogGauges(state["database"], metrics, counters).step, _GAUGES_EVERY_S),
        Job("rollup", rollup.step, _ROLL_UP_EVERY_S),
        Job("leases", refresher.delete_expired_leases, _DELETE_LEASES_EVERY_S),
        Job("partitions", PartitionCreator(state["database"]).step, _PARTITIONS_EVERY_S),
        Job("expire_audit_default_partition", audit.expire_default_partitions, _RETENTION_EVERY_S),
        Job("drop_audit_partitions", audit.drop_partitions, _RETENTION_EVERY_S),
    ]
    if calls_kept_for is not None:
        retention = RetentionEnforcer(state["database"], metrics, calls_kept_for, max_start_delay=resolver.max_start_delay)
        steps = (retention.expire_calls, retention.expire_default_partitions, retention.drop_partitions)
        jobs += [Job(step.__name__, step, _RETENTION_EVERY_S) for step in steps]
    return jobs


def _make_refresher(
    settings: Settings, state: Services, metrics: Metrics, resolver: OutcomeResolver, calls_kept_for: timedelta | None
) -> CallRefresher:
    detector = UnrecordedCallDetector(
        state["database"], state["directory"], state["twilio"], metrics, resolver.max_start_delay, calls_kept_for
    )
    return CallRefresher(
        database=state["database"],
        directory=state["directory"],
        twilio=state["twilio"],
        metrics=metrics,
        interval=timedelta(seconds=settings.refresh_interval),
        fetch_deadline_s=resolver.deadline_s,
        first_page_checks=(resolver.bind_unknown_calls_on_page, detector.check_page),
    )


def _make_dialer(settings: Settings, state: Services, counters: KnownGrantCounts) -> ScheduledCallDialer:
    limits = settings.max_in_flight, settings.max_in_flight_per_tenant
    return ScheduledCallDialer(state["database"], state["granted_call_dialer"], state["settlement"], *limits, counters)


async def _wake_due_jobs(database: Database, jobs: Sequence[Job], abandoned_after: timedelta) -> bool:
    """Wakes each of `jobs` that has due work. Returns false, so that the job that calls this function pauses.

    `abandoned_after` is the age at which a record that is still pending counts as abandoned by its process.
    """
    due = await jobs_with_due_work(database, abandoned_after=abandoned_after)
    for job in jobs:
        if job.name in due:
            job.wake.set()
    return False


async def run_worker(settings: Settings, metrics: Metrics, stop: asyncio.Event, tracing: Tracing | None = None) -> None:
    """Runs a worker with its own services until `stop` is set. Starts the jobs when the process is ready.

    Closes `tracing` at the end. Raises CommandFailed if CALLGATE_GRANT_COUNTER_DIR cannot be used.
    """
    tracing = tracing or Tracing()
    require_usable_counter_folder(settings.grant_counter_dir)
    with tracing.background_tracing():
        async with (
            open_services(settings, metrics) as state,
            DeliveryHttpClient(AllowList.parse(settings.delivery_allow)) as sender,
        ):
            await _wait_until_ready(Readiness(state["database"], state["keyring"]), stop)
            first_retry = timedelta(seconds=settings.delivery_first_retry)
            deliverer = DeliverySender(state["database"], state["delivery_signing"], sender, metrics, first_retry)
            url = settings.require_database_url()
            async with Listener(url, channel=DELIVERIES_CHANNEL, on_change=deliverer.wake.set).listening_in_background():
                await run_jobs(make_jobs(settings, state, metrics, deliverer), stop)
    await asyncio.to_thread(tracing.close)


async def _wait_until_ready(readiness: Readiness, stop: asyncio.Event) -> None:
    """Waits until the database and the encryption keys can be used, or `stop` is set. Logs each reason for waiting once.

    With a wrong encryption key, jobs would do harm: a delivery that cannot be signed counts as a failed attempt, for example.
    """
    logged: set[tuple[str | None, str | None]] = set()
    while not stop.is_set():
        health = await readiness.check()
        if health.status == "ok":
            return
        if (cause := (health.database, health.reason)) not in logged:
            logged.add(cause)
            logger.warning("worker_not_ready", database=health.database, reason=health.reason)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _READINESS_CHECK_EVERY_S)


async def run_jobs(jobs: list[Job], stop: asyncio.Event) -> None:
    """Runs all jobs repeatedly. Returns when `stop` is set and the running steps have finished."""
    async with asyncio.TaskGroup() as running:
        for job in jobs:
            running.create_task(_repeat_job(job, stop))


async def _repeat_job(job: Job, stop: asyncio.Event) -> None:
    while not stop.is_set():
        pause = _PAUSE_AFTER_FAILURE_S
        with log_and_suppress_errors("job_failed", job=job.name):
            pause = 0.0 if await job.step() else job.idle_s
        if pause:
            await _pause(job, stop, pause)
    if job.drain:
        # An error of `drain` would cancel the jobs that still finish their work.
        with log_and_suppress_errors("job_failed", job=job.name):
            await job.drain()


async def _pause(job: Job, stop: asyncio.Event, seconds: float) -> None:
    """Returns after `seconds`, or soon after `job.wake` or `stop` is set."""
    waits = [asyncio.create_task(event.wait()) for event in (stop, job.wake)]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if job.wake.is_set() and not stop.is_set():
        await debounce_wake(job.wake)
