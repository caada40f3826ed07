"""Tests heartbeats, the rows that running workers renew: every process sees how many workers run."""

import asyncio

from sqlalchemy import text

from app.database.heartbeats import summarize_workers
from app.doctor.checks import run_checks
from app.jobs.worker import run_worker
from app.observability import Metrics
from app.schema import migrate
from tests.support.clients import http_client
from tests.support.gateway import Gateway, running_gateway, settings_for, wait_until_ready


async def _count_workers(gateway: Gateway) -> int:
    async with gateway.database.begin() as session:
        return (await summarize_workers(session)).running


async def _wait_for_workers(gateway: Gateway, number: int) -> None:
    async with asyncio.timeout(60):
        while await _count_workers(gateway) != number:
            await asyncio.sleep(0.05)


async def test_a_worker_is_counted_while_it_runs(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    settings = settings_for(empty_database_url)
    async with running_gateway(settings) as gateway, http_client(base_url=gateway.url) as http:

        async def found() -> tuple[object, str]:
            await wait_until_ready(http)
            (result,) = (result for result in await run_checks(settings) if result.check == "worker")
            return (await http.get("/readyz")).json().get("workers"), result.state

        assert await found() == (0, "wrong")
        stop = asyncio.Event()
        working = asyncio.create_task(run_worker(settings, Metrics(), stop))
        await _wait_for_workers(gateway, 1)
        assert await found() == (1, "ok")
        stop.set()
        await working
        assert await found() == (0, "wrong")


async def test_a_killed_worker_is_soon_not_counted_and_its_row_is_deleted(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    settings = settings_for(empty_database_url)
    async with running_gateway(settings) as gateway:
        async with gateway.database.begin() as session:
            await session.execute(
                text(
                    "INSERT INTO worker_heartbeat VALUES (gen_random_uuid(), 'killed', now() - interval '61 seconds'), "
                    "(gen_random_uuid(), 'gone', now() - interval '61 minutes')"
                )
            )
        assert await _count_workers(gateway) == 0
        stop = asyncio.Event()
        working = asyncio.create_task(run_worker(settings, Metrics(), stop))
        await _wait_for_workers(gateway, 1)
        async with gateway.database.begin() as session:
            assert set(await session.scalars(text("SELECT version FROM worker_heartbeat"))) >= {"killed"}
            assert "gone" not in set(await session.scalars(text("SELECT version FROM worker_heartbeat")))
        stop.set()
        await working
