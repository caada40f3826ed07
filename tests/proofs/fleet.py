"""Starts Callgate's processes over one Postgres and a simulator, like a deployment, and kills and restarts them."""

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import IO, Any

import httpx

from app.local.postgres import EmbeddedPostgres
from tests.cli.fork_server import ForkedProcess, run_forked, start_forked
from tests.proofs.balancer import Balancer, free_port
from tests.support.clients import http_client

ACCOUNT, TOKEN = "AC" + "c" * 32, "chaos-auth-token"
LOG = "fleet.log"
COMMAND_TIMEOUT_S = 90.0
ENVIRONMENT = {
    "CALLGATE_SECRET_KEYS": "tGVLsKZ7dPRbXIgGn2WxUrmY4zG1Ic4gnHsVjhYB5wQ=",
    "CALLGATE_TWILIO_CONNECT_TIMEOUT": "1",
    "CALLGATE_TWILIO_READ_TIMEOUT": "1.5",
    "CALLGATE_TWILIO_POOL_TIMEOUT": "0.5",
    "CALLGATE_REQUEST_BUDGET": "4",
    "CALLGATE_ABANDON_MARGIN": "2",
    "CALLGATE_WORKER_POLL_INTERVAL": "0.5",
    "CALLGATE_LOG_LEVEL": "ERROR",
}


@dataclass
class Process:
    """A process of Callgate that is started again whenever it is killed."""

    arguments: list[str]
    environment: dict[str, str]
    log: IO[bytes]
    port: int | None = None
    running: ForkedProcess | None = None

    async def start(self) -> None:
        output = self.log.fileno()
        self.running = await asyncio.to_thread(start_forked, self.arguments, environment=self.environment, output=output)

    async def end(self, number: signal.Signals) -> None:
        if self.running:
            self.running.send_signal(number)
            await asyncio.to_thread(self.running.wait)


@dataclass
class Fleet:
    gateway_url: str
    simulator_url: str
    processes: dict[str, Process]
    postgres: EmbeddedPostgres
    environment: dict[str, str]
    killed: Counter[str] = field(default_factory=Counter)

    async def kill_at_random(
        self,
        seed: int,
        done: asyncio.Event,
        *,
        kinds: str = "",
        pause_s: tuple[float, float] = (0.5, 3.0),
        max_kills: float = inf,
    ) -> None:
        """Kills a random process whose name begins with `kinds` after each pause, with SIGKILL, and starts it again.

        Ends when `done` is set or after `max_kills` kills.
        """
        kills = 0
        choice = random.Random(seed)
        names = sorted(name for name in self.processes if name.startswith(kinds))
        while not done.is_set() and kills < max_kills:
            kills += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), choice.uniform(*pause_s))
                return
            name = choice.choice(names)
            process = self.processes[name]
            await process.end(signal.SIGKILL)
            self.killed[name.partition(" ")[0]] += 1
            await process.start()
            if process.port:
                # Without this wait, nothing would ever be up on a slow machine.
                await wait_until_up(f"http://127.0.0.1:{process.port}", "/livez")

    async def tell_simulator(self, **what: Mapping[str, Any]) -> None:
        """Sends settings to the simulator's control routes: each name is a path such as `faults`, each value a PUT body."""
        async with http_client(base_url=self.simulator_url) as http:
            for path, body in what.items():
                (await http.put(f"/_simulator/{path}", json=body)).raise_for_status()


