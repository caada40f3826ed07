"""Tests how the limits of an account or a queue are set, and what this changes for tokens and for granted calls."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from app.database.connection import SESSION_SETTINGS, Connection, Connector
from app.database.pool import Pool
from app.scheduling.pace import (
    allowed_call_count_sql,
    next_at_after_calls_sql,
    next_at_after_rate_change_sql,
    seconds_until_allowed_sql,
)
from app.scheduling.pace_limits import UNLIMITED_PACE, PaceChange, PaceLimits
from app.scheduling.pace_store import find_paces, lock_pace, write_pace
from app.tenants.errors import InvalidValue
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL

AT = "'2026-11-29 12:00:00Z'::timestamptz"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    pool = Pool(Connector(database_url, SESSION_SETTINGS).connect)
    yield pool
    await pool.close()


async def set_pace(pool: Pool, subject_id: UUID, limits: PaceLimits) -> PaceLimits:
    """Sets the limits, and returns the previous limits."""
    async with pool.transaction() as connection:
        before = await lock_pace(connection, subject_id)
        await write_pace(connection, subject_id, limits)
    return before


async def in_use(pool: Pool, subject_id: UUID) -> int:
    (row,) = await pool.fetch("SELECT in_use FROM pace WHERE subject_id = $1", subject_id)
    count: int = row["in_use"]
    return count


async def add_slot(connection: Connection | Pool, account_id: UUID, queue_id: UUID | None = None) -> None:
    """Adds a slot, the row of a granted call that counts as a concurrent call."""
    call_id, tenant_id = uuid4(), f"tenant-{account_id.hex}"
    await connection.fetch("INSERT INTO tenant (id, name) VALUES ($1, 'T') ON CONFLICT DO NOTHING", tenant_id)
    statement = """INSERT INTO twilio_account (id, tenant_id, account_sid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""
    await connection.fetch(statement, account_id, tenant_id, f"AC{account_id.hex}")
    statement = """INSERT INTO call (id, tenant_id, account_id, created_at, execution, pending_since, fingerprint, parameters,
        "to", "from", account_sid) VALUES ($1, $2, $3, now(), 'pending', now(), '\\x00', '{}', 'sip:a@example.com', 'b', $4)"""
    await connection.fetch(statement, call_id, tenant_id, account_id, f"AC{account_id.hex}")
    statement = "INSERT INTO dial_slot (call_id, account_id, queue_id, until) VALUES ($1, $2, $3, now() + interval '1 hour')"
    await connection.fetch(statement, call_id, account_id, queue_id)


async def test_a_pace_is_stored_exactly_and_a_subject_without_limits_has_none(pool: Pool) -> None:
    account, other = uuid4(), uuid4()
    limits = PaceLimits(Decimal("0.1"), burst=5, max_concurrent=10)
    assert await set_pace(pool, account, limits) == UNLIMITED_PACE
    async with pool.transaction() as connection:
        assert await lock_pace(connection, other) == UNLIMITED_PACE
        assert await find_paces(connection, [account, other, uuid4()]) == {account: limits}
    assert await set_pace(pool, account, UNLIMITED_PACE) == limits
    async with pool.transaction() as connection:
        assert await find_paces(connection, [account]) == {}


async def test_calls_that_were_granted_before_count_as_concurrent_calls(pool: Pool) -> None:
    account, queue = uuid4(), uuid4()
    for queue_id in (None, queue, queue):
        await add_slot(pool, account, queue_id)
    await set_pace(pool, account, PaceLimits(max_concurrent=10))
    await set_pace(pool, queue, PaceLimits(max_concurrent=10))
    assert (await in_use(pool, account), await in_use(pool, queue)) == (3, 2)


async def test_a_grant_under_way_is_counted(pool: Pool) -> None:
    account = uuid4()
    await set_pace(pool, account, PaceLimits(Decimal(1)))
    async with pool.transaction() as grant, asyncio.timeout(60):
        await lock_pace(grant, account)
        setting = asyncio.create_task(set_pace(pool, account, PaceLimits(max_concurrent=10)))
        while not await grant.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
            await asyncio.sleep(0.01)
        await add_slot(grant, account)
        await grant.execute("UPDATE pace SET in_use = in_use + 1 WHERE subject_id = $1", account)
    await setting
    assert await in_use(pool, account) == 1


async def test_of_racing_first_settings_both_are_made_in_turn(pool: Pool) -> None:
    account = uuid4()
    paces = [PaceLimits(Decimal(rate)) for rate in range(1, 5)]
    before = await asyncio.gather(*(set_pace(pool, account, pace) for pace in paces))
    async with pool.transaction() as connection:
        last = (await find_paces(connection, [account]))[account]
    assert {UNLIMITED_PACE, *paces} == {*before, last}


@pytest.mark.parametrize(
    ("before", "after", "next_in", "expected"),
    [
        (("0.5", 50), ("5", 50), 100, 10),
        (("5", 50), ("0.5", 50), 10, 100),
        (("5", 50), ("0.5", 50), 2, 20),
        (("5", 50), ("5", 10), 10, 2),
        (("5", 50), ("0.5", 100), 10, 100),
        (("5", 50), ("5", 50), 10, 10),
        (("5", 50), ("5", 50), -10, -10),
        (("0.5", 50), ("5", 50), -10, -10),
        (("5", 50), ("NULL", 2), 10, 10),
        (("NULL", 2), ("5", 50), 10, 10),
        # A pause of a minute. Its end is the time at which the new limits, too, allow one call.
        (("0.5", 2), ("5", 11), 62, 62),
        (("5", 11), ("0.5", 2), 62, 62),
        (("5", 11), ("5", 11), 62, 62),
    ],
)
async def test_calls_dialled_before_a_change_count_and_a_pause_goes_on(
    pool: Pool, before: tuple[str, int], after: tuple[str, int], next_in: int, expected: int
) -> None:
    changed = next_at_after_rate_change_sql(AT, f"({after[0]})::numeric", str(after[1]))
    statement = f"""WITH pace AS (
            SELECT {before[0]}::numeric AS calls_per_second, {before[1]} AS burst, {AT} + $1 * interval '1 s' AS next_at
        )
        SELECT {changed} - {AT} FROM pace"""  # noqa: S608  # own constants
    ((left,),) = await pool.fetch(statement, next_in)
    assert left == timedelta(seconds=expected)


_WAIT = f"SELECT coalesce({seconds_until_allowed_sql(AT)}, 0) AS wait_s, {allowed_call_count_sql(AT)} AS allowed FROM pace"  # noqa: S608  # own constants


@pytest.mark.parametrize(
    ("ahead_s", "wait_s", "allowed"),
    [(61, 60, 0), (62, 61, 0), (63, 0, 1), (3600, 0, 1)],
    ids=["pause", "limit", "impossible", "hour"],
)
async def test_one_call_is_allowed_after_a_backward_clock_step(pool: Pool, ahead_s: int, wait_s: int, allowed: int) -> None:
    """One call is allowed, which makes the next ones wait as usual. A change of the pace does so, too."""
    pace = f"SELECT 1::numeric AS calls_per_second, 2 AS burst, NULL::int AS max_concurrent, 0 AS in_use, {AT} + $1 AS next_at"
    (row,) = await pool.fetch(f"WITH pace AS ({pace}) {_WAIT}", timedelta(seconds=ahead_s))  # own constants
    assert (row["wait_s"], row["allowed"]) == (wait_s, allowed)
    if allowed:
        changed = next_at_after_rate_change_sql(AT, "10::numeric", "2")
        after = f"SELECT {next_at_after_calls_sql(AT, '1')} - {AT} AS called, {changed} - {AT} AS changed FROM pace"  # noqa: S608
        (row,) = await pool.fetch(f"WITH pace AS ({pace}) {after}", timedelta(seconds=ahead_s))  # own constants
        assert (row["called"], row["changed"]) == (timedelta(seconds=2), timedelta(seconds=0.1))


@pytest.mark.parametrize(("rate", "burst"), [("3", 3), ("6", 2), ("1.5", 2), ("7", 5), ("9", 6), ("0.001", 1)])
async def test_one_call_is_allowed_at_every_rate_after_a_backward_clock_step(pool: Pool, rate: str, burst: int) -> None:
    row = f"SELECT {rate}::numeric AS calls_per_second, {burst} AS burst, NULL::int AS max_concurrent, 0 AS in_use"
    (read,) = await pool.fetch(f"WITH pace AS ({row}, {AT} + interval '1 day' AS next_at) {_WAIT}")  # own constants
    assert (read["wait_s"], read["allowed"]) == (0, 1)


async def test_a_lower_rate_allows_no_call_of_a_burst_that_is_used_up(pool: Pool) -> None:
    account = uuid4()
    await set_pace(pool, account, PaceLimits(Decimal("0.01"), burst=100))
    using_up = f"UPDATE pace SET next_at = {next_at_after_calls_sql('clock_timestamp()', '100')} WHERE subject_id = $1"  # noqa: S608  # own constants
    await pool.fetch(using_up, account)
    await set_pace(pool, account, PaceLimits(Decimal("0.001"), burst=100))
    statement = f"SELECT {allowed_call_count_sql('clock_timestamp()')} FROM pace WHERE subject_id = $1"  # noqa: S608  # own constants
    ((tokens,),) = await pool.fetch(statement, account)
    assert tokens == 0


async def test_a_pace_that_was_never_used_has_all_its_tokens_after_a_change(pool: Pool) -> None:
    account = uuid4()
    for rate in ("0.001", "1000", "0.5"):
        await set_pace(pool, account, PaceLimits(Decimal(rate), burst=7))
        statement = f"SELECT {allowed_call_count_sql('clock_timestamp()')} FROM pace WHERE subject_id = $1"  # noqa: S608  # own constants
        ((tokens,),) = await pool.fetch(statement, account)
        assert tokens == 7


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        (PaceChange(calls_per_second=Decimal(0)), "/pace/calls_per_second", "out_of_range"),
        (PaceChange(calls_per_second=Decimal(-1)), "/pace/calls_per_second", "out_of_range"),
        (PaceChange(calls_per_second=Decimal("1000.001")), "/pace/calls_per_second", "out_of_range"),
        (PaceChange(calls_per_second=Decimal("0.0001")), "/pace/calls_per_second", "out_of_range"),
        (PaceChange(calls_per_second=Decimal("NaN")), "/pace/calls_per_second", "out_of_range"),
        (PaceChange(calls_per_second=Decimal("Infinity")), "/pace/calls_per_second", "out_of_range"),
        (PaceChange(calls_per_second=Decimal(1), burst=0), "/pace/burst", "out_of_range"),
        (PaceChange(calls_per_second=Decimal(1), burst=1001), "/pace/burst", "out_of_range"),
        (PaceChange(burst=3), "/pace/burst", "missing"),
        (PaceChange(max_concurrent=0), "/pace/max_concurrent", "out_of_range"),
        (PaceChange(max_concurrent=100_001), "/pace/max_concurrent", "out_of_range"),
    ],
)
def test_a_limit_out_of_bounds_is_refused_by_member(change: PaceChange, pointer: str, code: str) -> None:
    with pytest.raises(InvalidValue) as refusal:
        UNLIMITED_PACE.with_changes(change)
    assert (refusal.value.pointer, refusal.value.code) == (pointer, code)


def test_a_change_keeps_what_it_does_not_name() -> None:
    limits = UNLIMITED_PACE.with_changes(PaceChange(calls_per_second=Decimal("0.001"), burst=1000, max_concurrent=100_000))
    assert limits.with_changes(PaceChange(max_concurrent=None)) == PaceLimits(Decimal("0.001"), burst=1000)
    assert limits.with_changes(PaceChange(calls_per_second=None)) == PaceLimits(max_concurrent=100_000), (
        "no burst without a pace"
    )
    assert limits.with_changes(PaceChange(calls_per_second=None, max_concurrent=None)) == UNLIMITED_PACE
    assert limits.names_of_differing_limits(UNLIMITED_PACE) == ["calls_per_second", "burst", "max_concurrent"]
