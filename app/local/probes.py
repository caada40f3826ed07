"""Serves the health probes and the metrics of a worker process over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.http.health import probe_app
from app.http.limits import ServerLimits
from app.http.listening import open_listening_sockets
from app.http.server import server_config
from app.local.server import SHUTDOWN_TIMEOUT_S, LocalServer
from app.observability import Metrics
from app.settings import Settings


@asynccontextmanager
async def serving_probes(settings: Settings, metrics: Metrics, host: str, port: int) -> AsyncIterator[None]:
    """Serves a worker's probes until the block ends. Raises CannotListen if the port cannot be used.

    The server runs in the worker's event loop, so that the probes do not answer if the worker hangs.
    """
    config = server_config(
        probe_app(settings, metrics), ServerLimits.from_settings(settings), timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S
    )
    server = LocalServer("the probes", config, open_listening_sockets(host, port, option="--ops-port"))
    serving = asyncio.create_task(server.run_until_exit())
    try:
        yield
    finally:
        server.should_exit = True
        await serving
