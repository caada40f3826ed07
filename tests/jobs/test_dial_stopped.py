"""Tests that a call rings at most once if the worker is stopped, or fails, between the commit of its grant and its dial."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from app.calls.creation.grants.service import grant_calls
from app.jobs.dial import ScheduledCallDialer
from app.scheduling.grant_counters import KnownGrantCounts
from tests.cli.running import eventually
from tests.support.gateway import LONG_TIMEOUTS, Gateway, Tenant
from tests.support.jobs import dial_all, running_dialer, running_resolver
from tests.support.tcp import TIMEOUT_S, HoldingProxy, running_proxy
from tests.support.upstream import Upstream

WAITED_TWICE = ["call.scheduled", "call.pending", "call.scheduled", "call.pending", "call.started"]


@asynccontextmanager
async def dialer_behind_proxy(
    gateway: Gateway, counters: KnownGrantCounts | None = None
) -> AsyncIterator[tuple[ScheduledCallDialer, HoldingProxy]]:
    """Yields a dialer, and a proxy between it and Postgres."""
    url = make_url(gateway.settings.require_database_url())
    async with running_proxy(url.host or "", url.port or 5432) as proxy:
        behind = SecretStr(url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False))
        async with running_dialer(gateway, counters, database_url=behind, **LONG_TIMEOUTS) as dialer:
            yield dialer, proxy


@asynccontextmanager
async def step_with_committed_grant(dialer: ScheduledCallDialer, proxy: HoldingProxy) -> AsyncIterator[asyncio.Task[bool]]:
    """Yields a running step whose grant Postgres has committed. The answer to the commit is held back."""
    proxy.hold_answer(b"COMMIT")
    step = asyncio.create_task(dialer.step())
    await asyncio.wait_for(proxy.answer_held.wait(), TIMEOUT_S)
    try:
        yield step
    finally:
        proxy.answer_released.set()


async def until_started(dialer: ScheduledCallDialer, tenant: Tenant, call_id: str) -> list[str]:
    """Runs steps until the call has started. Returns the types of its events."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()["execution"] != "started":
            await dialer.step()
            await dialer.drain()
            await asyncio.sleep(0.05)
    return [event["type"] for event in await tenant.events(call_id)]


async def test_a_call_waits_again_if_the_step_is_canceled_during_the_commit_of_its_grant(
    gateway: Gateway, tenant: Tenant, upstream: Upstream
) -> None:
    call_id = (await tenant.create(priority="normal")).json()["id"]
    async with dialer_behind_proxy(gateway) as (dialer, proxy):
        async with step_with_committed_grant(dialer, proxy) as step:
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        assert await until_started(dialer, tenant, call_id) == WAITED_TWICE
    assert len(upstream.posts) == 1


async def test_a_call_waits_again_if_the_step_is_canceled_while_it_saves_the_count_of_grants(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, tmp_path: Path
) -> None:
    call_id = (await tenant.create(priority="normal")).json()["id"]
    counters, thread_may_end, loop = KnownGrantCounts(tmp_path), Event(), asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    async with dialer_behind_proxy(gateway, counters) as (dialer, proxy):
        async with step_with_committed_grant(dialer, proxy) as step:
            # The folder is written in a thread. The only one is busy now, as with a folder that hangs.
            busy = loop.run_in_executor(None, thread_may_end.wait)
        try:
            await eventually(lambda: bool(counters.known_counts()), "the count of the committed grant")
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
            assert counters.unsaved_count == 1
        finally:
            thread_may_end.set()
            await busy
        assert await until_started(dialer, tenant, call_id) == WAITED_TWICE
    assert len(upstream.posts) == 1
    reader = KnownGrantCounts(tmp_path)
    await reader.load()
    assert reader.known_counts() == counters.known_counts()


class ExhaustedExecutor(ThreadPoolExecutor):
    """An executor that refuses `refusals` tasks, with the error of a process that may start no more threads."""

    refusals = 0

    def submit(self, *arguments: Any, **keywords: Any) -> Future[Any]:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("can't start new thread")
        return super().submit(*arguments, **keywords)


async def test_a_granted_call_is_dialled_if_no_thread_can_save_the_count_of_grants(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_id = (await tenant.create(priority="normal")).json()["id"]
    counters, executor = KnownGrantCounts(tmp_path), ExhaustedExecutor()
    asyncio.get_running_loop().set_default_executor(executor)
    async with dialer_behind_proxy(gateway, counters) as (dialer, proxy):
        async with step_with_committed_grant(dialer, proxy) as step:
            executor.refusals = 1
        await step
        await dialer.drain()
        assert counters.unsaved_count == 1
        assert await until_started(dialer, tenant, call_id) == ["call.scheduled", "call.pending", "call.started"]
    assert len(upstream.posts) == 1
    assert "grant_counters_not_saved" in capsys.readouterr().out


async def test_a_granted_call_whose_process_is_killed_before_the_dial_becomes_unknown_and_is_not_dialled(
    gateway: Gateway, tenant: Tenant, upstream: Upstream
) -> None:
    """Nobody can know that the process has not dialled the call, so it must not wait again."""
    call_id = (await tenant.create(priority="normal")).json()["id"]
    account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    assert len((await grant_calls(gateway.database, account_id, limit=1)).grants) == 1
    await gateway.database.fetch("UPDATE call SET pending_since = now() - interval '1 hour' WHERE id = $1", UUID(call_id))
    async with running_resolver(gateway, searches=1) as resolver, running_dialer(gateway) as dialer:
        assert await resolver.mark_abandoned_calls()
        await dial_all(dialer)
    assert (await tenant.http.get(f"/v1/calls/{call_id}")).json()["execution"] == "unknown"
    assert upstream.posts == []
