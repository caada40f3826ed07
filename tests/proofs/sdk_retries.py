"""Runs Twilio's asynchronous SDK with its blind retries against a failing Twilio: `python -m tests.proofs.sdk_retries`.

The SDK repeats a POST after every 5xx. A third of the creations gets a random fault of the simulator. Its ledger shows which
calls were created: at most one for each creation, and none if the SDK reports that there is none.
"""

import argparse
import asyncio
import base64
import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

from app.audit.events import command_actor
from app.database.engine import Database
from app.local.postgres import EmbeddedPostgres
from app.main import create_app
from app.observability import configure_logging
from app.schema import migrate
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.proofs.balancer import free_port
from tests.support.clients import http_client

TENANT, ACCOUNT, TOKEN = "sdk", "AC" + "d" * 32, "sdk-auth-token"
MAX_RETRIES = 3
FAULTY_SHARE = 0.3
# The fault slow-accept takes two seconds, even if the client has disconnected.
LATEST_ACCEPT_S = 3.0
UNKNOWN = 409


class KeyedClient(AsyncTwilioHttpClient):  # type: ignore[misc]  # it ships no types
    """A client that sends an Idempotency-Key with each creation, and the same key when the SDK repeats the creation."""

    async def request(self, method: str, url: str, *arguments: Any, headers: Any = None, **named: Any) -> Any:
        headers = {**(headers or {}), "Idempotency-Key": uuid4().hex}
        return await super().request(method, url, *arguments, headers=headers, **named)


@dataclass
class Verdict:
    """What the SDK reports for each creation, by destination, and which calls were really created."""

    outcomes: dict[str, int | str] = field(default_factory=dict)
    accepted: Counter[str] = field(default_factory=Counter)
    received: int = 0
    posts: int = 0
    seconds: float = 0.0

    @property
    def faults(self) -> dict[str, int]:
        outcomes = self.outcomes.items()
        return {
            "duplicate dials": sum(count - 1 for count in self.accepted.values() if count > 1),
            "calls reported as started that did not ring": sum(
                self.accepted[to] != 1 for to, status in outcomes if status == "started"
            ),
            "calls reported as not started that rang": sum(
                self.accepted[to] != 0 for to, status in outcomes if status not in ("started", UNKNOWN)
            ),
        }


class QuietServer(uvicorn.Server):
    """A uvicorn server without signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def served(app: FastAPI, port: int) -> AsyncIterator[str]:
    server = QuietServer(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False, ws="none"))
    task = asyncio.create_task(server.serve())
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def measure(database_url: str, *, creations: int, concurrency: int, keyed: bool, seed: int) -> Verdict:
    async with served(create_simulator(SimulatorConfig(open_mode=True)), free_port()) as simulator_url:
        settings = Settings.model_validate(
            {
                "database_url": database_url,
                "secret_keys": base64.b64encode(os.urandom(32)).decode(),
                "twilio_base_url": simulator_url,
                "twilio_connect_timeout": 1.0,
                "twilio_read_timeout": 1.0,
                "twilio_pool_timeout": 0.5,
                "request_budget": 3.0,
            }
        )
        key = await _make_tenant(settings)
        async with (
            served(create_app(settings), free_port()) as gateway_url,
            http_client(base_url=simulator_url) as simulator,
        ):
            (await simulator.put("/_simulator/faults", json={"share": FAULTY_SHARE, "seed": seed})).raise_for_status()
            verdict = await _create_all(gateway_url, key, creations=creations, concurrency=concurrency, keyed=keyed)
            await asyncio.sleep(LATEST_ACCEPT_S)
            ledger = (await simulator.get("/_simulator/ledger")).json()
            assert not ledger["forgotten"]
            verdict.received = ledger["received"]
            verdict.accepted.update(entry["to"] for entry in ledger["entries"] if entry["accepted"])
            async with http_client(base_url=gateway_url) as gateway:
                verdict.posts = _count_posts((await gateway.get("/metrics")).text)
    return verdict


async def _make_tenant(settings: Settings) -> str:
    database = Database(settings.require_database_url(), pool_size=1)
    try:
        tenants = TenantAdministration(database, Keyring(settings.require_secret_keys()), command_actor())
        tenant_id = f"{TENANT}-{uuid4().hex[:8]}"
        await tenants.create_tenant(tenant_id, name="SDK")
        await tenants.add_credential(tenant_id, account_sid=ACCOUNT, secret=TOKEN, key_sid=None, base_url=None)
        return (await tenants.create_key(tenant_id, name=None, creator=COMMAND_LINE_CALLER))[1]
    finally:
        await database.close()


async def _create_all(url: str, key: str, *, creations: int, concurrency: int, keyed: bool) -> Verdict:
    verdict = Verdict()
    slots = asyncio.Semaphore(concurrency)
    began = time.monotonic()
    http = (KeyedClient if keyed else AsyncTwilioHttpClient)(max_retries=MAX_RETRIES)
    try:
        twilio = Client(ACCOUNT, key, http_client=http)
        twilio.api.base_url = url

        async def create(number: int) -> None:
            to = f"sip:callee{number}@example.com"
            async with slots:
                try:
                    await twilio.calls.create_async(to=to, from_="Jack", twiml="<Response/>")
                    verdict.outcomes[to] = "started"
                except TwilioRestException as error:
                    verdict.outcomes[to] = error.status

        await asyncio.gather(*(create(number) for number in range(creations)))
    finally:
        await http.close()
    verdict.seconds = time.monotonic() - began
    return verdict


def _count_posts(exposition: str) -> int:
    """Returns the number of creations that the gateway received, including the SDK's own repetitions."""
    lines = [line for line in exposition.splitlines() if line.startswith("callgate_http_requests_total{") and "POST" in line]
    return sum(round(float(line.rpartition(" ")[2])) for line in lines)


def report(verdict: Verdict, *, keyed: bool) -> bool:
    """Prints the verdict. Returns whether every promise was kept."""
    outcomes = Counter(str(status) for status in verdict.outcomes.values())
    print(f"{'with' if keyed else 'without'} Idempotency-Key: {len(verdict.outcomes)} creations in {verdict.seconds:.1f} s")
    print(f"  {verdict.posts}  POSTs of the SDK at the gateway, {verdict.received} of the gateway at Twilio")
    print(f"  {sum(verdict.accepted.values())}  calls rang; the SDK reported: {dict(sorted(outcomes.items()))}")
    for name, count in verdict.faults.items():
        print(f"  {count}  {name}")
    return not any(verdict.faults.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--creations", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory(prefix="callgate-sdk-") as name, open(os.devnull, "w") as nowhere:  # noqa: PTH123
        Path(name).chmod(0o755)
        configure_logging(level="ERROR", format_="json", stream=nowhere)
        with EmbeddedPostgres(Path(name), durable=False) as postgres:
            migrate(postgres.url)
            kept = []
            for keyed in (False, True):
                measured = measure(
                    postgres.url,
                    creations=options.creations,
                    concurrency=options.concurrency,
                    keyed=keyed,
                    seed=options.seed,
                )
                kept.append(report(asyncio.run(measured), keyed=keyed))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
