"""Tests that the list of calls reads about as many rows as it shows, for one tenant and for an operator without a tenant."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.calls.models import Call
from app.console.calls.search import CallListFilters, CallSearch
from app.console.calls.store import list_calls_sql
from app.console.page_size import PAGE_SIZE
from app.database.engine import Database
from bench.rows_data import load_calls
from bench.rows_questions import draw_calls

ROWS = 100_000
# A page of ids and then their calls, from two columns, and the calls of other tenants between those of a large one.
FEW = 12 * PAGE_SIZE
# Where each of the hundred tenants is asked for a page.
FEW_OF_EACH = 101 * (PAGE_SIZE + 1)
LOOKED_AT = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'call'"
NOW = datetime.now(UTC)
# Each tenant has a queue with the oldest of its calls, which come last in a list of them all.
ADD_QUEUES = "INSERT INTO queue (id, tenant_id, name) SELECT gen_random_uuid(), id, 'old' FROM tenant"
FILL_QUEUES = """
    UPDATE call SET queue_id = queue.id FROM queue
    WHERE queue.tenant_id = call.tenant_id AND call.id < (SELECT percentile_disc(0.1) WITHIN GROUP (ORDER BY id) FROM call)
"""


def queries_about(call: Call) -> dict[str, tuple[CallListFilters, int]]:
    """Returns queries by name. The number is the most rows that the query may read for an operator without a tenant."""
    hour = timedelta(hours=1)
    return {
        "all": (CallListFilters(), FEW),
        "deep": (CallListFilters(before=call.id), FEW),
        "id": (CallListFilters(CallSearch("id", (str(call.id),))), 2),
        "sid": (CallListFilters(CallSearch("sid", (call.sid or "",))), 2),
        "key": (CallListFilters(CallSearch("key", (call.idempotency_key or "",))), 2),
        "key of none": (CallListFilters(CallSearch("key", ("none",))), 0),
        "address": (CallListFilters(CallSearch("to", (call.to,))), FEW),
        "number": (CallListFilters(CallSearch("number", (call.from_,))), FEW_OF_EACH),
        "number of none": (CallListFilters(CallSearch("number", ("+4915112345678",))), 0),
        "number, deep": (CallListFilters(CallSearch("number", (call.from_,)), before=call.id), FEW_OF_EACH),
        "status": (CallListFilters(status="failed"), FEW_OF_EACH),
        "status of few": (CallListFilters(status="ringing"), FEW_OF_EACH),
        "started": (CallListFilters(execution="started"), FEW),
        "not started": (CallListFilters(execution="not_started"), FEW_OF_EACH),
        "unknown": (CallListFilters(execution="unknown"), FEW_OF_EACH),
        "scheduled": (CallListFilters(execution="scheduled"), 0),
        "problem": (CallListFilters(problem="none-found").with_default_since(now=NOW), ROWS // 20),
        "queue": (CallListFilters(queue="old"), FEW_OF_EACH),
        "queue, deep": (CallListFilters(queue="old", before=call.id), FEW_OF_EACH),
        "queue of none": (CallListFilters(queue="none"), 0),
        "queue, address": (CallListFilters(CallSearch("to", (call.to,)), queue="old"), FEW),
        "time": (CallListFilters(since=call.created_at - hour, until=call.created_at), FEW),
        "time, status": (CallListFilters(since=call.created_at - hour, until=call.created_at, status="busy"), FEW),
    }


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(load_calls, database_url.replace("+asyncpg", ""), ROWS, recent=1000)
    database = Database(database_url, pool_size=1)
    for statement in (ADD_QUEUES, FILL_QUEUES, "ANALYZE call"):
        await database.fetch(statement)
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def drawn(database: Database) -> Sequence[Call]:
    async with database.begin() as session:
        return await draw_calls(session, ROWS, 2)


async def rows_looked_at(database: Database, statement: str, values: list[Any]) -> tuple[int, int]:
    """Returns how many calls the statement shows, and how many rows of the table `call` Postgres reads for them."""
    async with database.transaction() as connection:
        before = await connection.fetchval(LOOKED_AT) or 0
        shown = await connection.fetch(statement, *values)
        return len(shown), await connection.fetchval(LOOKED_AT) - before


@pytest.mark.parametrize("for_one_tenant", [True, False])
async def test_no_filter_walks_through_the_table(database: Database, drawn: Sequence[Call], for_one_tenant: bool) -> None:
    for call in drawn:
        for name, (query, few) in queries_about(call).items():
            statement, values = list_calls_sql(query, call.tenant_id if for_one_tenant else None, limit=PAGE_SIZE + 1)
            shown, looked_at = await rows_looked_at(database, statement, values)
            limit = min(few, FEW) if for_one_tenant and name != "problem" else few
            assert looked_at <= limit, (name, shown, looked_at)
