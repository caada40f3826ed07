"""Tests that the slots of ended calls are freed. A slot is a place within the limit of concurrent calls."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from app.calls.creation.grants.service import grant_calls
from app.database.connection import Connection
from app.errors import DatabaseUnavailable
from app.scheduling.dial_slots import free_slots_of_ended_calls, lock_pace_and_free_slots
from tests.support.gateway import Gateway, Tenant
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL, locked_pace
from tests.support.upstream import created, running_upstream

_ADD_SLOT = """
    WITH slot AS (
        INSERT INTO dial_slot (call_id, account_id, queue_id, until)
        SELECT id, $2, $3::uuid, now() + make_interval(secs => $4) FROM call WHERE id = $1 RETURNING account_id, queue_id
    )
    INSERT INTO pace (subject_id, in_use) SELECT unnest(ARRAY[account_id, queue_id]), 1 FROM slot WHERE queue_id IS NOT NULL
    UNION ALL SELECT account_id, 1 FROM slot WHERE queue_id IS NULL
    ON CONFLICT (subject_id) DO UPDATE SET in_use = pace.in_use + 1
"""

_ADD_WAITING = """
    INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
    SELECT id, tenant_id, account_id, $2, id, 1, now(), now() + interval '1 hour', now() FROM call WHERE id = $1
