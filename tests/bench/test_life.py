"""The competing service of bench/life.py follows a call from its creation to its price, and the bench counts correctly."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from bench import disk
from bench.competitors import life, life_tables
from bench.life_run import Run
from bench.subjects import CALL_BODY, libpq_url
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.proofs.balancer import free_port
from tests.proofs.receiver import Receiver, receiving
from tests.support.clients import http_client
from tests.support.gateway import running_app

ACCOUNT, TOKEN = f"AC{'0' * 32}", "token"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STATUSES = ["initiated", "ringing", "in-progress", "completed"]


@pytest.mark.parametrize("callbacks", [True, False], ids=["callbacks", "polling"])
async def test_the_competitor_delivers_and_prices_a_call(
    callbacks: bool, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, url = secrets.token_urlsafe(), libpq_url(empty_database_url)
    await asyncio.to_thread(life_tables.create_tables_and_accounts, url, {key: (ACCOUNT, TOKEN, SECRET)})
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    receiver = Receiver(secrets={"tenant": SECRET})
    async with running_app(create_simulator(SimulatorConfig(open_mode=True, speed=50)), date_header=False) as twilio:
        monkeypatch.setenv("BENCH_UPSTREAM_URL", twilio)
        async with (
            receiving(receiver),
            competitor(monkeypatch, callbacks=callbacks) as service,
            http_client(base_url=twilio) as control,
        ):
            await control.put(f"/_simulator/accounts/{ACCOUNT}", json={"auth_token": TOKEN})
            body = CALL_BODY | {"status_callback": f"{receiver.url}/json/tenant", "status_callback_event": life.EVENTS}
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "once"}
            async with http_client(base_url=service, headers=headers) as http:
                placed = (await http.post("/v1/calls", json=body)).raise_for_status().json()
            connection = await asyncpg.connect(url)
            async with asyncio.timeout(60):
                while await connection.fetchval("SELECT price FROM call") is None:
                    await asyncio.sleep(0.05)
                while callbacks and len(receiver.received) < len(STATUSES):
                    await asyncio.sleep(0.05)
            requests = (await control.get("/_simulator/requests")).json()
    assert [one.call_status for one in receiver.received] == (STATUSES if callbacks else [])
    assert all(one.is_signed and one.call_sid == placed["sid"] for one in receiver.received)
    assert await connection.fetchval("SELECT count(*) FROM event") == len(receiver.received)
    assert requests["POST Calls"] == 1
    assert requests["GET Call"] >= 1
    await connection.close()
    sizes = await asyncio.to_thread(disk.measure, url, 1000)
    assert sizes.calls == 1000
    call, left = (sum(parts["call"].values()) for parts in (sizes.copied, sizes.before_copying))
    assert 0 < call < 2000 < left
    assert 0 < sum(sizes.columns["call"].values()) < sizes.copied["call"]["rows"]


@asynccontextmanager
async def competitor(monkeypatch: pytest.MonkeyPatch, *, callbacks: bool) -> AsyncIterator[str]:
    """Runs the competing service on a port that is chosen before, because its public URL is a setting. Yields its URL."""
    port = free_port()
    monkeypatch.setenv("BENCH_PUBLIC_URL", f"http://127.0.0.1:{port}" if callbacks else "")
    async with running_app(life.create_app(), port=port) as url:
        yield url


@pytest.mark.parametrize(("later_s", "carried"), [(0.0, 10), (5.0, 5)])
def test_a_backlog_shows_in_calls_that_take_longer_the_later_they_are_placed(later_s: float, carried: float) -> None:
    run = Run("any", rate=10, callbacks=False, seconds=10)
    for number in range(100):
        run.placed[str(number)] = number / 10
        run.priced[str(number)] = number / 10 + 3 + number / 50 * later_s
    assert run.carried == pytest.approx(carried, rel=0.01)
