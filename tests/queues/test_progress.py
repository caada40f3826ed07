"""Tests the progress of a queue: how many calls have which outcome, why the next call waits, and when the queue will end."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.queues.conftest import QueuedCalls
from tests.queues.test_queues import HOURS
from tests.support.gateway import Gateway

NOTHING = {"waiting": 0, "oldest_not_before": None, "wait_reason": None, "projected_end_at": None}


@pytest.fixture
async def calls(gateway: Gateway) -> QueuedCalls:
    made = QueuedCalls(gateway, await gateway.add_tenant(), "reminders")
    (await made.tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
    return made


async def shown(calls: QueuedCalls) -> dict[str, Any]:
    answer = await calls.tenant.http.get(f"/v1/queues/{calls.name}")
    details: dict[str, Any] = answer.raise_for_status().json()
    return details


async def change(calls: QueuedCalls, **settings: Any) -> None:
    (await calls.tenant.http.put(f"/v1/queues/{calls.name}", json=settings)).raise_for_status()


def seconds_ahead(time: str) -> float:
    return (datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds()


async def test_calls_are_counted_by_execution_status_and_problem(calls: QueuedCalls) -> None:
    empty = await shown(calls)
    assert NOTHING.items() <= empty.items()
    assert empty["counts"] == {"execution": {}, "status": {}, "problem": {}}
    await calls.waiting(not_before_s=-100)
    await calls.waiting(not_before_s=-200)
    for status in ("completed", "completed", "busy"):
        await calls.ended("started", status=status)
    await calls.ended("not_started", problem="ring-by-passed")
    await calls.ended("not_started", problem="canceled-before-dial")
    details = await shown(calls)
    assert details["counts"] == {
        "execution": {"scheduled": 2, "started": 3, "not_started": 2},
        "status": {"completed": 2, "busy": 1},
        "problem": {"ring-by-passed": 1, "canceled-before-dial": 1},
    }
    assert details["waiting"] == 2
    assert -230 < seconds_ahead(details["oldest_not_before"]) < -199


async def test_counts_that_take_too_long_are_null(calls: QueuedCalls, gateway: Gateway) -> None:
    await calls.waiting()
    async with gateway.database.transaction() as connection:
        # A reader waits for the lock as it would for a long scan.
        await connection.execute("LOCK TABLE call IN ACCESS EXCLUSIVE MODE")
        details = await shown(calls)
    assert (details["counts"], details["waiting"]) == (None, 1)
    assert (await shown(calls))["counts"] is not None


async def test_the_reason_of_the_wait_is_the_first_that_applies(calls: QueuedCalls, gateway: Gateway) -> None:
    """Adds one reason after another. Each new reason has a higher rank than the reasons before it."""
    tenant_id = calls.tenant.id
    assert (await shown(calls))["wait_reason"] is None
    call_id = await calls.waiting()
    assert (await shown(calls))["wait_reason"] is None
    queue_id, account_id = await calls.queue_id(), await calls.account_id()
    spent: dict[str, Any] = {"calls_per_second": 1, "next_at": datetime.now(UTC) + timedelta(seconds=60)}
    await calls.set_pace(account_id, **spent)
    assert (await shown(calls))["wait_reason"] == "account_pace"
    await calls.set_pace(account_id, **spent, max_concurrent=2, in_use=2)
    assert (await shown(calls))["wait_reason"] == "account_concurrency"
    await calls.set_pace(queue_id, **spent)
    assert (await shown(calls))["wait_reason"] == "pace"
    await calls.set_pace(queue_id, **spent, max_concurrent=2, in_use=2)
    assert (await shown(calls))["wait_reason"] == "concurrency"
    update = "UPDATE scheduled_dial SET due_at = now() + interval '1 minute' WHERE call_id = $1"
    await gateway.database.fetch(update, call_id)
    assert (await shown(calls))["wait_reason"] == "concurrency"
    await change(calls, hours=HOURS)
    await gateway.database.fetch(update, call_id)
    assert (await shown(calls))["wait_reason"] == "outside_hours"
    probing = "UPDATE pace SET probe_at = $2 WHERE subject_id = $1"
    await gateway.database.fetch(probing, await calls.account_id(), datetime.now(UTC) - timedelta(minutes=1))
    assert (await shown(calls))["wait_reason"] == "outside_hours", "the next call is tried as soon as it is due"
    await gateway.database.fetch(probing, await calls.account_id(), datetime.now(UTC) + timedelta(minutes=1))
    assert (await shown(calls))["wait_reason"] == "retry"
    await gateway.database.fetch(probing, await calls.account_id(), None)
    await gateway.database.fetch("UPDATE scheduled_dial SET tries = 1 WHERE call_id = $1", call_id)
    assert (await shown(calls))["wait_reason"] == "retry"
    await gateway.database.fetch("UPDATE scheduled_dial SET not_before = due_at WHERE call_id = $1", call_id)
    assert (await shown(calls))["wait_reason"] == "not_before"
    await change(calls, paused=True)
    assert (await shown(calls))["wait_reason"] == "paused"
    await gateway.tenants.set_tenant_suspended(tenant_id, suspended=True)
    gateway.invalidate_cache()
    assert (await shown(calls))["wait_reason"] == "tenant_suspended"
    await gateway.database.fetch("INSERT INTO grant_guard (server) VALUES ('another')")
    assert (await shown(calls))["wait_reason"] == "halted"
    await gateway.database.fetch("DELETE FROM grant_guard")


async def test_the_tenants_hours_are_those_of_a_queue_without_any(calls: QueuedCalls, gateway: Gateway) -> None:
    await calls.waiting(due_s=60)
    assert (await shown(calls))["wait_reason"] is None
    await gateway.database.fetch("UPDATE tenant SET hours = '{}' WHERE id = $1", calls.tenant.id)
    assert (await shown(calls))["wait_reason"] == "outside_hours"


async def test_the_end_is_projected_from_the_slower_pace(calls: QueuedCalls) -> None:
    for _ in range(20):
        await calls.waiting(ring_by_s=900)
    assert (await shown(calls))["projected_end_at"] is None
    await change(calls, pace={"calls_per_second": 2})
    assert 9 < seconds_ahead((await shown(calls))["projected_end_at"]) <= 10
    await calls.set_pace(await calls.account_id(), calls_per_second=0.2)
    assert 95 < seconds_ahead((await shown(calls))["projected_end_at"]) <= 100
    await change(calls, paused=True)
    assert (await shown(calls))["projected_end_at"] is None


async def test_the_projected_end_is_not_before_the_last_call_and_not_after_its_deadline(calls: QueuedCalls) -> None:
    await change(calls, pace={"calls_per_second": 1})
    await calls.waiting()
    await calls.waiting(not_before_s=600, ring_by_s=900)
    assert 590 < seconds_ahead((await shown(calls))["projected_end_at"]) <= 600
    await change(calls, pace={"calls_per_second": 0.001})
    assert 890 < seconds_ahead((await shown(calls))["projected_end_at"]) <= 900


async def test_the_projected_end_is_never_in_the_past(calls: QueuedCalls) -> None:
    """A call whose deadline has passed waits until a worker expires it. Without a worker, this may take long."""
    await change(calls, pace={"calls_per_second": 1})
    await calls.waiting(not_before_s=-900, ring_by_s=-600)
    asked = datetime.now(UTC)
    assert datetime.fromisoformat((await shown(calls))["projected_end_at"]) >= asked
