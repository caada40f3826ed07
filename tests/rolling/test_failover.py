"""Tests a failover under load: the primary is killed, its standby promoted, nothing restarted, and no phone rings twice."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from app.errors import DatabaseUnavailable
from app.schema import migrate
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.cli.running import environment, free_port, run, running
from tests.proofs.fleet import all_records
from tests.support.clients import http_client
from tests.support.gateway import SECRET_KEY, Gateway, Tenant, running_app, running_gateway, settings_for
from tests.support.postgres_pair import PostgresPair, PostgresServer, postgres_pair
from tests.support.upstream import created, created_after_release, running_upstream

CLIENTS = 6
OUTAGE_S = 2.0
# After the promotion, as docs/operations.md promises. It takes less than a second.
RECOVERY_TIMEOUT_S = 10.0
START_TIMEOUT_S = 60.0
# Longer than the failover: the upstream answers after it.
PATIENT = {"twilio_read_timeout": 50, "request_budget": 60}


@pytest.fixture
def pair() -> Iterator[PostgresPair]:
    with postgres_pair() as nodes:
        yield nodes


@asynccontextmanager
async def _gateway(pair: PostgresPair, **settings: Any) -> AsyncIterator[Gateway]:
    await asyncio.to_thread(migrate, pair.url)
    async with running_gateway(settings_for(pair.url, **settings)) as gateway:
        yield gateway


async def _make_synchronous(pair: PostgresPair) -> None:
    await pair.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await pair.primary.execute("SELECT pg_reload_conf()")


@dataclass
class Answers:
    """The responses that clients received, with their times."""

    answers: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    # The last response for each key.
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def since(self, moment: float) -> Counter[str]:
        return Counter(f"{status} {body['execution']}" for at, status, body in self.answers if at >= moment)


@asynccontextmanager
async def _run_clients(tenant: Tenant) -> AsyncIterator[Answers]:
    """Runs clients that repeat each creation with its key while the answer's `execution` is `not_started`."""
    answers, numbers, stop = Answers(), itertools.count(), asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            key = f"call-{next(numbers)}"
            while True:
                answer = await tenant.create(key=key, to=f"sip:{key}@example.com")
                body = answer.json()
                answers.answers.append((time.monotonic(), answer.status_code, body))
                answers.records[key] = body
                if answer.is_success or stop.is_set():
                    break
                await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
        try:
            yield answers
        finally:
            stop.set()


async def accepted_calls(simulator: str) -> Counter[str]:
    async with http_client(base_url=simulator) as http:
        entries = (await http.get("/_simulator/ledger")).raise_for_status().json()["entries"]
    return Counter(entry["to"] for entry in entries if entry["accepted"])


