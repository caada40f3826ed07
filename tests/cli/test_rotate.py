"""`callgate accounts rotate`, with real processes: nothing fails while an auth token is replaced under load."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.running import environment, eventually, failure, free_port, run, running
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, SECRET_KEY

ACCOUNT_SID = "AC" + "7" * 32
PER_SECOND = 50
MAX_IN_FLIGHT = 25  # A slow machine places fewer calls a second.
EXIT_RUN_AGAIN = 3


@dataclass
class Load:
    """Places at most PER_SECOND calls a second, and counts the answers by status. A slow machine places fewer."""

    http: httpx.AsyncClient
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    in_flight: int = 0

    async def place_many(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                if self.in_flight < MAX_IN_FLIGHT:
                    group.create_task(self._place())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1 / PER_SECOND)

    async def _place(self) -> None:
        self.in_flight += 1
        response = await self.http.post("/v1/calls", json=BASIC_CALL)
        self.in_flight -= 1
        self.answers[response.status_code] += 1
        if response.status_code != 201:
            self.failures.append(response.text)

    async def goes_on(self, count: int = 50) -> None:
        """Waits until `count` more answers have arrived, or until a creation has failed."""
        wanted = self.answers.total() + count
        await eventually(lambda: self.answers.total() >= wanted or bool(self.failures), f"{count} more answers")


@dataclass
class Installation:
    configured: dict[str, str]
    api: httpx.AsyncClient
    simulator: httpx.AsyncClient

    async def rotate(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ("accounts", "rotate", "shop", ACCOUNT_SID, *arguments)
        return await asyncio.to_thread(run, *command, environment=self.configured | variables)

    async def step(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Runs `callgate accounts rotate` once. Returns its exit code, and the step of the rotation that it waits for."""
        ran = await self.rotate("--no-wait", "--json", *arguments, **variables)
        assert ran.stdout, ran.stderr
        return ran.returncode, json.loads(ran.stdout)["step"]

    async def credentials(self) -> list[dict[str, Any]]:
        """Returns the active credentials in the order in which Callgate tries them."""
        ran = await asyncio.to_thread(run, "accounts", "list", "shop", "--json", environment=self.configured)
        rows: list[dict[str, Any]] = json.loads(ran.stdout)
        return rows

    async def at_twilio(self, primary: str, secondary: str | None = None) -> None:
        accepted = {"auth_token": primary, "secondary_auth_token": secondary}
        (await self.simulator.put(f"/accounts/{ACCOUNT_SID}", json=accepted)).raise_for_status()

    async def promote(self) -> None:
        (await self.simulator.post(f"/accounts/{ACCOUNT_SID}/promote")).raise_for_status()

    async def callbacks(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.simulator.get("/callbacks")).raise_for_status().json()
        return found

    async def until_callbacks(self, condition: Callable[[dict[str, Any]], bool], description: str) -> None:
        async with asyncio.timeout(90):
            while not condition(await self.callbacks()):
                await asyncio.sleep(0.2)


