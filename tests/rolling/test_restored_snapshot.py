"""Tests a restored snapshot of Postgres's data folder, which has the identity of the server and lacks a call that rang."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from app.audit.events import command_actor
from app.doctor.grants import check_dial_grants
from app.jobs.lost_grants import LostGrantWatch
from app.jobs.release.service import GrantReleaseCommand
from app.local.postgres import remove_postgres_data
from app.observability import Metrics
from app.scheduling.grant_counters import KnownGrantCounts
from app.scheduling.grant_halts import read_grant_halt_state
from app.schema import migrate
from app.services import open_services
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.jobs.test_dial import record
from tests.rolling.test_failover import accepted_calls
from tests.rolling.test_lost_grants import reconnected
from tests.support.gateway import Gateway, Tenant, running_app, running_gateway, settings_for
from tests.support.jobs import dial_all, running_dialer
from tests.support.postgres_pair import PostgresServer

RECOVERY_TIMEOUT_S = 20.0


class SnapshotNode(PostgresServer):
    """A server whose data folder can be copied and put back while it does not run."""

    def save(self) -> None:
        self.stop()
        subprocess.run(["cp", "-a", self._home / "data", self._home / "saved"], check=True)
        self.start()

    def restore(self) -> None:
        self.stop()
        shutil.rmtree(self._home / "data")
        (self._home / "saved").rename(self._home / "data")
        self.start()


@pytest.fixture
def node() -> Iterator[SnapshotNode]:
    directory = Path(tempfile.mkdtemp(prefix="callgate-snapshot-"))
    directory.chmod(0o755)  # root's Postgres runs as the user nobody
    try:
        with SnapshotNode(directory) as running:
            yield running
    finally:
        remove_postgres_data(directory)
        shutil.rmtree(directory)


@asynccontextmanager
async def running(node: SnapshotNode) -> AsyncIterator[tuple[Gateway, Tenant, str]]:
    await asyncio.to_thread(migrate, node.url)
    async with (
        running_app(create_simulator(SimulatorConfig(open_mode=True))) as simulator,
        running_gateway(settings_for(node.url)) as gateway,
    ):
        yield gateway, await gateway.add_tenant(simulator), simulator


async def release(gateway: Gateway) -> None:
    async with open_services(gateway.settings, Metrics()) as state:
        grants = GrantReleaseCommand(
            state["database"], state["directory"], state["twilio"], state["settlement"], timedelta(seconds=1), deadline_s=2
        )
        await grants.run(command_actor(), skipped_account_sids=[], is_dry_run=False, on_wait=lambda _: None)


@pytest.mark.parametrize("witness", ["memory", "folder"])
async def test_a_worker_that_knows_of_more_grants_halts_them(node: SnapshotNode, tmp_path: Path, witness: str) -> None:
    folder = tmp_path if witness == "folder" else None
    counters = KnownGrantCounts(folder)
    async with running(node) as (gateway, tenant, simulator):
        await LostGrantWatch(gateway.database).step()
        rung = (await tenant.create(priority="normal", to="sip:rung@example.com")).json()
        (row,) = await gateway.database.fetch("SELECT clock_timestamp() AS at")
        async with running_dialer(gateway, counters) as dialer:
            node.save()
            await reconnected(tenant, dialer, within_s=RECOVERY_TIMEOUT_S)
            assert (await record(tenant, rung["id"]))["execution"] == "started"
            assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}
            # With the folder, another worker that did not run at the time halts grants.
            if folder:
                counters = KnownGrantCounts(folder)
            node.restore()
            async with running_dialer(gateway, counters) as after:
                await reconnected(tenant, after, within_s=RECOVERY_TIMEOUT_S)
                assert (await record(tenant, rung["id"]))["execution"] == "scheduled", "its grant is lost"
                await LostGrantWatch(gateway.database, counters).step()
                await dial_all(after)
                assert await accepted_calls(simulator) == {"sip:rung@example.com": 1}
                guard = await read_grant_halt_state(gateway.database)
                assert guard is not None
                assert (guard.may_grant, guard.halt_reason, guard.server) == (False, "counter", guard.current_server)
                # The search begins before the lost grant.
                assert guard.seen_at <= row["at"]
                assert "fewer grants than a worker knows of" in (await check_dial_grants(gateway.database)).found

                await release(gateway)
                bound = await record(tenant, rung["id"])
                assert (bound["execution"], bound["settled_by"]) == ("started", "list")
                # Counts that the worker has from before the release must not halt grants again.
                await tenant.create(priority="normal", to="sip:new@example.com")
                await LostGrantWatch(gateway.database, counters).step()
                await dial_all(after)
                assert await accepted_calls(simulator) == {"sip:rung@example.com": 1, "sip:new@example.com": 1}


async def test_the_guard_halts_before_it_takes_a_restored_database_for_the_present_one(
    node: SnapshotNode, tmp_path: Path
) -> None:
    async with running(node) as (gateway, tenant, _):
        await tenant.create(priority="normal", to="sip:rung@example.com")
        async with running_dialer(gateway, KnownGrantCounts(tmp_path)) as dialer:
            await LostGrantWatch(gateway.database).step()
            seen_at = await seen(gateway)
            node.save()
            await reconnected(tenant, dialer, within_s=RECOVERY_TIMEOUT_S)
            node.restore()
            await reconnected(tenant, dialer, within_s=RECOVERY_TIMEOUT_S)
        assert await seen(gateway) <= seen_at
        await gateway.database.fetch("UPDATE grant_guard SET halted_at = NULL")
        await LostGrantWatch(gateway.database, KnownGrantCounts(tmp_path)).step()
        guard = await read_grant_halt_state(gateway.database)
        assert guard is not None
        assert (guard.may_grant, guard.seen_at <= seen_at) == (False, True)


async def seen(gateway: Gateway) -> datetime:
    guard = await read_grant_halt_state(gateway.database)
    assert guard is not None
    return guard.seen_at


async def test_a_lower_count_is_accepted_while_no_call_waits(node: SnapshotNode, tmp_path: Path) -> None:
    counters = KnownGrantCounts(tmp_path)
    async with running(node) as (gateway, tenant, simulator):
        async with running_dialer(gateway, counters) as dialer:
            node.save()
            await tenant_is_back(tenant)
            await tenant.create(priority="normal", to="sip:rung@example.com")
            await reconnected(tenant, dialer, within_s=RECOVERY_TIMEOUT_S)
            node.restore()
            await tenant_is_back(tenant)
            await LostGrantWatch(gateway.database, counters).step()
            await tenant.create(priority="normal", to="sip:new@example.com")
            await reconnected(tenant, dialer, within_s=RECOVERY_TIMEOUT_S)
        assert await accepted_calls(simulator) == {"sip:rung@example.com": 1, "sip:new@example.com": 1}


async def tenant_is_back(tenant: Tenant) -> None:
    async with asyncio.timeout(RECOVERY_TIMEOUT_S):
        while (await tenant.http.get("/v1/calls")).status_code != 200:
            await asyncio.sleep(0.05)
