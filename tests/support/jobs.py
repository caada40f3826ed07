"""Runs jobs of the worker with the database of a gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

from app.calls.search_plan import SearchPlan
from app.calls.settlement import Settlement
from app.jobs.account_tasks import AccountTaskGroup
from app.jobs.deliver import DeliverySender
from app.jobs.dial import ScheduledCallDialer
from app.jobs.refresh import CallRefresher
from app.jobs.resolve import OutcomeResolver
from app.observability import Metrics
from app.scheduling.grant_counters import KnownGrantCounts
from app.services import Services, open_services
from app.twilio.client import TwilioClient, make_http_client
from tests.support.gateway import Gateway


@asynccontextmanager
async def running_refresher(
    gateway: Gateway, *, interval: timedelta = timedelta(seconds=30), timeout_s: float = 5
) -> AsyncIterator[CallRefresher]:
    metrics = Metrics()
    async with _twilio_client(metrics, timeout_s) as twilio:
        yield CallRefresher(gateway.database, gateway.directory, twilio, metrics, interval, fetch_deadline_s=timeout_s)


@asynccontextmanager
async def running_resolver(
    gateway: Gateway, *, searches: int, max_start_delay: timedelta = timedelta(minutes=1), timeout_s: float = 5
) -> AsyncIterator[OutcomeResolver]:
    metrics = Metrics()
    settlement = Settlement(metrics, timedelta(seconds=1), SearchPlan(searches, timedelta(minutes=15)))
    async with _twilio_client(metrics, timeout_s) as twilio:
        yield OutcomeResolver(
            gateway.database,
            gateway.directory,
            twilio,
            metrics,
            settlement,
            max_start_delay=max_start_delay,
            deadline_s=timeout_s,
        )


@asynccontextmanager
async def _twilio_client(metrics: Metrics, timeout_s: float) -> AsyncIterator[TwilioClient]:
    """Yields a client without a usable default URL: each account has the base URL of its own upstream."""
    http = make_http_client(
        connect_timeout=timeout_s, read_timeout=timeout_s, pool_timeout=timeout_s, max_connections=10, user_agent="tests"
    )
    async with http:
        yield TwilioClient(http, base_url="http://127.0.0.1:9", metrics=metrics)


def make_dialer(
    state: Services, *, limit: int = 50, per_tenant: int | None = None, counters: KnownGrantCounts | None = None
) -> ScheduledCallDialer:
    """Returns a dialer with these limits on the number of dials at a time. `per_tenant` is `limit` by default."""
    return ScheduledCallDialer(
        state["database"],
        state["granted_call_dialer"],
        state["settlement"],
        max_in_flight=limit,
        max_in_flight_per_tenant=limit if per_tenant is None else per_tenant,
        counters=counters or KnownGrantCounts(),
    )


@asynccontextmanager
async def running_dialer(
    gateway: Gateway,
    counters: KnownGrantCounts | None = None,
    /,
    *,
    limit: int = 50,
    per_tenant: int | None = None,
    **settings: Any,
) -> AsyncIterator[ScheduledCallDialer]:
    """Yields a dialer whose settings are those of the gateway, except `settings`."""
    async with open_services(gateway.settings.model_copy(update=settings), Metrics()) as state:
        dialer = make_dialer(state, limit=limit, per_tenant=per_tenant, counters=counters)
        yield dialer
        await dialer.drain()


async def dial_all(dialer: ScheduledCallDialer) -> None:
    """Grants and dials all calls that are due, and waits until every dial has ended."""
    while await dialer.step():
        pass
    await dialer.drain()


class JobWithTasks(Protocol):
    """A job whose step starts tasks."""

    @property
    def tasks(self) -> AccountTaskGroup: ...
    async def step(self) -> bool: ...


async def run_step(job: JobWithTasks) -> bool:
    """Runs a step of the job and waits for the tasks that it starts. Returns what the step returns."""
    is_due = await job.step()
    await job.tasks.drain()
    return is_due


async def run_search(resolver: OutcomeResolver) -> None:
    await resolver.search_unknown_calls()
    await resolver.tasks.drain()


async def deliver_all(deliverer: DeliverySender) -> None:
    """Sends deliveries until none is due."""
    deliverer.wake.set()
    while deliverer.wake.is_set():
        deliverer.wake.clear()
        while await deliverer.step():
            await deliverer.drain()
        await deliverer.drain()