@asynccontextmanager
async def running_fleet(
    postgres: EmbeddedPostgres, folder: Path, settings: Mapping[str, str], *, speed: float = 5, workers: int = 2
) -> AsyncIterator[Fleet]:
    """Runs two API processes behind a balancer, workers and a simulator, and yields them. The log is `folder / LOG`."""
    ports = [free_port(), free_port()]
    simulator_port = free_port()
    simulator_url = f"http://127.0.0.1:{simulator_port}"
    with (folder / LOG).open("wb") as log:
        async with Balancer(ports).running() as gateway_url:
            environment = {
                **os.environ,
                **ENVIRONMENT,
                "CALLGATE_DATABASE_URL": postgres.url,
                "CALLGATE_TWILIO_BASE_URL": simulator_url,
                "CALLGATE_PUBLIC_URL": gateway_url,
                **settings,
            }
            simulator = Process(["simulator", "--port", str(simulator_port), "--speed", f"{speed:g}"], environment, log)
            processes = {
                **{f"api {n}": Process(["serve", "--port", str(port)], environment, log, port) for n, port in enumerate(ports)},
                **{f"worker {n}": Process(["worker"], environment, log) for n in range(workers)},
            }
            fleet = Fleet(gateway_url, simulator_url, processes, postgres, environment)
            try:
                for process in (simulator, *processes.values()):
                    await process.start()
                await wait_until_up(simulator_url, "/_simulator/health")
                await wait_until_up(gateway_url, "/readyz")
                await fleet.tell_simulator(**{f"accounts/{ACCOUNT}": {"auth_token": TOKEN, "api_keys": {}}})
                yield fleet
            finally:
                for process in (*processes.values(), simulator):
                    await process.end(signal.SIGKILL)


async def command(environment: dict[str, str], *arguments: str) -> str:
    """Runs `callgate …` and returns its output. Exits if the command fails."""
    finished = await asyncio.to_thread(
        run_forked, arguments, environment=environment, standard_input="", cwd=None, timeout_s=COMMAND_TIMEOUT_S
    )
    if finished.returncode:
        raise SystemExit(f"callgate {' '.join(arguments)} failed: {finished.stderr}")
    return finished.stdout


async def make_tenant(environment: dict[str, str], tenant: str, account: str = ACCOUNT) -> str:
    """Creates a tenant with an account and a key, and returns the key."""
    await command(environment, "tenants", "create", tenant, "--name", tenant)
    await command(environment | {"TWILIO_AUTH_TOKEN": TOKEN}, "accounts", "add", tenant, "--account-sid", account)
    return await make_key(environment, tenant)


async def make_key(environment: dict[str, str], tenant: str) -> str:
    shown = await command(environment, "keys", "create", tenant, "--json")
    return str(json.loads(shown)["key"])


async def set_pace(environment: dict[str, str], tenant: str, account: str, **limits: float) -> None:
    options = [text for name, value in limits.items() for text in (f"--{name.replace('_', '-')}", f"{value:g}")]
    await command(environment, "accounts", "pace", tenant, account, *options)


async def choose_form(environment: dict[str, str], tenant: str, form: str) -> str:
    """Sets the format of the tenant's deliveries, creates a secret for their signatures, and returns the secret."""
    await command(environment, "tenants", "callbacks", tenant, "--format", form)
    shown = await command(environment, "tenants", "callback-secret", tenant, "--json")
    return str(json.loads(shown)["secret"])


async def wait_until_up(url: str, path: str) -> None:
    async with http_client(base_url=url) as http:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(path)).is_success:
                    return
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url}{path} did not come up")


async def answers_to_callbacks(simulator: httpx.AsyncClient) -> Counter[int | None]:
    """Returns how many attempts to send a callback were answered with each status; None counts those without an answer."""
    return Counter(attempt["answer_status"] for delivery in await callbacks_of(simulator) for attempt in delivery["attempts"])


def refused_callbacks(answers: Mapping[int | None, int]) -> dict[str, int]:
    """Returns how many of these answers to callbacks refuse a callback. Every callback of the simulator is genuine."""
    return {"genuine callbacks refused": sum(number for status, number in answers.items() if status and 400 <= status < 500)}


async def callbacks_of(simulator: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Returns the callbacks that the simulator sent or lost, with their attempts."""
    deliveries: list[dict[str, Any]] = (await simulator.get("/_simulator/callbacks")).raise_for_status().json()["deliveries"]
    return deliveries


async def all_records(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Returns every call of the tenant whose key `http` sends."""
    records: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        parameters = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
        page = (await http.get("/v1/calls", params=parameters)).raise_for_status().json()
        records += page["calls"]
        cursor = page["next_cursor"]
        if cursor is None:
            return records
