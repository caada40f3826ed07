"""No statement of bench/rows.py reads many more rows than it returns, in a database of a hundred thousand calls."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import text

from app.calls.models import Call
from app.database.engine import Database
from app.jobs import refresh
from bench.rows_data import load_calls
from bench.rows_questions import QUESTIONS, draw_calls

ROWS = 100_000
# A page, and the calls by which the filters on times are wide: those of an hour.
FEW = 600
# A claim of refreshes reads those that are claimed already, and its own batch twice.
FEW_REFRESHES = 3 * refresh.BATCH_SIZE + 100
# The console's lists of all tenants ask for a page of each of the hundred tenants.
FEW_OF_EACH_TENANT = 102 * 51
# Counts up to ten thousand.
COUNTS = "gauges: calls to refresh"
LOOKED_AT = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'call'"


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database whose largest tenant has no call in the newer half.

    So a statement is found that reads all newer calls of other tenants before it reaches this tenant's last call.
    """
    await asyncio.to_thread(load_calls, database_url.replace("+asyncpg", ""), ROWS, recent=1000)
    database = Database(database_url, pool_size=1)
    async with database.begin() as session:
        younger = "id > (SELECT id FROM call ORDER BY id OFFSET :half LIMIT 1)"
        silence = f"UPDATE call SET tenant_id = 'tenant-50' WHERE tenant_id = 'tenant-00' AND {younger}"  # noqa: S608
        await session.execute(text(silence), {"half": ROWS // 2})
        await session.execute(text("ANALYZE call"))
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def drawn(database: Database) -> Sequence[Call]:
    """Returns a call of the largest tenant and a call of another tenant."""
    async with database.begin() as session:
        return await draw_calls(session, ROWS, 2)


@pytest.mark.parametrize("name", [name for name in QUESTIONS if name != COUNTS])
async def test_nothing_that_is_asked_walks_through_the_table(database: Database, drawn: Sequence[Call], name: str) -> None:
    limit = FEW_REFRESHES if name == "claim refreshes" else FEW_OF_EACH_TENANT if name.startswith("console, ") else FEW
    for call in drawn:
        async with database.begin() as session:
            before = await session.scalar(text(LOOKED_AT)) or 0
            await QUESTIONS[name](session, call)
            assert await session.scalar(text(LOOKED_AT)) - before < limit
