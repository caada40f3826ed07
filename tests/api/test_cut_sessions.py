"""If database sessions are cut under load, no outcome is lost, no request gets a 500, and notifications resume."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import created, running_upstream

ROUNDS = 30
CALLERS = 12

_CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'callgate'
"""


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    """A gateway with timeouts that are long enough for a busy machine."""
    async with running_gateway(settings_for(database_url, twilio_read_timeout=20, request_budget=30)) as running:
        yield running


async def test_cut_sessions_lose_no_outcome_and_answer_no_500(gateway: Gateway, database_url: str) -> None:
    cutter = await asyncpg.connect(database_url.replace("+asyncpg", ""))

    async def cut() -> None:
        while True:
            await cutter.execute(_CUT)
            await asyncio.sleep(0.1)

    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)

        async def call(number: int) -> list[tuple[int, str | None]]:
            answers = [await tenant.create(f"{number}-{turn}") for turn in range(ROUNDS)]
            return [(answer.status_code, answer.json().get("id")) for answer in answers]

        cutting = asyncio.create_task(cut())
        answers = [answer for each in await asyncio.gather(*map(call, range(CALLERS))) for answer in each]
        cutting.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncpg.InterfaceError):
            await cutting
        await cutter.close()
        assert {status for status, _ in answers} <= {201, 202, 409, 503}
        accepted = {call_id for _, call_id in answers if call_id}
        async with asyncio.timeout(60):
            while (records := await _records(gateway, tenant)).keys() != accepted or None in records.values():
                await asyncio.sleep(0.2)
        # Every POST that Twilio received has its own record.
        assert len(set(records.values())) == len(upstream.posts) == len(accepted)


async def _records(gateway: Gateway, tenant: Tenant) -> dict[str, str | None]:
    """Returns the sid of each call of the tenant, by the id of the call. Leaves out calls that were not started."""
    async with gateway.database.begin() as session:
        calls = await session.execute(
            text("SELECT id::text, sid FROM call WHERE tenant_id = :tenant AND execution <> 'not_started'"),
            {"tenant": tenant.id},
        )
    return {call.id: call.sid for call in calls}
