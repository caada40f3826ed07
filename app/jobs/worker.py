"""Run the jobs until told to stop. A job that fails is told and tried again; it never takes the others down."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.errors import DatabaseUnavailable
from app.jobs.control import Controller
from app.jobs.partitions import Partitioner
from app.jobs.refresh import Refresher
from app.jobs.resolve import Resolver
from app.observability import Metrics
from app.services import Services, budget_of, services
from app.settings import Settings

logger = structlog.stdlib.get_logger(__name__)

_PARTITIONS_EVERY_S = 3600.0
_AFTER_FAILURE_S = 2.0


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    step: Callable[[], Awaitable[bool]]
    idle_s: float


def jobs_of(settings: Settings, state: Services, metrics: Metrics) -> list[Job]:
    budget = budget_of(settings)
    refresher = Refresher(
        database=state["database"],
        tenants=state["tenants"],
        twilio=state["twilio"],
        metrics=metrics,
        interval=timedelta(seconds=settings.refresh_interval),
        fetch_deadline_s=budget.attempt,
    )
    resolver = Resolver(
        database=state["database"],
        tenants=state["tenants"],
        twilio=state["twilio"],
        metrics=metrics,
        settlement=state["settlement"],
        longest_life=timedelta(seconds=budget.total + settings.abandon_margin),
        deadline_s=budget.attempt,
    )
    poll = settings.worker_poll_interval
    return [
        Job("refresh", refresher.step, poll),
        Job("abandoned", resolver.mark_abandoned, poll),
        Job("search", resolver.search, poll),
        Job("control", Controller(state["database"], state["control"]).step, poll),
        Job("partitions", Partitioner(state["database"]).step, _PARTITIONS_EVERY_S),
    ]


async def run_worker(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """A whole worker: its own services, and every job until `stop` is set."""
    async with services(settings, metrics) as state:
        await run_jobs(jobs_of(settings, state, metrics), stop)


async def run_jobs(jobs: list[Job], stop: asyncio.Event) -> None:
    """Returns once `stop` is set and every step under way is finished."""
    async with asyncio.TaskGroup() as running:
        for job in jobs:
            running.create_task(_repeat(job, stop))


async def _repeat(job: Job, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            pause = 0.0 if await job.step() else job.idle_s
        except* DatabaseUnavailable:
            pause = _AFTER_FAILURE_S
        except* Exception:
            logger.exception("job_failed", job=job.name)
            pause = _AFTER_FAILURE_S
        if pause:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
