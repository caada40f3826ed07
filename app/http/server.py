"""The uvicorn server, and its configuration, for every HTTP server of the project."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from app.http.limits import ServerLimits
from app.http.protocol import BoundedProtocol
from app.http.repeated_signals import call_after_signal_window

# Longer than clients and load balancers keep an idle connection, so that they close it first: a request that arrives while the
# server closes the connection is lost.
_KEEP_ALIVE_S = 75
# uvicorn's loop counts its ticks, and renews the `Date` header at each tenth.
_DATE_RENEWAL_TICK = 10


class Server(uvicorn.Server):
    """A uvicorn server whose main loop wakes up once a second, to renew the `Date` header, instead of ten times a second.

    In an idle API process, the ten wake-ups would use most of the CPU time. If `should_exit` is set, the loop wakes up at once.
    """

    _exit_requested: asyncio.Event | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _should_exit = False
    _ignores_signals = False

    @property
    def should_exit(self) -> bool:
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if self._loop is not None and self._exit_requested is not None:
            self._loop.call_soon_threadsafe(self._exit_requested.set)  # a signal handler may set it

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops the server. A second SIGINT also cuts requests in progress.

        Ignores signals that arrive within a second after another one, because they are repetitions.
        """
        if self._ignores_signals:
            return
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._ignores_signals = True
            self._loop.call_soon_threadsafe(call_after_signal_window, self._loop, self._accept_signals)

    def _accept_signals(self) -> None:
        self._ignores_signals = False

    async def main_loop(self) -> None:
        self._exit_requested, self._loop = asyncio.Event(), asyncio.get_running_loop()
        while not await self.on_tick(_DATE_RENEWAL_TICK):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._exit_requested.wait()
        self._loop = None


def server_config(app: ASGIApp | Callable[[], ASGIApp], limits: ServerLimits | None = None, **options: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration. `options` are arguments of `uvicorn.Config` that override Callgate's defaults.

    WebSockets are disabled, because uvicorn would log the URL of a WebSocket handshake together with its query string.
    """
    protocol = partial(BoundedProtocol, limits=limits or ServerLimits())
    defaults: dict[str, Any] = {
        "http": cast("type[Any]", protocol),  # uvicorn only calls it; a partial can be pickled, as `--workers` requires
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # nothing depends on the scheme; FailedAuthenticationLimiter alone reads the client's address
        "timeout_keep_alive": _KEEP_ALIVE_S,
    }
    return uvicorn.Config(app, **(defaults | options))
