"""Starts the services that bench/life.py compares: Callgate with its worker, and the service in bench/competitors/life.py."""

import asyncio
import base64
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.audit.events import command_actor
from app.database.engine import Database
from app.schema import migrate
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.delivery_signing import SigningSettingsCache
from bench.competitors import life_tables
from bench.subjects import libpq_url, make_database, running_process
from tests.proofs.balancer import free_port

OURS, COMPETITOR = "Callgate", "by hand"
SPEED = 10
"""How many seconds of a call pass in one real second of the simulator."""


@dataclass(frozen=True)
class Tenant:
    """A tenant of a measured service. The URL of its webhooks ends with `account_sid`, so that the receiver knows it."""

    account_sid: str
    auth_token: str
    key: str
    secret: str


@dataclass(frozen=True)
class Service:
    name: str
    url: str
    pids: Mapping[str, int]
    """The process ids by role, such as `API` or `worker`."""
    database: str
    """The URL of the service's database, as libpq takes it."""
    tenants: Sequence[Tenant]


@dataclass(frozen=True)
class ServiceConfig:
    """The configuration with which a service is started.

    `server` is the URL of a Postgres, `twilio` that of the simulator, and `accounts` the number of tenants, each with one
    Twilio account. Without `callbacks` the service gives Twilio no callback URL, so it has to poll everything.
    """

    server: str
    twilio: str
    folder: Path
    accounts: int
    callbacks: bool


@contextmanager
def running_simulator(folder: Path) -> Iterator[str]:
    """Runs a simulator of Twilio, SPEED times as fast as real calls, and yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "simulator", "--port", str(port), "--speed", str(SPEED)]
    with running_process(command, {}, port, folder / "simulator.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_callgate(config: ServiceConfig) -> Iterator[Service]:
    """Runs one API process and one worker of Callgate with the default settings, and yields the service."""
    url, port, ops_port = make_database(config.server, _random_name("callgate")), free_port(), free_port()
    service_url = f"http://127.0.0.1:{port}"
    secret_key = base64.b64encode(secrets.token_bytes(32)).decode()
    environment = {
        "CALLGATE_DATABASE_URL": url,
        "CALLGATE_SECRET_KEYS": secret_key,
        "CALLGATE_TWILIO_BASE_URL": config.twilio,
        "CALLGATE_DELIVERY_ALLOW": "127.0.0.0/8",
    }
    if config.callbacks:
        environment["CALLGATE_PUBLIC_URL"] = service_url
    migrate(url)
    settings = Settings.model_validate({"database_url": url, "secret_keys": secret_key})
    tenants = asyncio.run(_make_tenants(settings, config.accounts))
    program = [sys.executable, "-m", "app.cli"]
    with ExitStack() as stack:
        start = partial(_start, stack, environment, config.folder)
        api = start([*program, "serve", "--port", str(port)], port, "api")
        worker = start([*program, "worker", "--ops-port", str(ops_port)], ops_port, "worker")
        yield Service(OURS, service_url, {"API": api, "worker": worker}, libpq_url(url), tenants)


async def _make_tenants(settings: Settings, number: int) -> list[Tenant]:
    database = Database(settings.require_database_url(), pool_size=1)
    keyring = Keyring(settings.require_secret_keys())
    administration, signing = TenantAdministration(database, keyring, command_actor()), SigningSettingsCache(database, keyring)
    tenants = []
    try:
        for account_sid, auth_token in _accounts(number):
            tenant_id = f"t-{account_sid[2:]}"
            await administration.create_tenant(tenant_id, name=tenant_id)
            await administration.add_credential(
                tenant_id, account_sid=account_sid, secret=auth_token, key_sid=None, base_url=None
            )
            _, key = await administration.create_key(tenant_id, name=None, creator=COMMAND_LINE_CALLER)
            await administration.configure_callbacks(tenant_id, callback_format="json")
            secret = (await signing.settings_of_tenant(tenant_id)).secret.get_secret_value()
            tenants.append(Tenant(account_sid, auth_token, key, secret))
    finally:
        await database.close()
    return tenants


@contextmanager
def running_competitor(config: ServiceConfig) -> Iterator[Service]:
    """Runs the service of bench/competitors/life.py, a single process, and yields it."""
    url, port = make_database(config.server, _random_name("competitor")), free_port()
    service_url = f"http://127.0.0.1:{port}"
    tenants = [
        Tenant(sid, token, secrets.token_urlsafe(32), f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")
        for sid, token in _accounts(config.accounts)
    ]
    accounts = {tenant.key: (tenant.account_sid, tenant.auth_token, tenant.secret) for tenant in tenants}
    life_tables.create_tables_and_accounts(libpq_url(url), accounts)
    environment = {
        "BENCH_DATABASE_URL": libpq_url(url),
        "BENCH_UPSTREAM_URL": config.twilio,
        "BENCH_PUBLIC_URL": service_url if config.callbacks else "",
    }
    command = [sys.executable, "-m", "uvicorn", "bench.competitors.life:create_app", "--factory", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    with ExitStack() as stack:
        api = _start(stack, environment, config.folder, command, port, "competitor")
        yield Service(COMPETITOR, service_url, {"API": api}, libpq_url(url), tenants)


SERVICES = {"gateway": running_callgate, "competitor": running_competitor}


def _start(stack: ExitStack, environment: Mapping[str, str], folder: Path, command: Sequence[str], port: int, name: str) -> int:
    return stack.enter_context(running_process(command, dict(environment), port, folder / f"{name}.log"))


def _random_name(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(4)}"


def _accounts(number: int) -> list[tuple[str, str]]:
    """Returns `number` pairs of a random account SID and a random auth token."""
    return [(f"AC{secrets.token_hex(16)}", secrets.token_hex(16)) for _ in range(number)]
