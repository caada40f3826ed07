"""Fixtures: a gateway in front of a simulator, and Twilio's unmodified SDKs with the gateway as base URL."""

from collections.abc import AsyncIterator

import pytest

from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.twilio_sdk import SdkClients


@pytest.fixture(scope="module")
async def simulator_url() -> AsyncIterator[str]:
    async with running_app(create_app(SimulatorConfig(open_mode=True))) as url:
        yield url


@pytest.fixture(scope="module")
async def fast_simulator_url() -> AsyncIterator[str]:
    """A simulator whose calls take a fraction of a second."""
    async with running_app(create_app(SimulatorConfig(open_mode=True, speed=100))) as url:
        yield url


@pytest.fixture
async def tenant(gateway: Gateway, simulator_url: str) -> Tenant:
    return await gateway.add_tenant(simulator_url)


@pytest.fixture
async def sdk(gateway: Gateway, tenant: Tenant) -> AsyncIterator[SdkClients]:
    async with SdkClients.opened(gateway.url, tenant.account_sid, tenant.key) as sdk:
        yield sdk
