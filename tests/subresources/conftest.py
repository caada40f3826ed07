"""A gateway with a simulator whose calls are answered at once, and a call in progress."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.twilio_sdk import SdkClients


@dataclass(frozen=True)
class LiveCall:
    id: str
    sid: str
    tenant: Tenant
    simulator_url: str

    @property
    def uri(self) -> str:
        return f"/2010-04-01/Accounts/{self.tenant.account_sid}/Calls/{self.sid}"

    async def add_notification(self, **fields: str) -> str:
        async with http_client(base_url=self.simulator_url) as http:
            answer = await http.post(f"/_simulator/calls/{self.sid}/notifications", json=fields)
        sid: str = answer.raise_for_status().json()["sid"]
        return sid

    async def events(self, noun: str) -> list[dict[str, Any]]:
        return [event["data"] for event in await self.tenant.events(self.id) if event["type"] == f"call.{noun}"]


@pytest.fixture(scope="module")
async def simulator_url() -> AsyncIterator[str]:
    async with running_app(create_app(SimulatorConfig(open_mode=True, speed=100))) as url:
        yield url


@pytest.fixture(scope="module")
async def tenant(gateway: Gateway, simulator_url: str) -> Tenant:
    return await gateway.add_tenant(simulator_url)


@pytest.fixture
async def call(tenant: Tenant, simulator_url: str) -> LiveCall:
    """A call in progress that does not end by itself."""
    record = (await tenant.create(to="sip:forever@example.com")).json()
    call = LiveCall(record["id"], record["sid"], tenant, simulator_url)
    async with http_client(base_url=simulator_url, auth=(tenant.account_sid, "any")) as http, asyncio.timeout(30):
        while (await http.get(f"{call.uri}.json")).json()["status"] != "in-progress":
            await asyncio.sleep(0.02)
    return call


@pytest.fixture
async def sdk(gateway: Gateway, tenant: Tenant) -> AsyncIterator[SdkClients]:
    async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk:
        yield sdk
