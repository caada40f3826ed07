"""A list that is read from Twilio as a whole keeps its slot until the client has read it, so few of them are in memory."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest

from tests.support.gateway import Gateway, Tenant
from tests.support.raw import TIMEOUT_S, Connection, raw_connection, request_head
from tests.support.upstream import Upstream, answer, call_resource, running_upstream

LISTS_PER_TENANT = 4
LISTS_PER_PROCESS = 8
# More than the sockets' buffers take, so that the gateway cannot send all of it to a client that does not read.
_LONG_TEXT = "x" * (7 * 2**20)


@dataclass
class Lists:
    """The lists of one call, at an upstream whose lists are long."""

    gateway: Gateway
    tenant: Tenant
    upstream: Upstream
    path: str

    @property
    def asked(self) -> int:
        """How many lists the gateway has asked for."""
        return len(self.upstream.received) - len(self.upstream.posts)

    async def get(self) -> httpx.Response:
        return await self.tenant.http.get(self.path)

    async def unread(self, connections: AsyncExitStack) -> tuple[Connection, int]:
        """Sends a request for the list, and reads only the head of the response. Also returns the length of the body."""
        connection = await connections.enter_async_context(raw_connection(self.gateway.url))
        await connection.send(request_head("GET", self.path, f"Authorization: Bearer {self.tenant.key}"))
        response = await connection.answer(content=False)
        assert response.status == 200
        length = int(response.headers["content-length"])
        assert length > len(_LONG_TEXT)
        return connection, length


async def lists_at(gateway: Gateway, kind: str, closing: AsyncExitStack) -> Lists:
    resource = call_resource()
    sid = resource["sid"]
    member = "calls" if kind == "legs" else "recordings"
    page = {member: [{"parent_call_sid": sid, "to": _LONG_TEXT}]}
    upstream = await closing.enter_async_context(running_upstream(answer(201, resource), answer(200, page)))
    tenant = await gateway.add_tenant(upstream.url)
    record = (await tenant.create()).raise_for_status().json()
    twilios = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json?ParentCallSid={sid}"
    return Lists(gateway, tenant, upstream, twilios if kind == "legs" else f"/v1/calls/{record['id']}/recordings")


def is_overloaded(response: httpx.Response) -> bool:
    body = response.json()
    return response.status_code == 503 and ("overloaded" in body.get("type", "") or body["code"] == 20503)


@pytest.mark.parametrize("kind", ["recordings", "legs"])
async def test_a_tenant_has_only_its_share_of_lists_that_clients_do_not_read(gateway: Gateway, kind: str) -> None:
    async with AsyncExitStack() as closing:
        lists, others = await lists_at(gateway, kind, closing), await lists_at(gateway, kind, closing)
        connections = await closing.enter_async_context(AsyncExitStack())
        unread = [await lists.unread(connections) for _ in range(LISTS_PER_TENANT)]
        refused = await asyncio.gather(lists.get(), lists.get())
        assert all(is_overloaded(each) for each in refused), [each.status_code for each in refused]
        assert lists.asked == LISTS_PER_TENANT
        assert (await others.get()).status_code == 200
        connection, length = unread[0]
        async with asyncio.timeout(TIMEOUT_S):
            await connection.reader.readexactly(length)
        assert (await lists.get()).status_code == 200
        assert lists.asked == LISTS_PER_TENANT + 1


async def test_a_client_that_disconnects_frees_the_slot_of_its_list(gateway: Gateway) -> None:
    async with AsyncExitStack() as closing:
        lists = await lists_at(gateway, "recordings", closing)
        async with AsyncExitStack() as connections:
            for _ in range(LISTS_PER_TENANT):
                await lists.unread(connections)
        assert (await lists.get()).status_code == 200


async def test_a_process_has_only_a_few_lists_that_clients_do_not_read(gateway: Gateway) -> None:
    async with AsyncExitStack() as closing:
        tenants = [await lists_at(gateway, "recordings", closing) for _ in range(3)]
        async with AsyncExitStack() as connections:
            for number in range(LISTS_PER_PROCESS):
                await tenants[number // LISTS_PER_TENANT].unread(connections)
            assert is_overloaded(await tenants[2].get())
        assert (await tenants[2].get()).status_code == 200