@asynccontextmanager
async def installed(database_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """Runs the simulator, the API and a worker as processes of their own, with one tenant and its account."""
    ports = {name: free_port() for name in ("api", "simulator")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    configured = environment(
        tmp_path,
        CALLGATE_DATABASE_URL=database_url,
        CALLGATE_SECRET_KEYS=SECRET_KEY,
        CALLGATE_TWILIO_BASE_URL=urls["simulator"],
        CALLGATE_PUBLIC_URL=urls["api"],
    )

    def command(*arguments: str, **variables: str) -> str:
        ran = run(*arguments, environment=configured | variables)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    command("migrate")
    command("tenants", "create", "shop", "--name", "Shop")
    command("accounts", "add", "shop", "--account-sid", ACCOUNT_SID, TWILIO_AUTH_TOKEN="first")
    key = json.loads(command("keys", "create", "shop", "--json"))["key"]
    with ExitStack() as stack:
        for name, arguments in {
            "simulator": ("simulator", "--port", str(ports["simulator"]), "--speed", "20"),
            "api": ("serve", "--port", str(ports["api"])),
            "worker": ("worker",),
        }.items():
            stack.enter_context(running(*arguments, environment=configured, file=tmp_path / f"{name}.log"))
        async with (
            http_client(base_url=urls["api"], headers={"Authorization": f"Bearer {key}"}) as api,
            http_client(base_url=f"{urls['simulator']}/_simulator") as simulator,
        ):
            for http, path in ((api, "/readyz"), (simulator, "/health")):
                async with asyncio.timeout(90):
                    while not await _answers(http, path):
                        await asyncio.sleep(0.1)
            installation = Installation(configured, api, simulator)
            await installation.at_twilio("first")
            yield installation


async def _answers(http: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await http.get(path)).is_success
    except httpx.TransportError:
        return False


async def test_an_auth_token_is_replaced_under_load_without_a_failed_call_or_a_refused_callback(
    empty_database_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with installed(empty_database_url, tmp_path) as installation:
        load, stop = Load(installation.api), asyncio.Event()
        placing = asyncio.create_task(load.place_many(stop))
        await load.goes_on()
        await installation.at_twilio("first", "second")
        assert await installation.step(TWILIO_AUTH_TOKEN="second") == (EXIT_RUN_AGAIN, "promote")
        await load.goes_on()
        new, old = [row["credential"] for row in await installation.credentials()]
        assert await installation.step("--quiet", "0m") == (EXIT_RUN_AGAIN, "promote"), "Twilio still signs with the old token"
        await load.goes_on()

        await installation.promote()
        before = (await installation.callbacks())["begun"]
        assert (await installation.step())[0] == EXIT_RUN_AGAIN, "the old token verified callbacks until now"
        await load.goes_on()
        # What a quiet time waits for: callbacks that the old token has signed.
        await installation.until_callbacks(
            lambda found: all(delivery["delivered"] for delivery in found["deliveries"] if delivery["number"] <= before),
            "callbacks of the old token",
        )
        assert await installation.step("--quiet", "0m") == (0, "done")
        await load.goes_on()
        stop.set()
        await placing

        assert [row["credential"] for row in await installation.credentials()] == [new]
        await installation.until_callbacks(lambda found: not found["waiting"] and not found["sending"], "the last callback")
        found = await installation.callbacks()
        answers = Counter(attempt["answer_status"] for each in found["deliveries"] for attempt in each["attempts"])
        assert load.failures == []
        assert load.answers.keys() == {201}
        assert answers.keys() == {204}
        assert found["forgotten"] == 0
        assert old != new
        record_property(
            "output", f"{load.answers.total()} creations and {answers.total()} callbacks while a token was replaced: 0 failed"
        )


async def test_the_command_waits_for_the_promotion_and_ends_when_the_old_token_is_revoked(
    empty_database_url: str, tmp_path: Path
) -> None:
    async with installed(empty_database_url, tmp_path) as installation:
        await installation.at_twilio("first", "second")
        arguments = ("accounts", "rotate", "shop", ACCOUNT_SID, "--quiet", "0m")
        variables = installation.configured | {"TWILIO_AUTH_TOKEN": "second", "PYTHONUNBUFFERED": "1"}
        with running(*arguments, environment=variables, file=tmp_path / "rotate.log") as process:
            await asyncio.to_thread(process.wait_for, "Now promote the secondary auth token")
            await installation.promote()
            await asyncio.to_thread(process.wait_for, "The old credential is revoked")
            assert await asyncio.to_thread(process.child.wait, 90) == 0
        assert "second" not in process.output.replace("secondary", "")
        assert len(await installation.credentials()) == 1
        again = await installation.rotate(TWILIO_AUTH_TOKEN="second")
        assert again.returncode == 0
        assert "already stored and replaces no other" in again.stdout
        code, message = failure(*arguments[:4], environment=installation.configured | {"TWILIO_AUTH_TOKEN": "wrong"})
        assert (code, "refuses the new credential: nothing was changed" in message) == (1, True)


@pytest.mark.parametrize("text", ["3", "m", "-1m", "3 m", "9" * 30 + "d"])
def test_a_quiet_time_is_a_duration(database_url: str, tmp_path: Path, text: str) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    ran = run("accounts", "rotate", "shop", ACCOUNT_SID, "--quiet", text, environment=configured)
    assert ran.returncode == 2
    assert os.linesep not in ran.stderr.partition("Error")[2].strip()
