"""Tests calls that are placed at once on an account with a pace: they never exceed it. A refusal says when to try again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.locks import locked_pace
from tests.support.upstream import created, created_after_release, error, running_upstream

# Slower than any test.
SLOW = "0.0001"


@pytest.fixture
async def replica(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A second API process over the same database."""
    async with running_gateway(settings_for(gateway.settings.require_database_url())) as running:
        yield running


async def set_pace(gateway: Gateway, tenant: Tenant, *others: Gateway, **columns: Any) -> UUID:
    """Sets the pace of the tenant's account, and clears the caches of all these gateways. Returns the account's id."""
    account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    names = ", ".join(columns)
    values = ", ".join("NULL" if value is None else f"'{value}'" for value in columns.values())
    assignments = ", ".join(f"{name} = excluded.{name}" for name in columns)
    statement = f"""INSERT INTO pace (subject_id, {names}) VALUES ($1, {values})
        ON CONFLICT (subject_id) DO UPDATE SET {assignments}"""  # noqa: S608  # of this module
    await gateway.database.fetch(statement, account_id)
    for each in (gateway, *others):
        each.invalidate_cache()
    return account_id


async def slots(gateway: Gateway, account_id: UUID) -> list[Any]:
    return list(await gateway.database.fetch("SELECT * FROM dial_slot WHERE account_id = $1 ORDER BY granted_at", account_id))


async def in_use(gateway: Gateway, account_id: UUID) -> int:
    (row,) = await gateway.database.fetch("SELECT in_use FROM pace WHERE subject_id = $1", account_id)
    count: int = row["in_use"]
    return count


