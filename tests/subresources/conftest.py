"""A gateway before a simulator whose calls are answered at once, and a call in progress."""

from collections.abc import AsyncIterator

import pytest

from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support.gateway import Gateway, Tenant, served
from tests.support.twilio_sdk import Sdk


@pytest.fixture(scope="module")
async def simulator_url() -> AsyncIterator[str]:
    async with served(create_app(SimulatorConfig(open_mode=True, speed=100))) as url:
        yield url


@pytest.fixture(scope="module")
async def tenant(gateway: Gateway, simulator_url: str) -> Tenant:
    return await gateway.add_tenant(simulator_url)
