"""Tests `callgate queues release`, killed with SIGKILL at each step: grants stay halted, and the next run completes it."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.jobs.lost_grants import LostGrantWatch
from tests.cli.running import environment, eventually, run, running
from tests.jobs.test_dial import record
from tests.jobs.test_release import entry, halt, is_halted
from tests.support.gateway import SECRET_KEY, Gateway
from tests.support.jobs import dial_all, running_dialer
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.upstream import Upstream, answer, created, hang, running_upstream

# A grant may be dialled for 31 seconds.
SETTINGS = {
    "CALLGATE_ABANDON_MARGIN": "1",
    "CALLGATE_REQUEST_BUDGET": "30",
    "CALLGATE_TWILIO_CONNECT_TIMEOUT": "1",
    "CALLGATE_TWILIO_READ_TIMEOUT": "10",
    "CALLGATE_TWILIO_POOL_TIMEOUT": "1",
}
STEPS = ("waiting", "first list", "second list", "settling")
OLD_HALT = "UPDATE grant_guard SET server = callgate_server() || '/' || tableoid, halted_at = now() - interval '32 s'"


@dataclass
class Twilio:
    """A behaviour that lists a call for accounts with `rang` in their path, and creates a call for each POST.

    It never answers a request with `held` in its path.
    """

    digit: str
    rang: str = ""
    held: str = ""

    async def __call__(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = upstream.received[-1]
        calls = [entry(self.digit)] if self.rang in request.path else []
        behaviour = answer(200, {"calls": calls, "next_page_uri": None}) if request.method == "GET" else created()
        if self.held and self.held in request.path:
            behaviour = hang
        await behaviour(upstream, reader, writer)


@pytest.fixture(autouse=True)
async def guarded(gateway: Gateway) -> None:
    for table in ("scheduled_dial", "grant_guard"):
        await gateway.database.fetch(f"DELETE FROM {table}")  # noqa: S608
    await LostGrantWatch(gateway.database).step()


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_release_releases_nothing_and_is_run_again(gateway: Gateway, tmp_path: Path, step: str) -> None:
    # Tests share a database, in which a sid belongs to one record.
    twilio = Twilio("cdef"[STEPS.index(step)])
    configured = environment(
        tmp_path, CALLGATE_DATABASE_URL=gateway.settings.require_database_url(), CALLGATE_SECRET_KEYS=SECRET_KEY, **SETTINGS
    )
    async with running_upstream(twilio) as upstream, running_dialer(gateway) as dialer:
        first, second = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        twilio.rang = first.account_sid
        twilio.held = {"first list": first.account_sid, "second list": second.account_sid}.get(step, "")
        rung = (await first.create(priority="normal")).json()
        waiting = (await second.create(priority="normal", to="sip:ann@example.com")).json()
        await halt(gateway)
        await gateway.database.fetch("UPDATE scheduled_dial SET not_before = now() - interval '40 s'")
        if step != "waiting":
            await gateway.database.fetch(OLD_HALT)

        async with AsyncExitStack() as held:
            if step == "settling":
                connection = await held.enter_async_context(gateway.database.transaction())
                await connection.execute("SELECT FROM scheduled_dial WHERE call_id = $1 FOR UPDATE", rung["id"])
            with running("queues", "release", environment=configured, file=tmp_path / "output") as process:
                await eventually(lambda: has_come_to(step, twilio, upstream, tmp_path / "output"), step)
                if step == "settling":
                    await waits_for_the_lock(gateway)
                assert process.end(signal.SIGKILL) == -signal.SIGKILL

        assert await is_halted(gateway)
        await dial_all(dialer)
        assert upstream.posts == []
        # What it had settled before stays settled.
        expected = "started" if step == "second list" else "scheduled"
        assert (await record(first, rung["id"]))["execution"] == expected
        await gateway.database.fetch(OLD_HALT)
        twilio.held = ""

        released = await asyncio.to_thread(run, "queues", "release", "--json", environment=configured)
        assert released.returncode == 0, released.stderr
        found: dict[str, Any] = {account["account_sid"]: account for account in json.loads(released.stdout)["accounts"]}
        assert found[second.account_sid]["waiting"] == 1
        assert (await record(first, rung["id"]))["settled_by"] == "list"
        await dial_all(dialer)
        assert [dict(post.form)["To"] for post in upstream.posts] == ["sip:ann@example.com"]
        assert (await record(second, waiting["id"]))["execution"] == "started"


def has_come_to(step: str, twilio: Twilio, upstream: Upstream, output: Path) -> bool:
    if step == "waiting":
        return "Waiting" in output.read_text()
    return any((twilio.held or twilio.rang) in each.path for each in upstream.received)


async def waits_for_the_lock(gateway: Gateway) -> None:
    async with asyncio.timeout(60):
        while not (await gateway.database.fetch(SESSION_WAITS_FOR_LOCK_SQL))[0][0]:
            await asyncio.sleep(0.02)