async def create_at(gateway: Gateway, tenant: Tenant, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await tenant.http.post(f"{gateway.url}/v1/calls", json=BASIC_CALL, headers=headers)


def statuses(responses: list[httpx.Response]) -> list[int]:
    return sorted(response.status_code for response in responses)


async def test_what_exceeds_the_rate_is_refused_with_the_time_and_placed_nowhere(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await set_pace(gateway, tenant, calls_per_second="0.01", burst=2)
        responses = await asyncio.gather(*(tenant.create(f"key-{number}") for number in range(5)))

        assert statuses(responses) == [201, 201, 503, 503, 503]
        refused = next(response for response in responses if response.status_code == 503)
        problem = refused.json()
        assert problem["type"] == "urn:callgate:problem:paced"
        assert (problem["execution"], problem["retry"]["same_key"]) == ("not_started", True)
        assert 90 <= int(refused.headers["Retry-After"]) == problem["retry"]["after_s"] <= 100
        assert f"{tenant.account_sid} may place 0.01 calls per second, in bursts of up to 2. The next call" in problem["detail"]
        assert "call_id" not in problem
        assert len((await tenant.http.get("/v1/calls")).json()["calls"]) == len(upstream.posts) == 2


async def test_a_key_that_has_placed_its_call_is_never_refused_for_the_pace(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, calls_per_second=SLOW, burst=1)
        first = await tenant.create("k")
        assert first.status_code == 201
        assert (await tenant.create("other")).status_code == 503
        replays = await asyncio.gather(*(tenant.create("k") for _ in range(20)))
        assert {(response.status_code, response.json()["id"]) for response in replays} == {(200, first.json()["id"])}
        other_body = await tenant.create("k", to="sip:lena@example.com")
        assert (other_body.status_code, other_body.json()["type"]) == (422, "urn:callgate:problem:idempotency-key-reused")

        await gateway.database.fetch("UPDATE pace SET next_at = '-infinity' WHERE subject_id = $1", account_id)
        assert [(await tenant.create("other")).status_code for _ in range(2)] == [201, 200]
        assert len(upstream.posts) == 2


async def test_one_key_sent_many_times_at_once_is_never_refused_for_the_pace(gateway: Gateway, replica: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await set_pace(gateway, tenant, replica, calls_per_second=SLOW, burst=1, max_concurrent=1)
        for number in range(5):
            await set_pace(gateway, tenant, replica, next_at="-infinity", in_use=0)
            responses = await asyncio.gather(
                *(create_at(each, tenant, f"k-{number}") for each in (gateway, replica) for _ in range(10))
            )
            # 409: the first request is still placing the call.
            assert set(statuses(responses)) <= {200, 201, 409}
            assert statuses(responses).count(201) == 1
        assert len(upstream.posts) == 5


async def test_two_processes_together_keep_the_rate(gateway: Gateway, replica: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        # A limit of concurrent calls that is never reached: each slot tells when its call was admitted.
        account_id = await set_pace(gateway, tenant, replica, calls_per_second="25", burst=3, max_concurrent=1000)

        async def client(at: Gateway) -> list[httpx.Response]:
            """Sends requests as fast as they are answered, whatever Retry-After says, until five are placed."""
            responses: list[httpx.Response] = []
            while statuses(responses).count(201) < 5:
                responses.append(await create_at(at, tenant))
            return responses

        async with asyncio.timeout(60):
            answered = await asyncio.gather(*(client(each) for each in (gateway, replica) for _ in range(4)))
        responses = [response for each in answered for response in each]
        assert set(statuses(responses)) == {201, 503}
        times = [row["granted_at"] for row in await slots(gateway, account_id)]
        assert len(times) == len(upstream.posts) == 40 == await in_use(gateway, account_id)
        assert_within(times, calls_per_second=25, burst=3)


def assert_within(times: list[datetime], *, calls_per_second: float, burst: int) -> None:
    """Asserts that every interval of t seconds has at most `burst` + t × `calls_per_second` calls."""
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            allowed = burst + (times[last] - since).total_seconds() * calls_per_second
            assert last - first + 1 <= allowed + 0.001


async def test_two_processes_together_keep_the_limit_of_concurrent_calls(gateway: Gateway, replica: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, replica, max_concurrent=3)
        for placed in (3, 2):
            responses = await asyncio.gather(*(create_at(each, tenant) for each in (gateway, replica) for _ in range(15)))
            assert statuses(responses).count(201) == placed
            assert await in_use(gateway, account_id) == len(await slots(gateway, account_id)) == 3
            refused = next(response for response in responses if response.status_code == 503)
            assert refused.headers["Retry-After"] == "5"
            assert "has as many calls under way as it may have: 3. The" in refused.json()["detail"]
            # The next creation finds out that two have ended.
            for slot in (await slots(gateway, account_id))[:2]:
                await gateway.database.fetch("UPDATE call SET status = 'busy' WHERE id = $1", slot["call_id"])
        assert len(upstream.posts) == 5


async def test_a_call_under_way_holds_its_slot_while_it_is_being_placed(patient_gateway: Gateway) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        account_id = await set_pace(patient_gateway, tenant, max_concurrent=1)
        placing = asyncio.create_task(tenant.create(timeout=20, time_limit=100))
        await upstream.wait_for_post()
        assert (await tenant.create()).status_code == 503
        upstream.released.set()
        assert (await placing).status_code == 201
        (slot,) = await slots(patient_gateway, account_id)
        assert (slot["until"] - slot["granted_at"]).total_seconds() == 600 + 20 + 100


async def test_a_call_that_was_not_started_does_not_keep_its_slot(gateway: Gateway) -> None:
    async with running_upstream(error(400, 21211), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await set_pace(gateway, tenant, max_concurrent=1)
        assert [(await tenant.create()).status_code for _ in range(3)] == [422, 201, 503]


async def test_an_absurd_time_limit_places_the_call(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, max_concurrent=1)
        assert (await tenant.create(time_limit=10**15)).status_code == 201
        (slot,) = await slots(gateway, account_id)
        assert (slot["until"] - slot["granted_at"]).total_seconds() == 600 + 60 + 24 * 3600


async def while_locked(gateway: Gateway, account_id: UUID, statement: str, act: Callable[[], Awaitable[Any]]) -> Any:
    """Runs `statement` in a transaction that has locked the account's pace since before `act`. Returns the result of `act`."""
    async with locked_pace(gateway, account_id) as connection:
        acting = asyncio.ensure_future(act())
        await asyncio.sleep(0.1)  # `act` finds the row locked, and tries again later
        assert not acting.done()
        await connection.execute(statement, account_id)
    return await acting


@pytest.mark.parametrize("assignment", ["in_use = 1", "next_at = clock_timestamp() + interval '1 hour'"])
async def test_what_the_holder_of_the_lock_has_taken_is_not_taken_again(gateway: Gateway, assignment: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, calls_per_second=SLOW, burst=1, max_concurrent=1)
        # Freed slots are counted anew: this one has a call.
        if "in_use" in assignment:
            assert (await tenant.create()).status_code == 201
            await gateway.database.fetch("UPDATE pace SET in_use = 0, next_at = '-infinity' WHERE subject_id = $1", account_id)
        taking = f"UPDATE pace SET {assignment} WHERE subject_id = $1"  # noqa: S608  # of this module
        assert (await while_locked(gateway, account_id, taking, tenant.create)).status_code == 503


async def test_a_token_that_comes_while_the_pace_is_locked_is_taken(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, calls_per_second=SLOW, burst=1)
        refilling = "UPDATE pace SET next_at = clock_timestamp() WHERE subject_id = $1"
        assert (await while_locked(gateway, account_id, refilling, tenant.create)).status_code == 201


async def test_another_attempt_under_the_same_key_takes_a_token(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, calls_per_second=SLOW, burst=1, max_concurrent=1)
        assert (await tenant.create("k")).json()["type"] == "urn:callgate:problem:upstream-credentials-rejected"
        refused = await tenant.create("k")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:callgate:problem:paced")
        (record,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        assert record["execution"] == "not_started"
        assert len(upstream.posts) == 1

        await gateway.database.fetch("UPDATE pace SET next_at = '-infinity' WHERE subject_id = $1", account_id)
        placed = await tenant.create("k")
        assert (placed.status_code, placed.json()["id"]) == (201, record["id"])
        assert [str(slot["call_id"]) for slot in await slots(gateway, account_id)] == [record["id"]]
        assert await in_use(gateway, account_id) == 1
        assert [
            event["data"].get("attempt") for event in await tenant.events(record["id"]) if event["type"] == "call.pending"
        ] == [
            1,
            2,
        ]


async def test_another_attempt_is_refused_while_other_calls_have_all_slots(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        account_id = await set_pace(gateway, tenant, max_concurrent=1)
        assert (await tenant.create("k")).status_code == 502
        other = await tenant.create()
        assert (other.status_code, (await tenant.create("k")).status_code) == (201, 503)
        await gateway.database.fetch("UPDATE call SET status = 'completed' WHERE id = $1", UUID(other.json()["id"]))
        assert (await tenant.create("k")).status_code == 201
        assert await in_use(gateway, account_id) == len(await slots(gateway, account_id)) == 1


async def test_an_account_without_a_pace_is_not_limited_beside_one_with_a_pace(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        paced, free = [await gateway.add_tenant(upstream.url) for _ in range(2)]
        await set_pace(gateway, paced, calls_per_second=SLOW, burst=2)
        # The row of an account that has only had scheduled calls.
        account_id = await set_pace(gateway, free, calls_per_second=None, max_concurrent=None)
        responses = await asyncio.gather(*(tenant.create() for _ in range(10) for tenant in (paced, free)))
        assert statuses(responses[::2]) == [201] * 2 + [503] * 8
        assert statuses(responses[1::2]) == [201] * 10
        assert (await slots(gateway, account_id), await in_use(gateway, account_id)) == ([], 0)


async def test_a_pace_that_any_process_sets_or_removes_is_heeded_by_every_api(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
        await gateway.database.fetch("INSERT INTO pace (subject_id, calls_per_second) VALUES ($1, 0.0001)", account_id)
        async with asyncio.timeout(60):
            while (await tenant.create()).status_code == 201:
                await asyncio.sleep(0.01)
            await gateway.database.fetch("DELETE FROM pace WHERE subject_id = $1", account_id)
            while (await tenant.create()).status_code == 503:
                await asyncio.sleep(0.01)


async def test_twilios_paths_answer_as_twilio_throttles(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await set_pace(gateway, tenant, calls_per_second="1", burst=1, next_at=datetime.now(UTC) + timedelta(minutes=1))
        form = {"To": BASIC_CALL["to"], "From": BASIC_CALL["from"], "Url": BASIC_CALL["url"]}
        response = await tenant.http.post(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json", data=form)
        assert (response.status_code, response.json()["code"]) == (429, 20429)
        assert "may place 1 call per second" in response.json()["message"]
        assert int(response.headers["Retry-After"]) > 0
        assert not upstream.posts