async def _wait_for(what: str, timeout_s: float, condition: Any) -> float:
    """Waits until the condition is true. Returns how many seconds this took."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < timeout_s, f"timed out: {what}"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_creations_and_worker_recover_at_the_promoted_standby(
    pair: PostgresPair, tmp_path: Path, record_property: Any
) -> None:
    async with running_app(create_simulator(SimulatorConfig(open_mode=True, speed=20))) as simulator, _gateway(pair) as gateway:
        await _make_synchronous(pair)
        tenant = await gateway.add_tenant(simulator)
        metrics_port = free_port()
        configured = environment(
            tmp_path, CALLGATE_DATABASE_URL=pair.url, CALLGATE_SECRET_KEYS=SECRET_KEY, CALLGATE_WORKER_POLL_INTERVAL="0.5"
        )
        worker_options = ("worker", "--ops-port", str(metrics_port))
        with running(*worker_options, environment=configured, file=tmp_path / "worker") as worker:
            async with _run_clients(tenant) as answers:

                async def started_since(moment: float) -> bool:
                    return answers.since(moment)["201 started"] > CLIENTS

                async def worker_is_ready() -> bool:
                    with contextlib.suppress(httpx.HTTPError):
                        async with http_client() as http:
                            return (await http.get(f"http://127.0.0.1:{metrics_port}/readyz")).is_success
                    return False

                await _wait_for("creations", START_TIMEOUT_S, lambda: started_since(0))
                await _wait_for("the worker", START_TIMEOUT_S, worker_is_ready)
                pair.primary.kill()
                killed = time.monotonic()
                await asyncio.sleep(OUTAGE_S)
                before = dict(answers.records)
                during = answers.since(killed + 1)
                promoted = time.monotonic()
                await pair.standby.execute("SELECT pg_promote()")
                took = await _wait_for("creations", RECOVERY_TIMEOUT_S, lambda: started_since(promoted))
                worker_took = took + await _wait_for("the worker", RECOVERY_TIMEOUT_S, worker_is_ready)
            assert worker.child.poll() is None
            # In a thread, because the worker may be calling the simulator, which runs in this process.
            await asyncio.to_thread(worker.end, signal.SIGTERM)
        assert set(during) <= {"503 not_started", "202 unknown"}, during
        assert during["503 not_started"] > 0
        accepted = await accepted_calls(simulator)
        assert max(accepted.values()) == 1
        kept = {record["id"]: record for record in await all_records(tenant.http)}
        started = [record for record in before.values() if record["execution"] == "started"]
        assert [kept[record["id"]]["sid"] for record in started] == [record["sid"] for record in started]
        record_property("output", f"recovered after {took:.1f} s, worker {worker_took:.1f} s; {answers.since(killed)}")


async def test_notifications_arrive_from_the_promoted_standby(pair: PostgresPair, tmp_path: Path) -> None:
    async with _gateway(pair) as gateway:
        await _make_synchronous(pair)
        tenant = await gateway.add_tenant()

        async def answers(status: int) -> bool:
            return (await tenant.http.get("/v1/calls")).status_code == status

        async def set_without_notification(state: str) -> None:
            """Updates the key without the trigger that sends notifications."""
            with contextlib.suppress(DatabaseUnavailable):
                await gateway.database.ping()  # replaces connections to the old primary
            async with gateway.database.begin() as session:
                await session.execute(text("SET LOCAL session_replication_role = replica"))
                await session.execute(text(f"UPDATE api_key SET revoked_at = {state}"))  # noqa: S608

        async def is_key_cached() -> bool:
            """Returns whether the process caches the key, which it does only while the listener is connected."""
            await set_without_notification("NULL")
            await answers(200)
            await set_without_notification("now()")
            return await answers(200)

        await _wait_for("a listener", START_TIMEOUT_S, is_key_cached)
        pair.primary.kill()
        await _wait_for("the loss", RECOVERY_TIMEOUT_S, lambda: answers(503))
        await pair.standby.execute("SELECT pg_promote()")
        await _wait_for("the database", RECOVERY_TIMEOUT_S, lambda: answers(401))
        await _wait_for("a listener", RECOVERY_TIMEOUT_S, is_key_cached)
        configured = environment(tmp_path, CALLGATE_DATABASE_URL=pair.url, CALLGATE_SECRET_KEYS=SECRET_KEY)
        await set_without_notification("NULL")
        assert await answers(200)
        (key,) = await gateway.tenants.list_keys(tenant.id)
        revoked = await asyncio.to_thread(run, "keys", "revoke", key.prefix, environment=configured)
        assert revoked.returncode == 0, revoked.stderr
        await _wait_for("the change", RECOVERY_TIMEOUT_S, lambda: answers(401))


@contextlib.asynccontextmanager
async def sends_nothing(primary: PostgresServer) -> AsyncIterator[None]:
    """Stops the replication for the block, after the standby has received all data."""
    connection = await asyncpg.connect(primary.url.replace("+asyncpg", ""))
    caught_up = "SELECT bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication"
    await _wait_for("the standby", START_TIMEOUT_S, lambda: connection.fetchval(caught_up))
    sender = await connection.fetchval("SELECT pid FROM pg_stat_replication")
    await connection.close()
    os.kill(sender, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(sender, signal.SIGKILL)  # while it is stopped, it does not notice that its server has gone


async def test_what_an_asynchronous_standby_had_not_is_lost_as_the_assumptions_say(
    pair: PostgresPair, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checks what docs/assumptions.md says: records that only the old primary had are lost, and their keys ring again."""
    async with (
        _gateway(pair, **PATIENT) as gateway,
        running_upstream(created(), created(), created_after_release(), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        kept = (await tenant.create("kept")).json()
        async with sends_nothing(pair.primary):
            lost = (await tenant.create("lost")).json()
            assert lost["execution"] == "started"
            dialling = asyncio.create_task(tenant.create("dialled"))
            async with asyncio.timeout(START_TIMEOUT_S):
                while len(upstream.posts) < 3:
                    await asyncio.sleep(0.01)
            pair.primary.kill()
        await pair.standby.execute("SELECT pg_promote()")

        async def shown(record: dict[str, Any]) -> int:
            return (await tenant.http.get(f"/v1/calls/{record['id']}")).status_code

        async def has_recovered() -> bool:
            return await shown(kept) == 200

        await _wait_for("the database", RECOVERY_TIMEOUT_S, has_recovered)
        assert await shown(lost) == 404
        replayed = await tenant.create("kept")
        assert (replayed.status_code, replayed.json()["sid"]) == (200, kept["sid"])
        rung_again = await tenant.create("lost")
        assert rung_again.status_code == 201
        assert rung_again.json()["id"] != lost["id"]
        upstream.released.set()
        dialled = await dialling
        assert (dialled.status_code, await shown(dialled.json())) == (201, 200)
        again = await tenant.create("dialled")
        assert (again.status_code, again.json()["id"]) == (200, dialled.json()["id"])
        assert len(upstream.posts) == 4
    assert capsys.readouterr().out.count("record_lost") == 1
