"""Tests grants, which give a worker the right to dial a call. Callers with waiting calls take turns."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from app.calls.creation.grants.service import grant_calls
from app.tenants.caller import COMMAND_LINE_CALLER
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.postgres_clock import url_with_other_clock

_LOCK_QUEUE = "SELECT FROM pace JOIN queue ON queue.id = subject_id WHERE tenant_id = $1 FOR UPDATE OF pace"
_TIMES = """
    SELECT next_at, pace.granted_at, dial_slot.granted_at AS slot_granted_at
    FROM pace JOIN queue ON queue.id = subject_id JOIN dial_slot ON dial_slot.queue_id = queue.id WHERE tenant_id = $1
"""


async def test_a_grant_that_waited_for_its_queue_spends_the_token_after_the_wait(gateway: Gateway) -> None:
    """A token that is spent before the wait would be replaced during the wait, and the next calls would exceed the pace."""
    tenant = await gateway.add_tenant()
    pace = {"calls_per_second": 0.01, "burst": 1}
    (await tenant.http.put("/v1/queues/slow", json={"pace": pace})).raise_for_status()
    assert (await tenant.create(queue="slow")).status_code == 202
    account_id = await account_of(gateway, tenant)
    async with gateway.database.transaction() as connection, asyncio.timeout(60):
        await connection.execute(_LOCK_QUEUE, tenant.id)
        granting = asyncio.create_task(grant_calls(gateway.database, account_id, limit=1))
        while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
            await asyncio.sleep(0.01)
        released_at = await connection.fetchval("SELECT clock_timestamp()")
    assert len((await granting).grants) == 1
    (row,) = await gateway.database.fetch(_TIMES, tenant.id)
    assert row["next_at"] >= released_at + timedelta(seconds=100)
    assert row["slot_granted_at"] == row["granted_at"] == row["next_at"] - timedelta(seconds=100)


# The end of a creation that was withdrawn, because it was unknown whether Postgres had committed it.
_END = """
    WITH ended AS (DELETE FROM scheduled_dial WHERE tenant_id = $1 RETURNING call_id)
    UPDATE call SET execution = 'not_started', settled_by = 'response', settled_at = now(),
        problem = '{"slug": "database-unavailable", "detail": "…", "after_s": 1}'
    FROM ended WHERE call.id = call_id
