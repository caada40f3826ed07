"""Tests heartbeats, the rows that running workers renew, and that a worker runs no job before it is ready."""

import asyncio
from base64 import b64encode

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.database.heartbeats import summarize_workers
from app.doctor.checks import run_checks
from app.jobs.worker import run_worker
from app.observability import Metrics
from app.schema import migrate
from tests.support.clients import http_client
from tests.support.gateway import Gateway, running_gateway, settings_for, wait_until_ready
from tests.support.tcp import silent_first_host


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


async def test_a_worker_with_wrong_keys_starts_no_job(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.jobs.worker._READINESS_CHECK_EVERY_S", 0.01)
    await asyncio.to_thread(migrate, empty_database_url)
    settings = settings_for(empty_database_url)
    async with running_gateway(settings) as gateway:
        await gateway.add_tenant()
        stop = asyncio.Event()
        wrong = settings.model_copy(update={"secret_keys": SecretStr(b64encode(bytes(32)).decode())})
        async with asyncio.timeout(60):
            working = asyncio.create_task(run_worker(wrong, Metrics(), stop))
            output = ""
            while "secret_keys_wrong" not in output:
                assert await _count_workers(gateway) == 0
                await asyncio.sleep(0.01)
                output += capsys.readouterr().out
            for _ in range(20):
                await asyncio.sleep(0.01)
                assert await _count_workers(gateway) == 0
            stop.set()
            await working
        assert (output + capsys.readouterr().out).count("worker_not_ready") == 1


async def test_a_worker_starts_its_jobs_when_its_database_is_ready(
    empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, stop = settings_for(empty_database_url), asyncio.Event()
    working = asyncio.create_task(run_worker(settings, Metrics(), stop))
    async with asyncio.timeout(60):
        while "worker_not_ready" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(migrate, empty_database_url)
    async with running_gateway(settings) as gateway:
        await _wait_for_workers(gateway, 1)
        stop.set()
        await working


async def test_a_worker_starts_its_jobs_if_only_the_first_database_host_does_not_answer(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    stop = asyncio.Event()
    with silent_first_host(empty_database_url) as url:
        working = asyncio.create_task(run_worker(settings_for(url), Metrics(), stop))
        async with running_gateway(settings_for(empty_database_url)) as gateway:
            await _wait_for_workers(gateway, 1)
        stop.set()
        await working
