"""Tests a failover to a standby that lacks a grant (the right to dial a call). The call rang and is not dialled again."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.doctor.grants import check_dial_grants
from app.errors import DatabaseUnavailable
from app.jobs.dial import ScheduledCallDialer
from app.jobs.lost_grants import LostGrantWatch
from app.schema import migrate
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.cli.running import environment, run
from tests.jobs.test_dial import record
from tests.rolling.test_failover import accepted_calls, sends_nothing
from tests.scheduling.test_grant_halts import hide_server
from tests.support.gateway import SECRET_KEY, Gateway, Tenant, running_app, running_gateway, settings_for
from tests.support.jobs import dial_all, running_dialer
from tests.support.postgres_pair import PostgresPair, postgres_pair

# Keeps the wait of the release short.
SHORT = {"abandon_margin": 1}
RECOVERY_TIMEOUT_S = 10.0


@pytest.fixture
def pair() -> Iterator[PostgresPair]:
    with postgres_pair() as nodes:
        yield nodes


@asynccontextmanager
async def _running(pair: PostgresPair) -> AsyncIterator[tuple[Gateway, ScheduledCallDialer, Tenant, str]]:
    await asyncio.to_thread(migrate, pair.url)
    async with (
        running_app(create_simulator(SimulatorConfig(open_mode=True))) as simulator,
        running_gateway(settings_for(pair.url, **SHORT)) as gateway,
        running_dialer(gateway) as dialer,
    ):
        yield gateway, dialer, await gateway.add_tenant(simulator), simulator


async def _promote(pair: PostgresPair, tenant: Tenant, dialer: ScheduledCallDialer) -> None:
    await pair.standby.execute("SELECT pg_promote()")
    await reconnected(tenant, dialer, within_s=RECOVERY_TIMEOUT_S)


async def reconnected(tenant: Tenant, dialer: ScheduledCallDialer, *, within_s: float) -> None:
    """Returns when the API and the worker have new database connections. Raises TimeoutError after `within_s` seconds."""
    async with asyncio.timeout(within_s):
        while (await tenant.http.get("/v1/calls")).status_code != 200:
            await asyncio.sleep(0.05)
        while True:
            try:
                await dial_all(dialer)
            except DatabaseUnavailable:
                await asyncio.sleep(0.05)
                continue
            return


async def _queue(tenant: Tenant, name: str, **settings: Any) -> dict[str, Any]:
    shown: dict[str, Any] = (await tenant.http.put(f"/v1/queues/{name}", json=settings)).raise_for_status().json()
    return shown


async def test_a_call_whose_grant_was_lost_is_not_dialled_again(pair: PostgresPair, tmp_path: Path) -> None:
    async with _running(pair) as (gateway, dialer, tenant, simulator):
        await LostGrantWatch(gateway.database).step()
        await _queue(tenant, "morning")
        await _queue(tenant, "later", paused=True)
        rung = (await tenant.create(queue="morning", to="sip:rung@example.com")).json()
        waiting = (await tenant.create(queue="later", to="sip:waiting@example.com")).json()
        expiring = (await tenant.create(queue="later", to="sip:expiring@example.com")).json()
        async with sends_nothing(pair.primary):
            await dial_all(dialer)
            assert (await record(tenant, rung["id"]))["execution"] == "started"
            assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}
            pair.primary.kill()
        await _promote(pair, tenant, dialer)

        assert (await record(tenant, rung["id"]))["execution"] == "scheduled", "its grant is lost"
        await _queue(tenant, "later", paused=False)
        await dial_all(dialer)
        assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}
        shown = (await tenant.http.get("/v1/queues/morning")).json()
        assert shown["wait_reason"] == "halted"

        # Deadlines go on, and calls can be canceled.
        await gateway.database.fetch(
            "UPDATE scheduled_dial SET not_before = to_timestamp(0), ring_by = now() WHERE call_id = $1", expiring["id"]
        )
        await dial_all(dialer)
        assert (await record(tenant, expiring["id"]))["settled_by"] == "expired"
        extra = (await tenant.create(queue="later", to="sip:extra@example.com")).json()
        canceled = await tenant.http.patch(f"/v1/calls/{extra['id']}", json={"status": "canceled"})
        assert canceled.json()["settled_by"] == "canceled"

        configured = environment(
            tmp_path,
            CALLGATE_DATABASE_URL=pair.url,
            CALLGATE_SECRET_KEYS=SECRET_KEY,
            CALLGATE_ABANDON_MARGIN="1",
            CALLGATE_REQUEST_BUDGET="4",
            CALLGATE_TWILIO_CONNECT_TIMEOUT="1",
            CALLGATE_TWILIO_READ_TIMEOUT="1",
            CALLGATE_TWILIO_POOL_TIMEOUT="1",
        )
        dry = await asyncio.to_thread(run, "queues", "release", "--dry-run", "--json", environment=configured)
        found = {"account_sid": tenant.account_sid, "bound": 1, "unknown": 0, "waiting": 1}
        assert (dry.returncode, json.loads(dry.stdout)["accounts"]) == (0, [found]), dry.stderr
        await dial_all(dialer)
        assert (await record(tenant, rung["id"]))["execution"] == "scheduled"
        assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}

        released = await asyncio.to_thread(run, "queues", "release", "--json", environment=configured)
        assert (released.returncode, json.loads(released.stdout)["accounts"]) == (0, [found]), released.stderr
        bound = await record(tenant, rung["id"])
        assert (bound["execution"], bound["settled_by"]) == ("started", "list")
        await dial_all(dialer)
        assert await accepted_calls(simulator) == {"sip:rung@example.com": 1, "sip:waiting@example.com": 1}
        assert (await record(tenant, waiting["id"]))["execution"] == "started"
        again = await asyncio.to_thread(run, "queues", "release", environment=configured)
        assert (again.returncode, again.stdout) == (0, "Scheduled calls are not halted: there is nothing to release.\n")


async def test_a_failover_is_noticed_where_postgres_hides_which_server_it_is(pair: PostgresPair) -> None:
    async with _running(pair) as (gateway, dialer, tenant, simulator):
        await hide_server(gateway)
        await LostGrantWatch(gateway.database).step()
        rung = (await tenant.create(priority="normal", to="sip:rung@example.com")).json()
        async with sends_nothing(pair.primary):
            await dial_all(dialer)
            assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}
            pair.primary.kill()
        # A new worker, which has seen none of it.
        async with running_dialer(gateway) as other:
            await _promote(pair, tenant, other)
            assert (await record(tenant, rung["id"]))["execution"] == "scheduled", "its grant is lost"
            await dial_all(other)
        assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}
        found = await check_dial_grants(gateway.database)
        assert (found.state, found.found.rpartition(": ")[2]) == ("wrong", "it is another server, or another database")


async def test_a_failover_while_no_call_waits_halts_nothing(pair: PostgresPair) -> None:
    async with _running(pair) as (gateway, dialer, tenant, simulator):
        await LostGrantWatch(gateway.database).step()
        async with sends_nothing(pair.primary):
            pair.primary.kill()
        await _promote(pair, tenant, dialer)
        await LostGrantWatch(gateway.database).step()
        await tenant.create(priority="normal", to="sip:new@example.com")
        await dial_all(dialer)
        assert await accepted_calls(simulator) == {"sip:new@example.com": 1}
