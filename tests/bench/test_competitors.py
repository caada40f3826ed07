"""The services that Callgate is compared with commit the intent before the request to Twilio, and the outcome after it.

They create only one call for an idempotency key.
"""

import asyncio
import secrets
from types import ModuleType

import asyncpg
import pytest

from bench.competitors import async_httpx, sync_sdk, tables
from bench.subjects import CALL_BODY, libpq_url
from tests.support.clients import http_client
from tests.support.gateway import running_app
from tests.support.upstream import created_after_release, running_upstream

ACCOUNT = f"AC{'0' * 32}"


@pytest.mark.parametrize("competitor", [sync_sdk, async_httpx])
async def test_a_competitor_commits_the_intent_before_and_the_outcome_after(
    competitor: ModuleType, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secrets.token_urlsafe()
    url = libpq_url(empty_database_url)
    await asyncio.to_thread(tables.create_tables_and_accounts, url, {key: (ACCOUNT, "token")})
    connection = await asyncpg.connect(url)
    async with running_upstream(created_after_release()) as upstream:
        monkeypatch.setenv("BENCH_DATABASE_URL", url)
        monkeypatch.setenv("BENCH_UPSTREAM_URL", upstream.url)
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "once"}
        async with running_app(competitor.create_app()) as service, http_client(base_url=service, headers=headers) as http:
            first = asyncio.create_task(http.post("/v1/calls", json=CALL_BODY))
            while not upstream.received:
                await asyncio.sleep(0.01)
            assert await connection.fetchval("SELECT execution FROM call") == "pending"
            upstream.released.set()
            placed = await first
            again = await http.post("/v1/calls", json=CALL_BODY)
            stranger = await http.post("/v1/calls", json=CALL_BODY, headers={"Authorization": "Bearer none"})
        assert [answer.status_code for answer in (placed, again, stranger)] == [201, 200, 401]
        assert again.json() == placed.json()
        assert await connection.fetchval("SELECT sid FROM call WHERE execution = 'started'") == placed.json()["sid"]
        assert len(upstream.received) == 1
        assert upstream.received[0].credentials == (ACCOUNT, "token")
    await connection.close()
