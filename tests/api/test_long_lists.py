"""Long lists of calls and events are complete, in order, and do not block other requests."""

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.calls.repository import CallFilter, add_event
from app.calls.service import CallService
from app.errors import Overloaded
from app.http.concurrency import ConcurrencyLimit
from app.tenants.caller import command_caller
from tests.support.clients import TIMEOUT_S, http_client
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream

CALLS = 1000
_COPIES = """
    INSERT INTO call (id, tenant_id, account_id, created_at, execution, settled_by, settled_at, pending_since, fingerprint,
        parameters, "to", "from", sid, account_sid, status, resource, subresource_uris)
    SELECT given.id, tenant_id, account_id, created_at, execution, settled_by, settled_at, pending_since, fingerprint,
        parameters, "to", "from", given.sid, account_sid, status, resource, subresource_uris
    FROM call, unnest(CAST(:ids AS uuid[]), CAST(:sids AS text[])) AS given (id, sid) WHERE call.id = :first
"""


@pytest.fixture(scope="module")
async def tenant(gateway: Gateway) -> Tenant:
    """A tenant with CALLS started calls."""
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = (await tenant.create()).json()["id"]
    ids = [uuid7() for _ in range(CALLS - 1)]
    async with gateway.database.begin() as session:
        values = {"ids": ids, "sids": [f"CA{call_id.hex}" for call_id in ids], "first": UUID(first)}
        await session.execute(text(_COPIES), values)
    return tenant


def _twilios(tenant: Tenant, query: str) -> str:
    return f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json?{query}"


async def test_a_page_of_a_thousand_is_complete_and_in_order(gateway: Gateway, tenant: Tenant) -> None:
    whole = await tenant.http.get(_twilios(tenant, "PageSize=1000"))
    assert (whole.status_code, whole.headers["content-type"]) == (200, "application/json")
    assert "content-length" not in whole.headers
    page = whole.json()
    assert page.keys() == {
        *("calls", "end", "first_page_uri", "next_page_uri", "page", "page_size", "previous_page_uri", "start", "uri")
    }
    assert (page["start"], page["end"], page["next_page_uri"], page["previous_page_uri"]) == (0, 999, None, None)
    async with gateway.database.begin() as session:
        statement = text("SELECT sid FROM call WHERE tenant_id = :tenant ORDER BY id DESC")
        sids = list(await session.scalars(statement, {"tenant": tenant.id}))
    assert [call["sid"] for call in page["calls"]] == sids
    parts, uri = [], _twilios(tenant, "PageSize=350")
    while uri:
        part = (await tenant.http.get(uri)).json()
        parts.append(part)
        uri = part["next_page_uri"]
    assert [call for part in parts for call in part["calls"]] == page["calls"]
    assert (await tenant.http.get(parts[-1]["previous_page_uri"])).json()["calls"] == parts[-2]["calls"]


async def test_records_of_a_long_list_equal_the_single_records(tenant: Tenant) -> None:
    listed = (await tenant.http.get("/v1/calls", params={"limit": 200})).json()
    assert len(listed["calls"]) == 200
    assert listed["next_cursor"]
    for call in listed["calls"][:1] + listed["calls"][-1:]:
        record = (await tenant.http.get(f"/v1/calls/{call['id']}")).json()
        del record["resource"]
        assert call == record


async def test_many_events_of_a_call_are_complete_and_in_order(gateway: Gateway, tenant: Tenant) -> None:
    (call,) = (await tenant.http.get("/v1/calls", params={"limit": 1})).json()["calls"]
    async with gateway.database.begin() as session:
        # Groups of events have the same time, also across the boundary of two chunks.
        await session.execute(
            text("""
                INSERT INTO call_event (id, call_id, at, type, data)
                SELECT gen_random_uuid(), :call, now() + number / 7 * interval '1 ms', 'call.callback',
                    jsonb_build_object('number', number) FROM generate_series(0, 249) AS number
            """),
            {"call": UUID(call["id"])},
        )
    events = await tenant.events(call["id"])
    assert sorted(event["data"]["number"] for event in events) == list(range(250))
    assert [(event["at"], event["id"]) for event in events] == sorted((event["at"], event["id"]) for event in events)


@pytest.mark.parametrize("rows", ["calls", "events"])
async def test_the_wait_for_the_second_chunk_is_limited_and_that_for_the_third_is_not(
    gateway: Gateway, tenant: Tenant, rows: str
) -> None:
    """`list_response` reads two chunks before the response starts."""
    limit, caller = ConcurrencyLimit(per_process=1, per_tenant=1, max_wait_s=0.02), command_caller(tenant.id, suspended=False)
    service = CallService(gateway.database, limit)
    call_ids, _ = await service.list_call_ids(caller, CallFilter(), limit=150)
    async with gateway.database.begin() as session:
        for number in range(150 if rows == "events" else 0):
            await add_event(session, call_ids[-1], "call.callback", {"number": number})

    def chunks() -> AsyncIterator[bytes]:
        if rows == "calls":
            return service.render_calls(caller, call_ids, ["id"], lambda _: b"1")
        return service.render_events(caller, call_ids[-1], lambda _: b"1")

    refused, endless = chunks(), chunks()
    await anext(refused)
    await anext(endless)
    await anext(endless)
    async with limit.admit_request(tenant.id):
        with pytest.raises(Overloaded):
            await asyncio.wait_for(anext(refused), TIMEOUT_S)
        third = asyncio.ensure_future(anext(endless))
        await asyncio.sleep(0.1)
        assert not third.done()
    assert await third


@pytest.mark.parametrize("path", ["Twilio's", "/v1/calls?limit=200"])
async def test_a_long_list_does_not_block_the_event_loop(tenant: Tenant, path: str) -> None:
    """Measures the CPU time of this thread, which also runs the gateway. So other load on the machine does not count."""
    path = _twilios(tenant, "PageSize=1000") if path == "Twilio's" else path
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    async def ask() -> None:
        # Without an HTTP client, because parsing the response would count too.
        reader, writer = await asyncio.open_connection(tenant.http.base_url.host, tenant.http.base_url.port)
        writer.write(_request(tenant, path))
        while await reader.read(65536):
            pass
        writer.close()

    await ask()  # warm-up
    gc.collect()
    gc.disable()  # a collection visits the objects of all tests of this process, which takes long
    try:
        began = time.thread_time()
        watching = asyncio.create_task(watch())
        await ask()
        watching.cancel()
    finally:
        gc.enable()
    assert longest < (time.thread_time() - began) / 4


def _request(tenant: Tenant, path: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {tenant.key}", "Connection: close", "", "")
    return "\r\n".join(lines).encode()


async def test_a_client_that_does_not_read_its_list_blocks_no_other_list(tenant: Tenant) -> None:
    url = tenant.http.base_url
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((url.host, url.port))
        silent.sendall(_request(tenant, _twilios(tenant, "PageSize=1000")))
        await asyncio.sleep(1)
        async with http_client(base_url=url, headers=tenant.http.headers) as http:
            assert (await http.get("/v1/calls", params={"limit": 200})).status_code == 200
        received = b""
        silent.setblocking(False)
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(silent, 2**20):
            received += chunk
    # The slow client still gets its whole list.
    assert received.endswith(b"0\r\n\r\n")
    assert received.count(b'"phone_number_sid"') == CALLS
