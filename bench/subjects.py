"""The services that are measured side by side, each in its own process, with its own database in one Postgres."""

import asyncio
import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from sqlalchemy import make_url

from app.audit.events import command_actor
from app.database.engine import Database
from app.schema import migrate
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from bench.competitors import tables
from bench.connections import raw_request
from bench.load import KEY_PLACEHOLDER
from bench.processes import cpu_seconds, resident_mib, wait_until_it_answers
from bench.results import DIRECT, ECHO, OURS
from tests.proofs.balancer import free_port

# A process that uses less than this share of a processor for this time is idle.
_IDLE, _PAUSE_S = 0.05, 0.2

TENANTS = 100
MOST_CONCURRENT = 200
PUBLIC_URL = "https://calls.example.com"
CALL_BODY = {
    "to": "sip:kate@example.com;transport=tls;secure=true",
    "from": "Jack",
    "url": "http://www.example.com/sipdial.xml",
    "timeout": 30,
}
CALL_FORM = {"To": CALL_BODY["to"], "From": CALL_BODY["from"], "Url": CALL_BODY["url"], "Timeout": CALL_BODY["timeout"]}


@dataclass(frozen=True)
class Tenant:
    """A tenant of a measured service. `account_sid` decides how fast nginx answers: see bench/nginx.py."""

    key: str
    account_sid: str
    auth_token: str


@dataclass(frozen=True)
class Subject:
    name: str
    url: str
    pid: int | None
    """The id of the service's process. If it is None, only the answers are measured, and not processor time and memory."""
    database: str | None
    tenants: Sequence[Tenant]
    secret_key: str | None = None

    def creation_requests(self, *, slow: bool, tenants: int) -> list[bytes]:
        """Returns one HTTP request to create a call for each of the first `tenants` tenants of the chosen speed.

        nginx answers the requests late if `slow` is true, else at once.
        """
        chosen = [tenant for tenant in self.tenants if tenant.account_sid.startswith("ACf") == slow][:tenants]
        return [self._creation(tenant) for tenant in chosen]

    def _creation(self, tenant: Tenant) -> bytes:
        if self.pid is None:
            basic = base64.b64encode(f"{tenant.account_sid}:{tenant.auth_token}".encode()).decode()
            headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
            headers["X-Key"] = KEY_PLACEHOLDER
            return raw_request(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json", headers, urlencode(CALL_FORM).encode())
        headers = {
            "Authorization": f"Bearer {tenant.key}",
            "Content-Type": "application/json",
            "Idempotency-Key": KEY_PLACEHOLDER,
        }
        return raw_request("/v1/calls", headers, json.dumps(CALL_BODY).encode())

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid) if self.pid else 0.0

    def wait_until_idle(self) -> None:
        """Waits until the service uses almost no CPU, so that its backlog does not disturb the next measurement."""
        before, now = -1.0, self.cpu_seconds()
        while now - before > _IDLE * _PAUSE_S:
            time.sleep(_PAUSE_S)
            before, now = now, self.cpu_seconds()

    def resident_mib(self) -> float:
        return resident_mib(self.pid) if self.pid else 0.0

    def count_committed_calls(self) -> int | None:
        """Returns how many started calls are committed in the service's database; None if the service has no database."""
        if self.database is None:
            return None
        with psycopg.connect(self.database) as connection:
            row = connection.execute("SELECT count(*) FROM call WHERE execution = 'started'").fetchone()
        assert row
        return int(row[0])


