"""A simulator on a real socket, with a clock that moves only when a test moves it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import httpx
import uvicorn
from starlette.types import ASGIApp

from simulator.accounts import Account
from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support.clients import sync_http_client

OPEN_SID = "AC" + "0" * 32
REGISTERED = Account("AC" + "1" * 32, "the-auth-token", {"SK" + "1" * 32: "the-key-secret"})
START = datetime(2026, 11, 23, 23, 50, tzinfo=UTC)


def plain_client(base_url: str, auth: tuple[str, str] | None = None) -> httpx.Client:
    return sync_http_client(base_url=base_url, auth=auth, trust_env=False)


class ManualClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Running:
    url: str
    clock: ManualClock

    def client(self, account_sid: str, auth_token: str) -> httpx.Client:
        """Returns a client with the URL and the credentials of this account."""
        return plain_client(f"{self.url}/2010-04-01/Accounts/{account_sid}", auth=(account_sid, auth_token))


Http = Literal["auto", "h11", "httptools"]


@contextmanager
def serve_app(app: ASGIApp, *, loop: str = "auto", http: Http = "auto") -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, ws="none", log_level="error", loop=loop, http=http, date_header=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def serve(config: SimulatorConfig, *, loop: str = "auto", http: Http = "auto") -> AbstractContextManager[str]:
    return serve_app(create_app(config), loop=loop, http=http)


def wait_until(condition: Callable[[], object]) -> None:
    """Waits until the condition is true. Fails the test after 30 s; the limit is generous, so timing decides nothing."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
