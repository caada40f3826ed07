"""Fixtures: one simulator for all tests of this package."""

from collections.abc import Iterator

import httpx
import pytest

from simulator.config import SimulatorConfig
from tests.simulator.running import OPEN_SID, REGISTERED, START, ManualClock, Running, plain_client, serve


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    clock = ManualClock()
    with serve(SimulatorConfig(open_mode=True, accounts=(REGISTERED,), clock=clock)) as url:
        yield Running(url, clock)


@pytest.fixture
def simulator(running: Running) -> Running:
    running.clock.now = START
    with plain_client(running.url) as client:
        client.post("/_simulator/reset").raise_for_status()
    return running


@pytest.fixture
def calls(simulator: Running) -> Iterator[httpx.Client]:
    """A client of an account that the simulator accepts without configuration, with any password."""
    with simulator.client(OPEN_SID, "any") as client:
        yield client


@pytest.fixture
def control(simulator: Running) -> Iterator[httpx.Client]:
    with plain_client(f"{simulator.url}/_simulator") as client:
        yield client
