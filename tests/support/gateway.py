"""Runs the API on a real socket with a real Postgres, and creates tenants as an operator does."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import uvicorn
from fastapi import FastAPI

from app.audit.events import command_actor
from app.database.engine import Database
from app.http.limits import ServerLimits
from app.http.server import Server, server_config
from app.main import create_app
from app.observability.tracing import Tracing
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.directory import TenantDirectory
from tests.support.clients import http_client

SECRET_KEY = "tGVLsKZ7dPRbXIgGn2WxUrmY4zG1Ic4gnHsVjhYB5wQ="
BASIC_CALL = {"to": "sip:kate@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}
URLS_WITH_MANY_USER_NAMES: Final = {
    member: "https://h.example/?" + "&".join(f"a=https://{member}{number}@b" for number in range(5))
    for member in ("url", "fallback_url")
}
"""Two members of a call request whose URLs have 5 user names each.

Each member alone is accepted, but together they exceed the limit of 8 for one request (app.security.redaction.MAX_USERINFOS).
"""

_numbers = itertools.count(1)
LONG_TIMEOUTS: Final = {"twilio_read_timeout": 20, "request_budget": 25}
"""Timeouts (in seconds) for tests in which Twilio's answer waits for something that may take seconds."""


def settings_for(database_url: str, **values: Any) -> Settings:
    """Returns settings with short timeouts, for fast tests of a silent upstream.

    The timeouts are longer than a second, because a slow machine may pause for that long.
    """
    defaults: dict[str, Any] = {
        "database_url": database_url,
        "secret_keys": SECRET_KEY,
        "twilio_connect_timeout": 2.0,
        "twilio_read_timeout": 3.0,
        "twilio_pool_timeout": 2.0,
        "request_budget": 12.0,
        "log_level": "INFO",
        "twilio_base_url": "http://127.0.0.1:9",
    }
    return Settings.model_validate(defaults | values)


class QuietServer(Server):
    """The server of the API; it does not handle the signals of the test process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running_app(app: FastAPI, *, grace: int | None = None, date_header: bool = True, port: int = 0) -> AsyncIterator[str]:
    """Serves the app on 127.0.0.1 and yields its URL. On exit, waits up to `grace` seconds for open requests."""
    config = server_config(app, timeout_graceful_shutdown=grace, date_header=date_header)
    async with _running_uvicorn(config, port) as (url, _):
        yield url


@asynccontextmanager
async def _running_uvicorn(config: uvicorn.Config, port: int = 0) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Serves with this configuration. Yields the server's URL and the state of its lifespan."""
    # asyncio sets TCP_NODELAY only if the protocol is given: without it, responses with a body take 40 ms longer.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", port))
        async with running_server(config, [listener]) as server:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server.lifespan.state


@asynccontextmanager
async def running_server(config: uvicorn.Config, listeners: Sequence[socket.socket]) -> AsyncIterator[QuietServer]:
    """Runs a server on these sockets, and stops it at the end of the block."""
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=list(listeners)))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@dataclass
class Tenant:
    """A tenant with one Twilio account, and an HTTP client with the tenant's API key."""

    id: str
    key: str
    account_sid: str
    auth_token: str
    http: httpx.AsyncClient

    async def create(self, key: str | None = None, **members: Any) -> httpx.Response:
        """Creates a call: POST /v1/calls with the members of BASIC_CALL, changed by `members`. `key` is the Idempotency-Key."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self.http.post("/v1/calls", json=BASIC_CALL | members, headers=headers)

    async def events(self, call_id: str) -> list[dict[str, Any]]:
        response = await self.http.get(f"/v1/calls/{call_id}/events")
        events: list[dict[str, Any]] = response.raise_for_status().json()["events"]
        return events


@dataclass
class Gateway:
    url: str
    settings: Settings
    database: Database
    tenants: TenantAdministration
    directory: TenantDirectory
    served_directory: TenantDirectory
    served_database: Database
    """The connection pool that the API under test uses."""
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def invalidate_cache(self) -> None:
        """Clears the API's cache of tenant data, so that a change takes effect at once."""
        self.served_directory.invalidate()

    async def add_tenant(self, base_url: str | None = None, *, with_account: bool = True) -> Tenant:
        number = next(_numbers)
        tenant_id, account_sid, token = f"tenant-{number}", f"AC{number:032x}", f"token-{number}-" + "t" * 20
        await self.tenants.create_tenant(tenant_id, name=f"Tenant {number}")
        if with_account:
            await self.tenants.add_credential(tenant_id, account_sid=account_sid, secret=token, key_sid=None, base_url=base_url)
        _, key = await self.tenants.create_key(tenant_id, name=None, creator=COMMAND_LINE_CALLER)
        http = http_client(base_url=self.url, headers={"Authorization": f"Bearer {key}"})
        self.clients.append(http)
        return Tenant(tenant_id, key, account_sid, token, http)


async def wait_until_ready(http: httpx.AsyncClient) -> None:
    """Waits until /readyz reports `ok`. On a busy machine even a healthy Postgres can exceed its timeout."""
    async with asyncio.timeout(60):
        while (await http.get("/readyz")).json()["status"] != "ok":
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_gateway(
    settings: Settings, *, grace: int | None = None, tracing: Tracing | None = None, port: int = 0
) -> AsyncIterator[Gateway]:
    database = Database(settings.require_database_url(), pool_size=2)
    keyring = Keyring(settings.require_secret_keys())
    tenants = TenantAdministration(database, keyring, command_actor())
    try:
        config = server_config(
            create_app(settings, tracing), ServerLimits.from_settings(settings), timeout_graceful_shutdown=grace
        )
        async with _running_uvicorn(config, port) as (url, state):
            directory = TenantDirectory(database, keyring)
            running = Gateway(url, settings, database, tenants, directory, state["directory"], state["database"])
            yield running
            for client in running.clients:
                await client.aclose()
    finally:
        await database.close()
