"""Tests the metrics of waiting calls: counts by priority, which leave out paused queues and suspended tenants."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.scheduling import statistics
from app.scheduling.models import NO_QUEUE
from app.scheduling.statistics import SchedulingBacklog, read_scheduling_backlog
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream

URGENT, NORMAL, BULK = range(3)
PRIORITY_COUNT = 3

# Copies of one call, with their rights to dial.
_ADD_WAITING = """
    WITH copied AS (
        INSERT INTO call SELECT (jsonb_populate_record(call, jsonb_build_object(
            'id', gen_random_uuid(), 'execution', 'scheduled', 'sid', NULL, 'idempotency_key', NULL
        ))).* FROM call, generate_series(1, $2::int) WHERE id = $1
        RETURNING id, tenant_id, account_id
    )
    INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
    SELECT id, tenant_id, account_id, $3, $4, $5, due_at, due_at + interval '1 day', due_at
    FROM copied, (SELECT now() - $6::interval AS due_at) AS due
"""


class Waiting:
    """Adds rows of waiting calls of one account."""

    def __init__(self, gateway: Gateway, tenant: Tenant, call_id: UUID) -> None:
        self.gateway, self.tenant, self.call_id = gateway, tenant, call_id

    async def add(
        self, priority: int, *, number: int = 1, due_for_s: float = 0, queue: UUID = NO_QUEUE, caller: UUID | None = None
    ) -> None:
        due_for = timedelta(seconds=due_for_s)
        caller = caller or uuid4()
        await self.gateway.database.fetch(_ADD_WAITING, self.call_id, number, queue, caller, priority, due_for)

    async def add_queue(self, *, paused: bool) -> UUID:
        queue_id = uuid4()
        statement = "INSERT INTO queue (id, tenant_id, name, paused) VALUES ($1, $2, $3, $4)"
        await self.gateway.database.fetch(statement, queue_id, self.tenant.id, str(queue_id), paused)
        return queue_id


async def _waiting(gateway: Gateway) -> Waiting:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        return Waiting(gateway, tenant, UUID((await tenant.create()).json()["id"]))


@pytest.fixture
async def waiting(gateway: Gateway) -> Waiting:
    for table in ("scheduled_dial", "dial_slot"):
        await gateway.database.fetch(f"DELETE FROM {table}")  # noqa: S608
    return await _waiting(gateway)


async def _measured(gateway: Gateway) -> SchedulingBacklog:
    return await read_scheduling_backlog(gateway.database, priority_count=PRIORITY_COUNT)


async def test_without_calls_everything_is_zero(gateway: Gateway, waiting: Waiting) -> None:
    assert await _measured(gateway) == SchedulingBacklog({URGENT: 0, NORMAL: 0, BULK: 0}, {}, 0)


async def test_calls_of_all_accounts_and_callers_are_counted_by_priority(gateway: Gateway, waiting: Waiting) -> None:
    other = await _waiting(gateway)
    await waiting.add(URGENT, due_for_s=-3600)
    await waiting.add(BULK, number=3, due_for_s=10)
    await waiting.add(BULK, number=2, due_for_s=50)
    await other.add(BULK, number=4, due_for_s=30)
    measured = await _measured(gateway)
    assert measured.waiting_by_priority == {URGENT: 1, NORMAL: 0, BULK: 9}
    assert measured.oldest_due_s.keys() == {BULK}
    assert 50 <= measured.oldest_due_s[BULK] < 110


async def test_paused_queues_and_suspended_tenants_have_nothing_that_is_due(gateway: Gateway, waiting: Waiting) -> None:
    suspended = await _waiting(gateway)
    await gateway.tenants.set_tenant_suspended(suspended.tenant.id, suspended=True)
    await suspended.add(NORMAL, due_for_s=900)
    await waiting.add(NORMAL, due_for_s=800, queue=await waiting.add_queue(paused=True))
    assert (await _measured(gateway)).oldest_due_s == {}
    caller = uuid4()
    await waiting.add(NORMAL, due_for_s=200, queue=await waiting.add_queue(paused=False), caller=caller)
    await waiting.add(NORMAL, due_for_s=100, caller=caller)
    measured = await _measured(gateway)
    assert 200 <= measured.oldest_due_s[NORMAL] < 260
    assert measured.waiting_by_priority[NORMAL] == 4


async def test_slots_are_counted_until_their_end(gateway: Gateway, waiting: Waiting) -> None:
    statement = (
        "INSERT INTO dial_slot (call_id, account_id, until) SELECT id, account_id, now() + $2::interval FROM call WHERE id = $1"
    )
    ended = await _waiting(gateway)
    await gateway.database.fetch(statement, waiting.call_id, timedelta(minutes=1))
    await gateway.database.fetch(statement, ended.call_id, timedelta(minutes=-1))
    assert (await _measured(gateway)).slots_in_use == 1


async def test_the_oldest_due_call_is_found_without_reading_the_others(gateway: Gateway, waiting: Waiting) -> None:
    await waiting.add(BULK, number=3000, due_for_s=10)
    await waiting.add(NORMAL, number=3000, due_for_s=20)
    async with gateway.database.transaction() as connection:
        await connection.execute("ANALYZE scheduled_dial")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statistics._OLDEST_DUE}")
    assert _rows_read(json.loads(explained)[0]["Plan"]) < 50


async def test_waiting_calls_are_counted_from_index_entries_of_each_priority(gateway: Gateway, waiting: Waiting) -> None:
    """Checks that counting reads few index entries, although there are 3000 waiting calls of one priority."""
    await waiting.add(BULK, number=3000)
    statement = statistics._COUNT_WAITING.replace("$1", "2")
    async with gateway.database.transaction() as connection:
        await connection.execute("ANALYZE scheduled_dial")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    assert _rows_read(json.loads(explained)[0]["Plan"]) < 50


def _rows_read(plan: dict[str, Any]) -> float:
    """Returns how many rows and index entries of `scheduled_dial` a query plan has read."""
    own: float = (
        plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if plan.get("Relation Name") == "scheduled_dial" else 0
    )
    loops: float = plan["Actual Loops"]
    return own * loops + sum(_rows_read(child) for child in plan.get("Plans", ()))
