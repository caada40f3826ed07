"""Runs two versions of Callgate on one database, as during a roll-out: `python -m tests.rolling.versions [REVISION]`.

The previous version comes from git. The default is the commit before the newest migration, which is the hardest case.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx

from app.local.postgres import EmbeddedPostgres
from tests.cli.running import REPOSITORY, environment, free_port
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, SECRET_KEY

TENANT, ACCOUNT, TOKEN = "rolling", "AC" + "d" * 32, "rolling-auth-token"
TIMEOUT_S = 90


def before_the_newest_migration() -> str | None:
    """Returns the git revision before the newest migration. Returns None if the checkout has no history."""
    command = ["git", "log", "--first-parent", "--diff-filter=A", "--max-count=1", "--format=%P", "--", "migrations/versions"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.split()[0] if found.stdout.split() else None


def unpack(revision: str, folder: Path) -> None:
    archive = ["git", "archive", "--format=tar", revision, "app", "migrations", "simulator"]
    tar = subprocess.run(archive, cwd=REPOSITORY, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(tar)) as files:
        files.extractall(folder, filter="data")


@dataclass(frozen=True)
class Version:
    """A copy of the code of one version, and the environment variables of its processes."""

    name: str
    code: Path
    environment: dict[str, str]

    async def run(self, *arguments: str, **more: str) -> str:
        process = await self._start(*arguments, stdout=asyncio.subprocess.PIPE, more=more)
        out, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"{self.name}: callgate {' '.join(arguments)} ended with {process.returncode}")
        return out.decode()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        port = free_port()
        with (self.code / f"serve-{port}.log").open("wb") as log:
            api = await self._start("serve", "--port", str(port), stdout=log)
            worker = await self._start("worker", stdout=log)
            try:
                await wait_until_it_answers(f"http://127.0.0.1:{port}/livez")
                yield f"http://127.0.0.1:{port}"
            finally:
                for process in (api, worker):
                    if process.returncode is None:
                        process.terminate()
                    await process.wait()

    @asynccontextmanager
    async def simulating(self, port: int) -> AsyncIterator[None]:
        """Runs a simulator in which calls proceed twenty times as fast as in reality."""
        simulator = await self._start("simulator", "--port", str(port), "--speed", "20", stdout=asyncio.subprocess.DEVNULL)
        try:
            await wait_until_it_answers(f"http://127.0.0.1:{port}/_simulator/health")
            yield
        finally:
            simulator.terminate()
            await simulator.wait()

    async def _start(self, *arguments: str, stdout: object, more: dict[str, str] | None = None) -> asyncio.subprocess.Process:
        settings = self.environment | {"PYTHONPATH": str(self.code)} | (more or {})
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", *arguments, cwd=self.code, env=settings, stdout=stdout,  # type: ignore[arg-type]
        )  # fmt: skip


async def wait_until_it_answers(url: str, status: int = 200) -> None:
    async with http_client() as http, asyncio.timeout(TIMEOUT_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(url)).status_code == status:
                    return
            await asyncio.sleep(0.05)


async def wait_until_shown(http: httpx.AsyncClient, url: str, **members: str) -> None:
    """Waits until the record at the URL has these members."""
    async with asyncio.timeout(TIMEOUT_S):
        while not members.items() <= (await http.get(url)).json().items():
            await asyncio.sleep(0.2)


async def check_calls(one: str, other: str, key: str, *, name: str) -> None:
    """Checks that a call that is placed at the process `one` has the same record at the process `other`."""
    bearer = {"Authorization": f"Bearer {key}"}
    async with http_client(headers=bearer) as http:
        named = {"Idempotency-Key": f"black-box-{name}"}
        placed = await http.post(f"{one}/v1/calls", json=BASIC_CALL, headers=named)
        assert (placed.status_code, placed.json()["execution"]) == (201, "started"), placed.text
        call = placed.json()
        for url in (one, other):
            replayed = await http.post(f"{url}/v1/calls", json=BASIC_CALL, headers=named)
            assert (replayed.status_code, replayed.json()["id"]) == (200, call["id"]), replayed.text
            reused = await http.post(f"{url}/v1/calls", json=BASIC_CALL | {"to": "sip:lena@example.com"}, headers=named)
            assert (reused.status_code, reused.json()["call_id"]) == (422, call["id"]), reused.text
            for path in (call["id"], call["sid"]):
                found = (await http.get(f"{url}/v1/calls/{path}")).raise_for_status().json()
                assert (found["id"], found["sid"], found["to"]) == (call["id"], call["sid"], BASIC_CALL["to"])
            listed = (await http.get(f"{url}/v1/calls", params={"limit": 1})).raise_for_status().json()
            assert listed["calls"][0]["id"] == call["id"]
            events = (await http.get(f"{url}/v1/calls/{call['id']}/events")).raise_for_status().json()["events"]
            assert {"call.pending", "call.started"} <= {event["type"] for event in events}
            refused = await http.post(f"{url}/v1/calls", json=BASIC_CALL | {"to": "sip:kate@example.com;transport=ws"})
            assert refused.status_code == 422
        # The worker of either version completes it.
        await wait_until_shown(http, f"{other}/v1/calls/{call['id']}", status="completed")


def both_versions(revision: str, database_url: str, folder: Path, simulator_url: str) -> tuple[Version, Version]:
    """Returns two versions: the old one, whose code is unpacked from git into the folder, and the current one."""
    unpack(revision, folder / "old")
    (folder / "new").mkdir()
    for package in ("app", "migrations", "simulator"):
        (folder / "new" / package).symlink_to(REPOSITORY / package)
    settings = environment(
        folder / "state",
        CALLGATE_DATABASE_URL=database_url,
        CALLGATE_SECRET_KEYS=SECRET_KEY,
        CALLGATE_TWILIO_BASE_URL=simulator_url,
        CALLGATE_REFRESH_INTERVAL="0.2",
        CALLGATE_WORKER_POLL_INTERVAL="0.2",
        CALLGATE_LOG_LEVEL="WARNING",
    )
    return Version("old", folder / "old", settings), Version("new", folder / "new", settings)


async def add_tenant(version: Version) -> str:
    """Creates the tenant with its account, and returns its API key."""
    await version.run("tenants", "create", TENANT, "--name", "Rolling")
    _, shown = await asyncio.gather(
        version.run("accounts", "add", TENANT, "--account-sid", ACCOUNT, TWILIO_AUTH_TOKEN=TOKEN),
        version.run("keys", "create", TENANT, "--json"),
    )
    return str(json.loads(shown)["key"])


async def roll(revision: str, database_url: str, folder: Path) -> None:
    """Performs a roll-out step by step. Raises AssertionError if one version breaks the other."""
    simulator_port = free_port()
    old, new = both_versions(revision, database_url, folder, f"http://127.0.0.1:{simulator_port}")
    async with new.simulating(simulator_port):
        await old.run("migrate")
        key = await add_tenant(old)
        async with old.serving() as before:
            await check_calls(before, before, key, name="old code, old schema")
            async with new.serving() as after:
                await check_new_code_on_old_schema(after, key)
                await new.run("migrate")
                await wait_until_it_answers(f"{after}/readyz")
                await check_calls(before, after, key, name="old code, new schema, read by the new")
                await check_calls(after, before, key, name="new code, new schema, read by the old")


async def check_new_code_on_old_schema(url: str, key: str) -> None:
    """Checks that new code works on the old schema, or that /readyz fails and each answer tells the true outcome."""
    async with http_client(headers={"Authorization": f"Bearer {key}"}) as http:
        readiness = await http.get(f"{url}/readyz")
        if readiness.is_success:
            await check_calls(url, url, key, name="new code, old schema")
        else:
            assert readiness.json()["database"] == "not_migrated"
            # If only an index is missing, creations work.
            response = await http.post(f"{url}/v1/calls", json=BASIC_CALL)
            assert (response.status_code, response.json()["execution"]) in {(503, "not_started"), (201, "started")}, (
                response.text
            )


def main() -> None:
    revision = sys.argv[1] if len(sys.argv) > 1 else before_the_newest_migration()
    if revision is None:
        raise SystemExit("give a REVISION: git has no earlier one")
    with tempfile.TemporaryDirectory(prefix="callgate-rolling-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's Postgres runs as the user nobody
        with EmbeddedPostgres(folder) as postgres:
            asyncio.run(roll(revision, postgres.url, folder))
    sys.stdout.write(f"{revision} and this version work together and one after the other\n")


if __name__ == "__main__":
    main()