def make_database(server: str, name: str) -> str:
    """Creates an empty database on the server. Returns its URL in the format of the setting CALLGATE_DATABASE_URL."""
    with psycopg.connect(libpq_url(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def libpq_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _accounts() -> list[tuple[str, str]]:
    """Returns SID and auth token of 2 × TENANTS accounts. nginx answers the first half at once, and the second half late."""
    return [(f"AC{speed}{number:031x}", secrets.token_hex(16)) for speed in "0f" for number in range(TENANTS)]


@contextmanager
def running_process(command: Sequence[str], environment: dict[str, str], port: int, log: Path) -> Iterator[int]:
    """Starts a process, and yields its id once it answers HTTP requests at `port`. Terminates it when the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
        try:
            wait_until_it_answers(port, process)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


@contextmanager
def running_callgate(server: str, upstream: str, folder: Path) -> Iterator[Subject]:
    """Runs `callgate serve` with all its features. Its limits are higher than the load, so that it refuses no request."""
    url, port = make_database(server, "callgate_bench"), free_port()
    secret_key = base64.b64encode(secrets.token_bytes(32)).decode()
    environment = {
        "CALLGATE_DATABASE_URL": url,
        "CALLGATE_SECRET_KEYS": secret_key,
        "CALLGATE_TWILIO_BASE_URL": upstream,
        "CALLGATE_PUBLIC_URL": PUBLIC_URL,
        "CALLGATE_MAX_IN_FLIGHT": str(2 * MOST_CONCURRENT),
        "CALLGATE_MAX_IN_FLIGHT_PER_TENANT": str(2 * MOST_CONCURRENT),
    }
    migrate(url)
    settings = Settings.model_validate({"database_url": url, "secret_keys": secret_key})
    tenants = asyncio.run(_make_tenants(settings))
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    with running_process(command, environment, port, folder / "callgate.log") as pid:
        yield Subject(OURS, f"http://127.0.0.1:{port}", pid, libpq_url(url), tenants, secret_key)


async def _make_tenants(settings: Settings) -> list[Tenant]:
    database = Database(settings.require_database_url(), pool_size=1)
    service = TenantAdministration(database, Keyring(settings.require_secret_keys()), command_actor())
    tenants = []
    try:
        for account_sid, auth_token in _accounts():
            tenant_id = f"t-{account_sid[2:].lower()}"
            await service.create_tenant(tenant_id, name=tenant_id)
            await service.add_credential(tenant_id, account_sid=account_sid, secret=auth_token, key_sid=None, base_url=None)
            _, key = await service.create_key(tenant_id, name=None, creator=COMMAND_LINE_CALLER)
            tenants.append(Tenant(key, account_sid, auth_token))
    finally:
        await database.close()
    return tenants


@contextmanager
def running_competitor(module: str, name: str, server: str, upstream: str, folder: Path) -> Iterator[Subject]:
    """Runs a service of bench/competitors. Its access log is off, because the log would add to its cost."""
    url, port = make_database(server, module), free_port()
    tenants = [Tenant(secrets.token_urlsafe(32), *account) for account in _accounts()]
    accounts = {tenant.key: (tenant.account_sid, tenant.auth_token) for tenant in tenants}
    tables.create_tables_and_accounts(libpq_url(url), accounts)
    environment = {"BENCH_DATABASE_URL": libpq_url(url), "BENCH_UPSTREAM_URL": upstream}
    program = [sys.executable, "-m", "uvicorn", f"bench.competitors.{module}:create_app", "--factory"]
    command = [*program, "--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    with running_process(command, environment, port, folder / f"{module}.log") as pid:
        database = libpq_url(url) if name != ECHO else None
        yield Subject(name, f"http://127.0.0.1:{port}", pid, database, tenants)


@contextmanager
def direct(_: str, upstream: str, __: Path) -> Iterator[Subject]:
    """Yields the stand-in for Twilio itself as a subject: the load goes to it directly, without a service in between."""
    yield Subject(DIRECT, upstream, None, None, [Tenant("", *account) for account in _accounts()])


SUBJECTS: dict[str, Callable[[str, str, Path], AbstractContextManager[Subject]]] = {
    "gateway": running_callgate,
    "sync": partial(running_competitor, "sync_sdk", "twilio-python + ORM"),
    "async": partial(running_competitor, "async_httpx", "httpx + async ORM"),
    "echo": partial(running_competitor, "echo", ECHO),
    "direct": direct,
}
