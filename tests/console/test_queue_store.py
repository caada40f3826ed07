"""Tests the query of the list of queues: the queues of one tenant or of all, and the reason why each next call waits."""

from datetime import UTC, datetime, timedelta

from app.audit.events import command_actor
from app.console.page_size import PAGE_SIZE
from app.console.queues import store
from app.console.queues.store import MAX_COUNTED_CALLS, QueueLine
from app.http.concurrency import ConcurrencyLimit
from app.queues.service import QueueChange, QueueService
from app.queues.wait_reason import WaitReasonName, wait_reason
from tests.queues.conftest import QueuedCalls
from tests.support.gateway import Gateway, Tenant


def service_of(gateway: Gateway) -> QueueService:
    return QueueService(gateway.database, ConcurrencyLimit(per_process=2, per_tenant=1))


async def add_queue(gateway: Gateway, tenant: Tenant, name: str, **change: object) -> QueuedCalls:
    settings: QueueChange = change  # type: ignore[assignment]
    await service_of(gateway).create_or_change(command_actor(), tenant.id, name, settings)
    return QueuedCalls(gateway, tenant, name)


async def line_of(calls: QueuedCalls) -> QueueLine:
    (line,), _ = await store.list_queue_lines(calls.gateway.database, calls.tenant.id)
    return line


async def reason_of(calls: QueuedCalls) -> WaitReasonName | None:
    return wait_reason((await line_of(calls)).state)


async def test_lists_are_of_one_tenant_or_of_all_and_come_in_pages(gateway: Gateway) -> None:
    first, second = await gateway.add_tenant(), await gateway.add_tenant()
    names = [f"q{number:02}" for number in range(PAGE_SIZE)]
    for name in names:
        await add_queue(gateway, first, name)
    await add_queue(gateway, second, "other")
    own, has_more = await store.list_queue_lines(gateway.database, first.id)
    assert ([line.state.queue.name for line in own], has_more) == (names, False)
    page, has_more = await store.list_queue_lines(gateway.database, None)
    assert (len(page), has_more) == (PAGE_SIZE, True)
    last = page[-1].state.queue
    rest, has_more = await store.list_queue_lines(gateway.database, None, after=(last.tenant_id, last.name))
    assert ([(line.state.queue.tenant_id, line.state.queue.name) for line in rest], has_more) == ([(second.id, "other")], False)
    (line,), _ = await store.list_queue_lines(gateway.database, first.id, after=("", names[-2]))
    assert line.state.queue.name == names[-1]


async def test_a_line_says_how_many_wait_and_why_the_next_one_does(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    calls = await add_queue(gateway, tenant, "reminders")
    empty = await line_of(calls)
    assert (empty.waiting, empty.state.next_call, await reason_of(calls), empty.state.under_way) == (0, None, None, None)
    await calls.waiting(not_before_s=600)
    assert await reason_of(calls) == "not_before"
    await calls.waiting(not_before_s=-5)
    assert await reason_of(calls) is None
    await calls.set_pace(await calls.account_id(), calls_per_second=1, next_at=datetime.now(UTC) + timedelta(minutes=1))
    assert await reason_of(calls) == "account_pace"
    await calls.set_pace(await calls.queue_id(), max_concurrent=2, in_use=2)
    line = await line_of(calls)
    assert (line.waiting, await reason_of(calls), line.state.under_way) == (2, "concurrency", 2)
    await service_of(gateway).create_or_change(command_actor(), tenant.id, "reminders", {"paused": True})
    assert await reason_of(calls) == "paused"
    progress = await service_of(gateway).progress(tenant.id, "reminders")
    assert progress.wait_reason == "paused"


async def test_the_count_is_bounded(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    calls = await add_queue(gateway, tenant, "many")
    await calls.waiting_many(MAX_COUNTED_CALLS + 100)
    assert (await line_of(calls)).waiting == MAX_COUNTED_CALLS + 1


async def test_the_pace_that_is_reached_counts_calls_that_started_in_the_last_minute(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    calls = await add_queue(gateway, tenant, "reached")
    for _ in range(3):
        await calls.ended("started", status="completed")
    await calls.ended("not_started", problem="ring-by-passed")
    set_time = "UPDATE call SET settled_at = now() - interval '5 seconds' WHERE queue_id = $1"
    await gateway.database.fetch(set_time, await calls.queue_id())
    progress = await service_of(gateway).progress(tenant.id, "reached")
    assert progress.counts
    assert progress.counts.started_in_last_minute == 3
