"""No request is sent to Twilio once the time budget of the creation is used up, even if the process was suspended."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from app.jobs.worker import run_worker
from app.observability import Metrics
from app.settings import Settings
from tests.cli.running import Process, environment, eventually, free_port, is_listening, running
from tests.support.gateway import BASIC_CALL, SECRET_KEY, running_gateway, settings_for
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.upstream import created, running_upstream

TIMEOUT_S = 60
TIMES: dict[str, Any] = {
    "twilio_connect_timeout": 0.3,
    "twilio_read_timeout": 0.4,
    "twilio_pool_timeout": 0.3,
    "request_budget": 1.5,
    "abandon_margin": 0.5,
    "worker_poll_interval": 0.1,
}
GATE = 4711


def patient_settings(database_url: str) -> Settings:
    """Settings for requests that must succeed on a slow machine too."""
    return settings_for(database_url, twilio_read_timeout=20, request_budget=90)


@asynccontextmanager
async def held_intents(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Makes every insert of a call wait until the block ends. Yields the session that holds the lock."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        await connection.execute(f"""
            CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$;
            CREATE TRIGGER gate BEFORE INSERT ON call FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
        """)
        await connection.execute(f"SELECT pg_advisory_lock({GATE})")
        yield connection
    finally:
        await connection.execute("SELECT pg_advisory_unlock_all()")
        await connection.execute("DROP FUNCTION wait_at_gate() CASCADE")
        await connection.close()


async def _until_held(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[str, Process]]:
    """Runs `callgate serve` as a separate process. Yields its URL and the process."""
    port = free_port()
    settings = {f"CALLGATE_{name.upper()}": str(value) for name, value in TIMES.items()}
    settings |= {"CALLGATE_DATABASE_URL": database_url.replace("+asyncpg", ""), "CALLGATE_SECRET_KEYS": SECRET_KEY}
    serve = running("serve", "--port", str(port), environment=environment(tmp_path, **settings), file=tmp_path / "log")
    with serve as process:
        try:
            await eventually(lambda: is_listening(port), "a listening server")
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.child.send_signal(signal.SIGCONT)


async def test_a_process_suspended_before_the_dial_does_not_dial_when_it_resumes(database_url: str, tmp_path: Path) -> None:
    settings = settings_for(database_url, **TIMES)
    async with (
        running_upstream(created()) as upstream,
        running_gateway(patient_settings(database_url)) as other,
        serving(database_url, tmp_path) as (url, process),
    ):
        tenant = await other.add_tenant(upstream.url)
        stop = asyncio.Event()
        async with httpx.AsyncClient(base_url=url, headers=tenant.http.headers, timeout=TIMEOUT_S) as http:
            async with held_intents(database_url) as gate:
                creating = asyncio.create_task(http.post("/v1/calls", json=BASIC_CALL, headers={"Idempotency-Key": "frozen"}))
                await _until_held(gate)
                process.child.send_signal(signal.SIGSTOP)
            # Not earlier: its first statements could deadlock with the changes to the table.
            worker = asyncio.create_task(run_worker(settings, Metrics(), stop))
            async with asyncio.timeout(TIMEOUT_S):
                while [call["execution"] for call in (await tenant.http.get("/v1/calls")).json()["calls"]] != ["unknown"]:
                    await asyncio.sleep(0.1)
            process.child.send_signal(signal.SIGCONT)
            response = await creating
        stop.set()
        await worker
        assert upstream.posts == [], "the record was given up"
        assert (response.status_code, response.json()["execution"]) == (503, "not_started")
        (record,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        assert (record["execution"], record["id"]) == ("not_started", response.json()["call_id"])
        again = await tenant.create("frozen")
        assert (again.status_code, again.json()["id"]) == (201, record["id"])
        assert len(upstream.posts) == 1


async def test_a_call_whose_intent_used_up_the_budget_is_not_sent(database_url: str) -> None:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        await connection.execute(f"""
            CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep({TIMES["request_budget"]}); RETURN NEW; END $$;
            CREATE TRIGGER slow BEFORE INSERT ON call FOR EACH ROW EXECUTE FUNCTION be_slow();
        """)
        async with (
            running_upstream(created()) as upstream,
            running_gateway(settings_for(database_url, **TIMES)) as gateway,
            running_gateway(patient_settings(database_url)) as patient,
        ):
            tenant = await gateway.add_tenant(upstream.url)
            response = await tenant.create("slow")
            assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:upstream-unreachable")
            assert response.json()["retry"] == {"safe": True, "same_key": True, "after_s": 1}
            assert upstream.posts == []
            await connection.execute("DROP FUNCTION be_slow() CASCADE")
            async with httpx.AsyncClient(base_url=patient.url, headers=tenant.http.headers, timeout=TIMEOUT_S) as http:
                again = await http.post("/v1/calls", json=BASIC_CALL, headers={"Idempotency-Key": "slow"})
            assert (again.status_code, again.json()["id"]) == (201, response.json()["call_id"])
            assert len(upstream.posts) == 1
    finally:
        await connection.close()
