"""Tests leases, with which a worker claims a due call alone. If the worker dies, another worker takes over."""

import asyncio
from collections import Counter
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Text, bindparam, text

from app.calls import leases
from tests.support.gateway import Gateway
from tests.support.upstream import created, running_upstream

CALLS = 12
LEASE = timedelta(minutes=1)


@pytest.fixture
async def due(gateway: Gateway) -> set[UUID]:
    """Returns the ids of calls that became due for a refresh at the same time. No other call is due."""
    async with running_upstream(*(created() for _ in range(CALLS))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        ids = {UUID((await tenant.create()).json()["id"]) for _ in range(CALLS)}
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM lease"))
        await session.execute(text("UPDATE call SET refresh_at = NULL WHERE NOT id = ANY (:ids)"), {"ids": list(ids)})
        await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = ANY (:ids)"), {"ids": list(ids)})
    return ids


async def _claim(
    gateway: Gateway, *, lease: timedelta = LEASE, limit: int = CALLS, busy_accounts: Collection[UUID] = ()
) -> list[leases.CallDueForRefresh]:
    async with gateway.database.begin() as session:
        return list(await leases.claim_calls_to_refresh(session, lease=lease, limit=limit, busy_accounts=busy_accounts))


async def _move(gateway: Gateway, ids: set[UUID]) -> None:
    async with gateway.database.begin() as session:
        moved = "UPDATE call SET refresh_at = now() - interval '1 s' WHERE id = ANY (:ids)"
        await session.execute(text(moved), {"ids": list(ids)})


async def _leased(gateway: Gateway) -> set[UUID]:
    async with gateway.database.begin() as session:
        return set(await session.scalars(text("SELECT call_id FROM lease")))


async def test_concurrent_claims_share_the_calls(gateway: Gateway, due: set[UUID]) -> None:
    for _ in range(40):
        claimed: Counter[UUID] = Counter()
        while claimed.keys() < due:
            for batch in await asyncio.gather(*(_claim(gateway, limit=2) for _ in range(10))):
                claimed.update(call.id for call in batch)
        assert claimed == Counter(due)
        await _move(gateway, due)


async def test_the_most_overdue_calls_are_claimed_first(gateway: Gateway, due: set[UUID]) -> None:
    longest = set(sorted(due)[-3:])
    await _move(gateway, longest)
    assert {call.id for call in await _claim(gateway, limit=3)} == longest


async def test_no_call_of_a_busy_account_is_claimed(gateway: Gateway, due: set[UUID]) -> None:
    async with gateway.database.begin() as session:
        account_id = await session.scalar(text("SELECT account_id FROM call WHERE id = :id"), {"id": min(due)})
    assert await _claim(gateway, busy_accounts=[UUID(int=0), account_id]) == []
    assert {call.id for call in await _claim(gateway, busy_accounts=[UUID(int=0)])} == due


async def test_a_call_is_claimed_again_after_its_lease_has_ended(gateway: Gateway, due: set[UUID]) -> None:
    assert {call.id for call in await _claim(gateway, lease=timedelta(0))} == due
    assert {call.id for call in await _claim(gateway)} == due
    assert await _claim(gateway) == []


async def test_a_released_lease_stays_if_its_call_is_still_due(gateway: Gateway, due: set[UUID]) -> None:
    claimed = await _claim(gateway)
    moved = set(sorted(due)[:5])
    await _move(gateway, moved)
    async with gateway.database.begin() as session:
        await leases.delete_done_refresh_leases(session, claimed)
    assert await _leased(gateway) == due - moved
    assert {call.id for call in await _claim(gateway)} == moved


async def test_lapsed_leases_are_deleted_after_a_day(gateway: Gateway, due: set[UUID]) -> None:
    await _claim(gateway)
    lapsed, ended = set(sorted(due)[:4]), set(sorted(due)[4:8])
    async with gateway.database.begin() as session:
        for ids, ago in ((lapsed, "2 days"), (ended, "2 hours")):
            since = text("UPDATE lease SET until = now() - CAST(:ago AS interval) WHERE call_id = ANY (:ids)")
            await session.execute(since.bindparams(bindparam("ago", type_=Text)), {"ago": ago, "ids": list(ids)})
        await leases.delete_expired_leases(session)
    assert await _leased(gateway) == due - lapsed
