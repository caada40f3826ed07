"""Runs the API, the worker and the simulator in one process over one Postgres.

All parts run in one process, so that nothing is left running if it is killed. Linux then ends Postgres as well (parent-death
signal).
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog

from app.http.limits import ServerLimits
from app.http.listening import CannotListen, open_listening_sockets
from app.http.server import server_config
from app.jobs.worker import run_worker
from app.local.postgres import EmbeddedPostgres
from app.local.server import SHUTDOWN_TIMEOUT_S, LocalServer, StackFailed
from app.local.state import RunningStack, StateFolder
from app.main import create_app
from app.observability import Metrics
from app.settings import Settings
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator

logger = structlog.stdlib.get_logger(__name__)

_HOST = "127.0.0.1"
DEFAULT_API_PORT = 8000
DEFAULT_SIMULATOR_PORT = 8010
_MAX_PORT_TRIES = 100
# A call in the simulator takes 6 to 21 seconds, price included. Each status lasts for at least three refreshes: the worker
# refreshes a call after 0.1 s at first, then after a quarter of its age.
_SIMULATOR_SPEED = 2.0
_SIMULATED_PRICE_DELAY_S = 5.0
_REFRESH_INTERVAL_S = 0.1
_LOOPBACK_NETWORKS = "127.0.0.0/8,::1/128"


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Options of `callgate dev` and `callgate demo`: the ports, and whether to start the simulator.

    If a port is None, the first free port from the default port upwards is used. If it is 0, any free port is used.
    """

    port: int | None = None
    simulator_port: int | None = None
    simulator: bool = True


@contextmanager
def local_database(settings: Settings, folder: StateFolder) -> Iterator[tuple[Settings, str]]:
    """Yields settings with a database URL and encryption keys, and a text that says where the database is.

    If CALLGATE_DATABASE_URL is set, the settings keep its database. Otherwise this function runs an embedded Postgres until the
    end of the block. Call it in the main thread, outside an event loop: the embedded Postgres ends with the thread that started
    it. Raises StackAlreadyRunning if another `callgate dev` or `callgate demo` uses the folder.
    """
    folder.create()
    folder.require_not_running()
    with contextlib.ExitStack() as held:
        where = "the one of CALLGATE_DATABASE_URL"
        if settings.database_url is None:
            postgres = held.enter_context(EmbeddedPostgres(settings.state_dir))
            where = postgres.notice or f"embedded, data in {settings.state_dir / 'postgres'}"
            settings = _settings_with_values(settings, database_url=postgres.url)
        if settings.secret_keys is None:
            settings = settings.model_copy(update={"secret_keys": folder.get_or_create_secret_keys()})
        yield settings, where


@asynccontextmanager
async def running_stack(
    settings: Settings, folder: StateFolder, options: StackOptions, stop: asyncio.Event
) -> AsyncIterator[RunningStack]:
    """Starts the API, the worker and, unless `options` exclude it, the simulator. Stops them at the end of the block.

    Yields their addresses. If one of them ends by itself, sets `stop`, and raises StackFailed after the others have stopped.
    """
    with contextlib.ExitStack() as listeners:
        servers: list[LocalServer] = []
        simulator_url = None
        if options.simulator:
            listener = listeners.enter_context(_listen_at_or_after(options.simulator_port, DEFAULT_SIMULATOR_PORT))
            simulator_url = _listener_url(listener)
            servers.append(_simulator_server(listener))
            settings = _with_simulator_as_twilio(settings, simulator_url)
        settings = _settings_with_values(
            settings, delivery_allow=",".join(filter(None, [settings.delivery_allow, _LOOPBACK_NETWORKS]))
        )
        listener = listeners.enter_context(_listen_at_or_after(options.port, DEFAULT_API_PORT))
        servers.append(_api_server(settings, listener))
        stop_worker = asyncio.Event()
        serving = [asyncio.create_task(server.run_until_exit(), name=server.name) for server in servers]
        working = asyncio.create_task(run_worker(settings, Metrics(), stop_worker), name="the worker")
        parts = [*serving, working]
        for part in parts:
            part.add_done_callback(lambda _: stop.set())
        try:
            while not all(server.started for server in servers):  # uvicorn has no event for this
                if any(part.done() for part in parts):
                    break
                await asyncio.sleep(0.01)
            if not any(part.done() for part in parts):
                running = _describe_stack(settings, _listener_url(listener), simulator_url)
                with folder.announced_as_running(running):
                    yield running
        finally:
            stop_worker.set()
            # The API first: it may be waiting for the simulator's answer to a creation.
            for server, part in reversed(list(zip(servers, serving, strict=True))):
                server.should_exit = True
                await asyncio.wait([part])
            await asyncio.wait([working])
        for part in parts:
            if error := part.exception():
                logger.error("part_failed", part=part.get_name(), exc_info=error)
                raise StackFailed(f"{part.get_name()} failed, the log says where: {error or type(error).__name__}") from error


def _simulator_server(listener: socket.socket) -> "LocalServer":
    config = SimulatorConfig(open_mode=True, speed=_SIMULATOR_SPEED, price_delay_s=_SIMULATED_PRICE_DELAY_S)
    app = create_simulator(config)
    return LocalServer(
        "the simulator", server_config(app, date_header=False, timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S), [listener]
    )


def _api_server(settings: Settings, listener: socket.socket) -> "LocalServer":
    app = create_app(_settings_with_values(settings, ops_port=None))  # all on one port
    config = server_config(app, ServerLimits.from_settings(settings), timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S)
    return LocalServer("the API", config, [listener])


def _with_simulator_as_twilio(settings: Settings, url: str) -> Settings:
    """Returns the settings with the simulator's `url` in place of Twilio's, and with shorter intervals.

    The worker must read calls more often from the simulator than from Twilio, because simulated calls change faster.
    """
    poll_s = min(settings.worker_poll_interval, _REFRESH_INTERVAL_S)
    return _settings_with_values(
        settings, twilio_base_url=url, refresh_interval=_REFRESH_INTERVAL_S, worker_poll_interval=poll_s
    )


def _describe_stack(settings: Settings, api_url: str, simulator_url: str | None) -> RunningStack:
    keys = settings.secret_keys.get_secret_value() if settings.secret_keys else ""
    return RunningStack(
        api_url,
        simulator_url,
        settings.require_database_url(),
        keys,
        settings.twilio_base_url,
        settings.public_url,
        settings.delivery_allow,
    )


def _listen_at_or_after(port: int | None, default_port: int) -> socket.socket:
    """Returns a socket that listens on 127.0.0.1 at `port`. Raises CannotListen if no suitable port is free.

    If `port` is None, uses the first free port from `default_port` upwards.
    """
    if port is None:
        for candidate in range(default_port, default_port + _MAX_PORT_TRIES):
            with contextlib.suppress(CannotListen):
                return open_listening_sockets(_HOST, candidate)[0]
    return open_listening_sockets(_HOST, default_port if port is None else port)[0]


def _listener_url(listener: socket.socket) -> str:
    return f"http://{_HOST}:{listener.getsockname()[1]}"


def _settings_with_values(settings: Settings, **values: object) -> Settings:
    """Returns the settings with some values replaced. The new values are validated like values from the environment."""
    return Settings.model_validate(settings.model_dump(exclude_unset=True) | values)
