"""Prove the promises under fire: `python -m bench.chaos --creations 3000 --seed 1`.

Two API processes and two workers over one Postgres, a simulator that fails a third of the creations in every way it knows,
clients that hang up and repeat, SIGKILL at random, Postgres restarted twice. At the end every record is compared with the
simulator's ledger, which says what really rang. Choices repeat by seed; the order in which processes run does not.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from bench.balancer import Balancer, free_port

TENANT, ACCOUNT, TOKEN = "chaos", "AC" + "c" * 32, "chaos-auth-token"
SETTLE_PATIENCE_S = 240.0
# Made once: it is most of what a client costs.
TLS = ssl.create_default_context()
CLIENT_TIMEOUTS = (0.05, 0.5, 5.0)
FINAL = {"started", "not_started"}
ENVIRONMENT = {
    "CALLGATE_SECRET_KEYS": "tGVLsKZ7dPRbXIgGn2WxUrmY4zG1Ic4gnHsVjhYB5wQ=",
    "CALLGATE_TWILIO_CONNECT_TIMEOUT": "1",
    "CALLGATE_TWILIO_READ_TIMEOUT": "1.5",
    "CALLGATE_TWILIO_POOL_TIMEOUT": "0.5",
    "CALLGATE_REQUEST_BUDGET": "4",
    "CALLGATE_ABANDON_MARGIN": "2",
    "CALLGATE_RESOLVE_SEARCHES": "4",
    "CALLGATE_RESOLVE_PERIOD": "12",
    "CALLGATE_WORKER_POLL_INTERVAL": "0.5",
    "CALLGATE_REFRESH_INTERVAL": "30",
    "CALLGATE_LOG_LEVEL": "ERROR",
}


@dataclass
class Process:
    """One of ours, started again whenever it is killed."""

    arguments: list[str]
    environment: dict[str, str]
    log: Any
    port: int | None = None
    running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "app.cli", *self.arguments]
        self.running = await asyncio.create_subprocess_exec(*command, env=self.environment, stdout=self.log, stderr=self.log)

    async def end(self, number: signal.Signals) -> None:
        if self.running and self.running.returncode is None:
            self.running.send_signal(number)
            await self.running.wait()


@dataclass
class Fleet:
    gateway_url: str
    simulator_url: str
    processes: dict[str, Process]
    postgres: EmbeddedPostgres
    key: str = ""
    killed: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def running_fleet(postgres: EmbeddedPostgres, folder: Path, seed: int, share: float) -> AsyncIterator[Fleet]:
    ports = [free_port(), free_port()]
    simulator_port = free_port()
    simulator_url = f"http://127.0.0.1:{simulator_port}"
    with (folder / "chaos.log").open("wb") as log:
        async with Balancer(ports).running() as gateway_url:
            environment = {
                **os.environ,
                **ENVIRONMENT,
                "CALLGATE_DATABASE_URL": postgres.url,
                "CALLGATE_TWILIO_BASE_URL": simulator_url,
                "CALLGATE_PUBLIC_URL": gateway_url,
            }
            simulator = Process(["simulator", "--port", str(simulator_port), "--speed", "5"], environment, log)
            processes = {
                **{f"api {n}": Process(["serve", "--port", str(port)], environment, log, port) for n, port in enumerate(ports)},
                **{f"worker {n}": Process(["worker"], environment, log) for n in range(2)},
            }
            fleet = Fleet(gateway_url, simulator_url, processes, postgres)
            try:
                for process in (simulator, *processes.values()):
                    await process.start()
                await wait_until_up(simulator_url, "/_simulator/health")
                await wait_until_up(gateway_url, "/readyz")
                await _make_trouble(simulator_url, seed, share)
                fleet.key = await make_tenant(environment)
                yield fleet
            finally:
                for process in (*processes.values(), simulator):
                    await process.end(signal.SIGKILL)


async def wait_until_up(url: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(path)).is_success:
                    return
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url}{path} did not come up")


async def _make_trouble(simulator_url: str, seed: int, share: float) -> None:
    async with httpx.AsyncClient(base_url=simulator_url) as http:
        (await http.put(f"/_simulator/accounts/{ACCOUNT}", json={"auth_token": TOKEN, "api_keys": {}})).raise_for_status()
        faults = {"share": share, "seed": seed}
        (await http.put("/_simulator/faults", json=faults)).raise_for_status()
        callbacks = {"shuffle": True, "duplicate": 0.1, "seed": seed}
        (await http.put("/_simulator/callbacks", json=callbacks)).raise_for_status()


async def make_tenant(environment: dict[str, str]) -> str:
    await _command(environment, "tenants", "create", TENANT, "--name", "Chaos")
    await _command(environment | {"TWILIO_AUTH_TOKEN": TOKEN}, "accounts", "add", TENANT, "--account-sid", ACCOUNT)
    shown = await _command(environment, "keys", "create", TENANT, "--json")
    return str(httpx.Response(200, text=shown).json()["key"])


async def _command(environment: dict[str, str], *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"callgate {' '.join(arguments)} failed")
    return out.decode()


async def place(fleet: Fleet, number: int, seed: int, told: dict[int, str]) -> None:
    """One creation by a client that hangs up early and repeats under its key until it has heard what happened."""
    choice = random.Random(f"{seed}/{number}")
    body = {"to": f"sip:kate{number // 3}@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}
    headers = {"Authorization": f"Bearer {fleet.key}", "Idempotency-Key": f"chaos-{number}"}
    for _ in range(200):
        async with httpx.AsyncClient(base_url=fleet.gateway_url, timeout=choice.choice(CLIENT_TIMEOUTS), verify=TLS) as http:
            with contextlib.suppress(httpx.HTTPError):
                response = await http.post("/v1/calls", json=body, headers=headers)
                answer = response.json()
                if response.status_code < 500 and answer.get("type") != "urn:callgate:problem:call-pending":
                    told[number] = answer["execution"]
                    return
        await asyncio.sleep(choice.uniform(0.05, 0.5))
    told[number] = "never answered"


async def kill_at_random(fleet: Fleet, seed: int, done: asyncio.Event) -> None:
    choice = random.Random(seed)
    while not done.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), choice.uniform(0.5, 3.0))
            return
        name = choice.choice(sorted(fleet.processes))
        process = fleet.processes[name]
        await process.end(signal.SIGKILL)
        fleet.killed[name.partition(" ")[0]] += 1
        await process.start()
        if process.port:
            # Otherwise, on a slow machine, nothing would ever be up.
            await wait_until_up(f"http://127.0.0.1:{process.port}", "/livez")


async def restart_postgres(fleet: Fleet, told: dict[int, str], creations: int) -> None:
    """Twice, a third and two thirds through. Fast shutdown: every session is cut off, none is asked."""
    for third in (1, 2):
        while len(told) < creations * third // 3:
            await asyncio.sleep(0.05)
        fleet.postgres.stop()
        await asyncio.sleep(0.5)
        fleet.postgres.start()
        fleet.killed["postgres"] += 1


async def settled_records(fleet: Fleet, creations: int) -> list[dict[str, Any]]:
    """All records once every one is settled, or as they are when patience ends."""
    deadline = time.monotonic() + SETTLE_PATIENCE_S
    headers = {"Authorization": f"Bearer {fleet.key}"}
    async with httpx.AsyncClient(base_url=fleet.gateway_url, headers=headers, timeout=30) as http:
        while True:
            records: list[dict[str, Any]] = []
            cursor: str | None = None
            while True:
                parameters = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
                page = (await http.get("/v1/calls", params=parameters)).raise_for_status().json()
                records += page["calls"]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            open_ = sum(record["execution"] not in FINAL for record in records)
            print(f"\r{len(records)} of {creations} records, {open_} not settled yet   ", end="", flush=True)
            if not open_ or time.monotonic() > deadline:
                print()
                return records
            await asyncio.sleep(2)


def verdict(records: list[dict[str, Any]], entries: list[dict[str, Any]]) -> dict[str, int]:
    """What the ledger says against what the records say. All zero, or a promise is broken."""
    rang: dict[str, list[str]] = {}
    for entry in entries:
        if entry["accepted"]:
            call_id = entry["form"]["StatusCallback"][0].partition("#")[0].rpartition("/")[2]
            rang.setdefault(call_id, []).append(entry["sid"])
    known = {record["id"]: record for record in records}
    return {
        "duplicate dials": sum(len(sids) - 1 for sids in rang.values()),
        "accepted calls without their record": sum(call_id not in known for call_id in rang),
        "records bound to the wrong sid": sum(
            record["sid"] is not None and record["sid"] not in rang.get(record["id"], []) for record in records
        ),
        "wrong not_started": sum(record["execution"] == "not_started" and record["id"] in rang for record in records),
        "records not settled": sum(record["execution"] not in FINAL for record in records),
    }


async def run(postgres: EmbeddedPostgres, folder: Path, *, creations: int, seed: int, share: float, clients: int) -> bool:
    began = time.monotonic()
    async with running_fleet(postgres, folder, seed, share) as fleet:
        told: dict[int, str] = {}
        done = asyncio.Event()
        trouble = [
            asyncio.create_task(kill_at_random(fleet, seed, done)),
            asyncio.create_task(restart_postgres(fleet, told, creations)),
        ]
        waiting = iter(range(creations))

        async def client() -> None:
            for number in waiting:
                await place(fleet, number, seed, told)

        await asyncio.gather(*(client() for _ in range(clients)))
        done.set()
        await asyncio.gather(*trouble)
        placed = time.monotonic() - began
        await wait_until_up(fleet.gateway_url, "/readyz")
        records = await settled_records(fleet, creations)
        async with httpx.AsyncClient(base_url=fleet.simulator_url, timeout=60) as http:
            ledger = (await http.get("/_simulator/ledger")).raise_for_status().json()
    found = verdict(records, ledger["entries"])
    faults = Counter(entry["fault"] for entry in ledger["entries"] if entry["fault"])
    print(f"seed {seed}: {creations} creations by {clients} clients in {placed:.0f} s, all in {time.monotonic() - began:.0f} s")
    print(f"  killed      {dict(fleet.killed)}")
    print(f"  told        {dict(Counter(told.values()))}")
    print(f"  simulator   {ledger['received']} POSTs, {ledger['accepted']} accepted, {faults.total()} of them faulty")
    print(f"  faults      {dict(sorted(faults.items()))}")
    print(f"  records     {dict(Counter(record['execution'] for record in records))}")
    print(f"  settled by  {dict(Counter(record['settled_by'] for record in records))}")
    for name, count in found.items():
        print(f"  {count:>6}  {name}")
    return len(records) == creations and not any(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--creations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--share", type=float, default=0.3, help="of the creations that get a fault")
    parser.add_argument("--clients", type=int, default=24)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callgate-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's Postgres runs as nobody
        with EmbeddedPostgres(folder) as postgres:
            migrate(postgres.url)
            good = asyncio.run(
                run(postgres, folder, creations=asked.creations, seed=asked.seed, share=asked.share, clients=asked.clients)
            )
        if not good:
            print((folder / "chaos.log").read_text()[-4000:], file=sys.stderr)
            raise SystemExit(f"a promise was broken; replay with --seed {asked.seed}")


if __name__ == "__main__":
    main()
