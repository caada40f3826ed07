"""Claiming the next deliveries: the rows that Postgres reads for it, and the deliveries that must wait for earlier ones."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.database.engine import Database
from app.database.partitions import MonthRange
from app.deliveries import store
from tests.support.deliveries import claim_deliveries

DELIVERED = 2000
# Postgres replaces the plans that it makes for given values by one for all values after so many executions.
EXECUTIONS_UNTIL_THE_PLAN_STAYS = 6

INSERT_DELIVERIES = """
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position, state, next_attempt_at)
    SELECT gen_random_uuid(), gen_random_uuid(), now() - n * interval '1 ms', 'tenant', 'completed', 3,
        CASE n WHEN 1 THEN 'pending' ELSE 'delivered' END, CASE n WHEN 1 THEN now() END
    FROM generate_series(1, $1::int) AS n
"""
ENTRIES_READ = """
    SELECT pg_stat_force_next_flush(), sum(pg_stat_get_tuples_returned(indexrelid))::bigint AS number
    FROM pg_index JOIN pg_inherits ON inhrelid = indrelid WHERE inhparent = 'delivery'::regclass
"""


async def test_a_claim_that_was_planned_for_an_empty_table_reads_no_delivered_rows(database_url: str) -> None:
    """Covers the start of a month, when Postgres has made the plan for the new, empty partition without statistics."""
    months = MonthRange.from_first_to_last(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC))
    database = Database(database_url, pool_size=1)

    async def entries_read() -> int:
        await database.fetch(ENTRIES_READ)  # flushes what this session has counted
        (row,) = await database.fetch(ENTRIES_READ)
        return int(row["number"])

    try:
        for _ in range(EXECUTIONS_UNTIL_THE_PLAN_STAYS):
            assert await claim_deliveries(database, months=months) == []
        await database.fetch(INSERT_DELIVERIES, DELIVERED)
        before = await entries_read()
        (claimed,) = await claim_deliveries(database, months=months)
        assert claimed.event == "completed"
        assert await entries_read() - before < DELIVERED / 10
    finally:
        await database.close()


INSERT_CALL = """
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position, next_attempt_at)
    SELECT gen_random_uuid(), $1, $2::timestamptz - days * interval '1 day', 'tenant', event, position, now()
    FROM (VALUES ('settled', -2, $3::int), ('corrected', -1, 0)) AS given (event, position, days)
"""


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=200)], ids=["recent", "old"])
@pytest.mark.parametrize(("days", "waits"), [(1, True), (29, True), (31, False), (45, False), (100, False)])
async def test_a_delivery_waits_only_for_an_earlier_one_whose_result_frees_it(
    database_url: str, days: int, waits: bool, age: timedelta
) -> None:
    """The worker checks a held delivery again at once. If that freed it, the next claim would hold it again, without end."""
    now = datetime.now(UTC)
    database = Database(database_url, pool_size=1)
    try:
        await database.fetch("DELETE FROM delivery")
        await database.fetch(INSERT_CALL, uuid4(), now - age, days)
        claimed = await claim_deliveries(database)
        held = [delivery for delivery in claimed if delivery.held]
        assert sorted(delivery.event for delivery in claimed) == ["corrected", "settled"]
        assert [delivery.event for delivery in held] == (["corrected"] if waits else [])
        if held:
            assert await store.record_attempts(database, [], held=held) == 0
    finally:
        await database.close()


@pytest.mark.parametrize(("failed", "is_held"), [(0, True), (1, True), (2, False)])
async def test_the_event_settled_holds_later_events_until_its_second_failure(
    database_url: str, failed: int, *, is_held: bool
) -> None:
    database = Database(database_url, pool_size=1)
    try:
        await database.fetch("DELETE FROM delivery")
        await database.fetch(
            """INSERT INTO delivery (id, call_id, at, tenant_id, event, position, attempts, next_attempt_at)
            SELECT gen_random_uuid(), $1, now(), 'tenant', event, position, attempts, now() + wait * interval '1 minute'
            FROM (VALUES ('settled', -2, $2::int, 1), ('completed', 3, 0, 0)) AS given (event, position, attempts, wait)""",
            uuid4(),
            failed,
        )
        (claimed,) = await claim_deliveries(database)
        assert (claimed.event, claimed.held) == ("completed", is_held)
    finally:
        await database.close()