"""


async def test_a_call_that_another_caller_schedules_again_under_its_key_is_granted(gateway: Gateway) -> None:
    """The second caller is the same service with its next API key. It has not scheduled any call before."""
    tenant = await gateway.add_tenant()
    body = BASIC_CALL | {"priority": "normal"}
    assert (await tenant.create("k", priority="normal")).status_code == 202
    await gateway.database.fetch(_END, tenant.id)
    _, key = await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER)
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k"}
    again = await tenant.http.post("/v1/calls", json=body, headers=headers)
    assert (again.status_code, again.json()["execution"]) == (202, "scheduled")
    granted = await grant_calls(gateway.database, await account_of(gateway, tenant), limit=1)
    assert [str(grant.call.id) for grant in granted.grants] == [again.json()["id"]]


async def account_of(gateway: Gateway, tenant: Tenant) -> UUID:
    account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    return account_id


async def test_closed_calls_are_postponed_together_also_behind_many_open_ones(gateway: Gateway) -> None:
    """Calls whose time zone is closed at the moment do not keep all other calls waiting for many rounds."""
    tenant = await gateway.add_tenant()
    now = datetime.now(UTC)
    until = (now + timedelta(days=2)).isoformat()
    open_now = {"time_zone": "UTC", "from": f"{now:%H}:00", "to": f"{now + timedelta(hours=2):%H}:00"}

    async def add(count: int, **members: str) -> None:
        lines = (json.dumps(BASIC_CALL | members | {"key": str(uuid4()), "ring_by": until}) for _ in range(count))
        headers = {"Content-Type": "application/x-ndjson"}
        added = await tenant.http.post("/v1/queues/mixed/calls", content="\n".join(lines), headers=headers)
        assert all(json.loads(line).get("status") == 202 for line in added.text.splitlines())

    (await tenant.http.put("/v1/queues/mixed", json={})).raise_for_status()
    await add(510, time_zone="UTC")
    await add(20, time_zone="Asia/Tokyo", priority="urgent")
    (await tenant.http.put("/v1/queues/mixed", json={"hours": open_now})).raise_for_status()
    account_id = await account_of(gateway, tenant)
    first, second = [await grant_calls(gateway.database, account_id, limit=4) for _ in range(2)]
    assert (first.grants, len(second.grants)) == ([], 4)


@pytest.mark.parametrize("offset", ["1 hour", "-1 hour"])
async def test_the_times_of_a_call_are_those_of_postgres(gateway: Gateway, offset: str) -> None:
    """The clock of the machine on which the API runs is an hour behind that of Postgres, or an hour ahead of it."""
    url = await url_with_other_clock(gateway.database, gateway.settings.require_database_url(), offset=offset)
    async with running_gateway(settings_for(url)) as other:
        tenant = await other.add_tenant()
        (await tenant.http.put("/v1/queues/hasty", json={"ring_within_s": 600})).raise_for_status()
        assert (await tenant.create(queue="hasty")).status_code == 202
        granted = await grant_calls(other.database, await account_of(other, tenant), limit=1)
        assert len(granted.grants) == 1


_MAKE_STARTED = """
    UPDATE call SET execution = 'started', sid = 'CA' || translate(id::text, '-', '') WHERE id IN (
        SELECT call_id FROM scheduled_dial WHERE account_id = $1 ORDER BY due_at, call_id LIMIT $2
    )
"""
ALL_DAY = {"time_zone": "UTC", "from": "00:00", "to": "24:00"}


@pytest.mark.parametrize("hours", [None, ALL_DAY])
async def test_calls_that_have_started_without_their_grant_cost_no_token_and_no_turn(
    gateway: Gateway, hours: dict[str, str] | None
) -> None:
    """The grants of 20 calls were lost in a failover. Then callbacks came, and showed that the calls were started."""
    tenant = await gateway.add_tenant()
    settings = {"hours": hours, "pace": {"calls_per_second": 0.01, "burst": 2}}
    (await tenant.http.put("/v1/queues/resumed", json=settings)).raise_for_status()
    for _ in range(23):
        assert (await tenant.create(queue="resumed")).status_code == 202
    account_id = await account_of(gateway, tenant)
    await gateway.database.fetch(_MAKE_STARTED, account_id, 20)
    turn = "SELECT last_grant_at FROM dial_turn WHERE account_id = $1"
    before = await gateway.database.fetch(turn, account_id)
    first = await grant_calls(gateway.database, account_id, limit=16)
    assert (first.grants, first.is_last) == ([], False)
    assert await gateway.database.fetch(turn, account_id) == before
    second = await grant_calls(gateway.database, account_id, limit=16)
    assert len(second.grants) == 2
    assert (await grant_calls(gateway.database, account_id, limit=16)).is_last
    rows = await gateway.database.fetch("SELECT grants, in_use FROM pace WHERE subject_id = $1", account_id)
    assert [tuple(row) for row in rows] == [(2, 2)]


async def test_a_call_that_is_canceled_during_its_grant_does_not_end_the_round(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    first, second = [UUID((await tenant.create(priority="normal")).json()["id"]) for _ in range(2)]
    async with gateway.database.transaction() as connection, asyncio.timeout(60):
        await connection.execute("DELETE FROM scheduled_dial WHERE call_id = $1", first)
        granting = asyncio.create_task(grant_calls(gateway.database, await account_of(gateway, tenant), limit=1))
        while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
            await asyncio.sleep(0.01)
    assert [grant.call.id for grant in (await granting).grants] == [second]
