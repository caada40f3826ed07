"""Tests that a request counts as a creation in progress only after its body has arrived, and that bodies have a timeout."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.raw import TIMEOUT_S, raw_connection, request_head
from tests.support.upstream import Upstream

BODY = json.dumps(BASIC_CALL).encode()
JSON = ("Content-Type: application/json", f"Content-Length: {len(BODY)}")


@pytest.fixture(scope="module")
async def quick_timeouts(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, body_timeout=0.5)) as running:
        yield running


@pytest.fixture(scope="module")
async def small(database_url: str) -> AsyncIterator[Gateway]:
    """A gateway that allows five creations at a time. Its timeout for request bodies is longer than any of these tests."""
    async with running_gateway(settings_for(database_url, max_in_flight=5, body_timeout=120)) as running:
        yield running


def authorized(tenant: Tenant) -> str:
    return f"Authorization: Bearer {tenant.key}"


@pytest.mark.parametrize("path", ["/v1/calls", "/2010-04-01/Accounts/{sid}/Calls.json"])
@pytest.mark.parametrize("known", [True, False], ids=["with a key", "without"])
async def test_bodies_that_do_not_arrive_block_no_other_tenants_creations(
    small: Gateway, upstream: Upstream, path: str, known: bool
) -> None:
    slow, other = await small.add_tenant(upstream.url), await small.add_tenant(upstream.url)
    lines = [*JSON, *([authorized(slow)] if known else [])]
    async with AsyncExitStack() as opened:
        for _ in range(200):
            connection = await opened.enter_async_context(raw_connection(small.url))
            await connection.send(request_head("POST", path.format(sid=slow.account_sid), *lines) + b"{")
        await asyncio.sleep(0.2)
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(10):
                assert (await other.create()).status_code == 201


async def test_requests_without_a_valid_key_use_no_slots(small: Gateway, upstream: Upstream) -> None:
    tenant = await small.add_tenant(upstream.url)
    async with AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(raw_connection(small.url)) for _ in range(50)]
        for number, connection in enumerate(connections):
            await connection.send(request_head("POST", "/v1/calls", *JSON, f"Authorization: Bearer cgk_{number:040d}") + BODY)
        assert (await tenant.create()).status_code == 201
        assert {(await connection.answer()).status for connection in connections} == {401}


@pytest.mark.parametrize("begun", [b"", BODY[:1], BODY[:-1]])
async def test_a_body_that_does_not_arrive_is_408_and_closes_the_connection(
    quick_timeouts: Gateway, upstream: Upstream, begun: bytes
) -> None:
    tenant = await quick_timeouts.add_tenant(upstream.url)
    async with raw_connection(quick_timeouts.url) as connection:
        await connection.send(request_head("POST", "/v1/calls", *JSON, authorized(tenant), "X-Request-Id: mine") + begun)
        answer = await connection.answer()
        assert (answer.status, answer.slug, answer.headers["connection"]) == (408, "request-timeout", "close")
        assert answer.problem["execution"] == "not_started"
        assert answer.problem["retry"] == {"safe": True, "same_key": True, "after_s": None}
        assert answer.problem["request_id"] == "mine"
        assert await connection.end() == b""
    assert upstream.received == []
    assert (await tenant.http.get("/v1/calls")).json()["calls"] == []


async def test_a_slowly_sent_chunked_body_does_not_extend_the_deadline(quick_timeouts: Gateway, upstream: Upstream) -> None:
    tenant = await quick_timeouts.add_tenant(upstream.url)
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", authorized(tenant), "Idempotency-Key: k")
    async with raw_connection(quick_timeouts.url) as connection:
        sending = asyncio.create_task(
            connection.send(request_head("POST", "/v1/calls", *lines), *[b"1\r\n \r\n"] * 60, pause_s=0.2)
        )
        assert (await connection.answer()).status == 408
        assert not sending.done()
        sending.cancel()
        await asyncio.wait([sending])


async def test_a_timeout_under_twilios_paths_has_twilios_error_format(quick_timeouts: Gateway, upstream: Upstream) -> None:
    tenant = await quick_timeouts.add_tenant(upstream.url)
    form = ("Content-Type: application/x-www-form-urlencoded", "Content-Length: 50", authorized(tenant))
    async with raw_connection(quick_timeouts.url) as connection:
        await connection.send(request_head("POST", f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json", *form) + b"To=")
        answer = await connection.answer()
        assert (answer.status, answer.problem["status"], answer.problem["code"]) == (408, 408, 900011)


@pytest.mark.parametrize("sent", [b"", b"{"])
async def test_a_body_that_follows_its_error_response_has_a_deadline(
    quick_timeouts: Gateway, upstream: Upstream, sent: bytes
) -> None:
    """Checks that the connection stays usable after an early error response if the body arrives, and is closed otherwise."""
    tenant = await quick_timeouts.add_tenant(upstream.url)
    async with raw_connection(quick_timeouts.url) as connection:
        lines = ("Content-Type: application/json", "Content-Length: 70000", authorized(tenant))
        await connection.send(request_head("POST", "/v1/calls", *lines))
        assert (await connection.answer()).slug == "body-too-large"
        await connection.send(b"x" * 70_000)
        await connection.send(request_head("POST", "/v1/calls", *JSON, authorized(tenant)) + BODY)
        assert (await connection.answer()).status == 201
        await connection.send(request_head("POST", "/v1/calls", *lines) + sent)
        assert (await connection.answer()).status == 413
        assert await connection.end() == b""


async def test_a_fragmented_body_is_read_and_expect_100_continue_is_answered(small: Gateway, upstream: Upstream) -> None:
    tenant = await small.add_tenant(upstream.url)
    async with raw_connection(small.url) as connection:
        await connection.send(
            request_head("POST", "/v1/calls", *JSON, authorized(tenant)), *[bytes([byte]) for byte in BODY], pause_s=0
        )
        assert (await connection.answer()).status == 201
        await connection.send(request_head("POST", "/v1/calls", *JSON, authorized(tenant), "Expect: 100-continue"))
        assert (await connection.answer()).status == 100
        await connection.send(BODY)
        assert (await connection.answer()).status == 201