"""


async def _started(tenant: Tenant) -> UUID:
    response = await tenant.create()
    assert response.status_code == 201
    return UUID(response.json()["id"])


async def _account(gateway: Gateway, tenant: Tenant) -> UUID:
    account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    return account_id


async def _add_queue(gateway: Gateway, tenant: Tenant) -> UUID:
    queue_id = uuid4()
    await gateway.database.fetch(
        "INSERT INTO queue (id, tenant_id, name) VALUES ($1, $2, $3)", queue_id, tenant.id, str(queue_id)
    )
    return queue_id


async def _set(gateway: Gateway, call_id: UUID, assignment: str) -> None:
    await gateway.database.fetch(f"UPDATE call SET {assignment} WHERE id = $1", call_id)  # noqa: S608  # of this module


async def _in_use(gateway: Gateway, subject_id: UUID) -> int:
    rows = await gateway.database.fetch("SELECT in_use FROM pace WHERE subject_id = $1", subject_id)
    in_use: int = rows[0]["in_use"]
    return in_use


async def _holders(gateway: Gateway, account_id: UUID) -> set[UUID]:
    rows = await gateway.database.fetch("SELECT call_id FROM dial_slot WHERE account_id = $1", account_id)
    return {row["call_id"] for row in rows}


async def _free(gateway: Gateway, account_id: UUID) -> int:
    async with locked_pace(gateway, account_id) as connection:
        return await free_slots_of_ended_calls(connection, account_id)


@pytest.mark.parametrize(
    "end",
    [
        *(f"status = '{status}'" for status in ("completed", "busy", "failed", "no-answer", "canceled")),
        "sid = NULL, execution = 'not_started'",
        "sid = NULL, execution = 'scheduled'",
        "deleted_at = now()",
    ],
)
async def test_the_slot_of_an_ended_call_is_freed_and_that_of_another_call_is_not(gateway: Gateway, end: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account, queue = await _account(gateway, tenant), await _add_queue(gateway, tenant)
        ended, queued, ringing, answered, direct = [await _started(tenant) for _ in range(5)]
        await _set(gateway, ringing, "status = 'ringing'")
        await _set(gateway, answered, "status = 'in-progress'")
        for call in (ended, queued, ringing, answered):
            await gateway.database.fetch(_ADD_SLOT, call, account, queue, 60.0)
        await gateway.database.fetch(_ADD_SLOT, direct, account, None, 60.0)
        assert (await _in_use(gateway, account), await _in_use(gateway, queue)) == (5, 4)
        await _set(gateway, ended, end)

        assert await _free(gateway, account) == 1
        assert (await _in_use(gateway, account), await _in_use(gateway, queue)) == (4, 3)
        assert await _free(gateway, account) == 0
        assert await _holders(gateway, account) == {queued, ringing, answered, direct}


@pytest.mark.parametrize("execution", ["pending", "unknown"])
async def test_a_call_that_may_be_under_way_keeps_its_slot_until_its_end(gateway: Gateway, execution: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account = await _account(gateway, tenant)
        call, late = [await _started(tenant) for _ in range(2)]
        for each, seconds in ((call, 60.0), (late, -0.001)):
            await _set(gateway, each, f"sid = NULL, execution = '{execution}'")
            await gateway.database.fetch(_ADD_SLOT, each, account, None, seconds)

        assert await _free(gateway, account) == 1
        assert await _holders(gateway, account) == {call}


@pytest.mark.parametrize(("ring_in_h", "last_ring_in_h"), [(5, 5), (150, 24)])
async def test_a_slot_outlives_the_deadline_of_its_call(gateway: Gateway, ring_in_h: int, last_ring_in_h: int) -> None:
    """Checks when the slot ends, because only the slot has the deadline. Twilio queues a call for at most a day."""
    tenant = await gateway.add_tenant()
    ring_by = datetime.now(UTC) + timedelta(hours=ring_in_h)
    assert (await tenant.create(ring_by=ring_by.isoformat(), timeout=30, time_limit=60)).status_code == 202
    account = await _account(gateway, tenant)
    (grant,) = (await grant_calls(gateway.database, account, limit=1)).grants
    kept = "SELECT until - now() AS time FROM dial_slot WHERE call_id = $1"
    ((kept_for,),) = await gateway.database.fetch(kept, grant.call.id)
    longest = timedelta(hours=last_ring_in_h, minutes=10, seconds=90)
    assert longest - timedelta(minutes=1) < kept_for <= longest


async def test_a_slot_that_retention_has_deleted_with_its_call_is_freed(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account, queue = await _account(gateway, tenant), await _add_queue(gateway, tenant)
        call = await _started(tenant)
        await gateway.database.fetch(_ADD_SLOT, call, account, queue, 60.0)
        await gateway.database.fetch("DELETE FROM call WHERE id = $1", call)

        assert await _free(gateway, account) == 1
        assert (await _in_use(gateway, account), await _in_use(gateway, queue)) == (0, 0)


async def test_two_accounts_that_free_slots_of_one_queue_at_once_count_both(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        other_sid = "AC" + "e" * 32
        await gateway.tenants.add_credential(
            tenant.id, account_sid=other_sid, secret="o" * 32, key_sid=None, base_url=upstream.url
        )
        first, queue = await _account(gateway, tenant), await _add_queue(gateway, tenant)
        second = await gateway.directory.find_account_id(tenant.id, account_sid=other_sid)
        assert second
        for account in (first, second):
            call = await _started(tenant)
            await gateway.database.fetch(_ADD_SLOT, call, account, queue, 60.0)
            await _set(gateway, call, "status = 'completed'")

        async with locked_pace(gateway, first) as connection:
            assert await free_slots_of_ended_calls(connection, first) == 1
            freeing = asyncio.create_task(_free(gateway, second))
            while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
                await asyncio.sleep(0.01)
        assert await freeing == 1
        assert [await _in_use(gateway, subject) for subject in (first, second, queue)] == [0, 0, 0]


async def test_a_slot_that_another_session_is_deleting_does_not_block(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account = await _account(gateway, tenant)
        calls = [await _started(tenant) for _ in range(2)]
        for call in calls:
            await gateway.database.fetch(_ADD_SLOT, call, account, None, 60.0)
            await _set(gateway, call, "status = 'completed'")
        async with gateway.database.transaction() as connection:
            await connection.execute("DELETE FROM call WHERE id = $1", calls[0])
            assert await _free(gateway, account) == 1
        assert await _free(gateway, account) == 1
        assert await _in_use(gateway, account) == 0


async def test_slots_of_an_account_that_another_session_has_locked_are_left_without_a_wait(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account, call = await _account(gateway, tenant), await _started(tenant)
        await gateway.database.fetch(_ADD_SLOT, call, account, None, 60.0)
        await _set(gateway, call, "status = 'completed'")
        async with locked_pace(gateway, account):
            assert await lock_pace_and_free_slots(gateway.database, account) is None
        assert await _holders(gateway, account) == {call}
        assert await lock_pace_and_free_slots(gateway.database, account) == 1


async def test_slots_of_an_account_whose_pace_was_lost_in_a_failover_are_freed(gateway: Gateway) -> None:
    """The new row counts the slot of the call under way, so its number of slots increases."""
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account, ended, under_way = await _account(gateway, tenant), await _started(tenant), await _started(tenant)
        for call in (ended, under_way):
            await gateway.database.fetch(_ADD_SLOT, call, account, None, 60.0)
        await gateway.database.fetch("DELETE FROM pace WHERE subject_id = $1", account)
        await _set(gateway, ended, "status = 'completed'")
        assert await lock_pace_and_free_slots(gateway.database, account) == -1
        assert await _holders(gateway, account) == {under_way}


async def test_an_account_whose_lost_pace_another_session_is_inserting_is_locked(gateway: Gateway) -> None:
    account = await _account(gateway, await gateway.add_tenant())
    async with gateway.database.transaction() as connection:
        await connection.execute("INSERT INTO pace (subject_id) VALUES ($1)", account)
        with pytest.raises(DatabaseUnavailable) as raised:
            await lock_pace_and_free_slots(gateway.database, account)
    assert raised.value.reason == "locked"
    assert await lock_pace_and_free_slots(gateway.database, account) == 0


class _ConnectionWithPause:
    """A connection that awaits `pause` after its first `fetch`."""

    def __init__(self, connection: Connection, pause: Awaitable[object]) -> None:
        self._connection, self._pause = connection, pause
        self.execute, self.fetchval = connection.execute, connection.fetchval

    async def fetch(self, *arguments: Any) -> Any:
        rows = await self._connection.fetch(*arguments)
        await self._pause
        self.fetch = self._connection.fetch  # type: ignore[method-assign]
        return rows


async def test_a_call_that_turns_up_while_slots_are_freed_keeps_its_slot(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account, call, ended = await _account(gateway, tenant), await _started(tenant), await _started(tenant)
        for each in (call, ended):
            await gateway.database.fetch(_ADD_SLOT, each, account, None, 60.0)
            await _set(gateway, each, "sid = NULL, execution = 'not_started'")
        async with locked_pace(gateway, account) as connection:
            turns_up = _set(gateway, call, f"sid = 'CA{uuid4().hex}', execution = 'started'")
            assert await free_slots_of_ended_calls(cast(Connection, _ConnectionWithPause(connection, turns_up)), account) == 1
        assert await _holders(gateway, account) == {call}


async def test_queues_that_a_grant_may_lock_next_are_locked_with_those_of_freed_slots(gateway: Gateway) -> None:
    """Grants of two accounts could otherwise lock the queues in different orders, and Postgres would abort one grant."""
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account = await _account(gateway, tenant)
        waiting, freed, idle = sorted([await _add_queue(gateway, tenant) for _ in range(3)])
        call, next_call = [await _started(tenant) for _ in range(2)]
        await gateway.database.fetch("INSERT INTO pace (subject_id) SELECT unnest($1::uuid[])", [waiting, idle])
        await gateway.database.fetch(_ADD_SLOT, call, account, freed, 60.0)
        await _set(gateway, call, "status = 'completed'")
        await gateway.database.fetch(_ADD_WAITING, next_call, waiting)
        async with locked_pace(gateway, account) as connection:
            assert await free_slots_of_ended_calls(connection, account) == 1
            unlocked = "SELECT subject_id FROM pace WHERE subject_id = ANY ($1::uuid[]) FOR UPDATE SKIP LOCKED"
            rows = await gateway.database.fetch(unlocked, [waiting, freed, idle])
        assert [row["subject_id"] for row in rows] == [idle]
        assert await _in_use(gateway, freed) == 0


@pytest.mark.parametrize("time_limit", [10**18, 10**400])
async def test_a_time_limit_that_is_no_float_leaves_the_grants_of_its_account_alone(gateway: Gateway, time_limit: int) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await _account(gateway, tenant)
        assert (await tenant.create(priority="normal", time_limit=time_limit)).status_code == 202
        assert (await tenant.create(priority="normal")).status_code == 202
        assert len((await grant_calls(gateway.database, account_id, limit=2)).grants) == 2

        await gateway.database.fetch("UPDATE pace SET max_concurrent = 9 WHERE subject_id = $1", account_id)
        gateway.invalidate_cache()
        assert (await tenant.create(time_limit=time_limit)).status_code == 201
        latest = "SELECT max(until) < now() + interval '2 days' AS is_bounded FROM dial_slot WHERE account_id = $1"
        assert (await gateway.database.fetch(latest, account_id))[0]["is_bounded"]
