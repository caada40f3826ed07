"""`callgate serve|worker|migrate|simulator|healthcheck`: the processes of a deployment."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from app.cli.output import log_errors
from app.cli.signals import stop_on_signal

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from app.database.engine import Database
    from app.settings import Settings

# uvicorn kills a process that does not answer it for so long, and one that starts on a busy machine does not.
_WORKER_START_S = 60
Result = TypeVar("Result")

Port = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]
OpsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Another port, for probes, metrics and docs; /metrics is then served there alone (CALLGATE_OPS_PORT).",
    ),
]


def register(app: typer.Typer) -> None:
    for command in (serve, worker, migrate, simulator, healthcheck):
        app.command()(command)


def service_settings() -> Settings:
    """Settings with a database and encryption keys; SettingsError names all that is missing."""
    from app.local.state import with_local_database
    from app.settings import SettingsError, load_settings

    settings = with_local_database(load_settings())
    missing = []
    for require in (settings.require_database_url, settings.require_secret_keys):
        try:
            require()
        except SettingsError as error:
            missing.append(str(error))
    if missing:
        raise SettingsError("; ".join(missing))
    return settings


def api_of_this_environment(ops_port: int | None = None) -> ASGIApp:
    """What each process of `callgate serve` runs."""
    from app.cli.lingering import GracefulShutdown
    from app.main import create_app
    from app.observability.logs import configure_logging
    from app.observability.tracing import tracing_of_this_environment

    settings = service_settings().model_copy(update={"ops_port": ops_port})
    configure_logging(level=settings.log_level, format_=settings.log_format)
    app = create_app(settings, tracing_of_this_environment())
    # What is there by now stays: half a million objects that every full collection would look at, a quarter of all CPU.
    gc.collect()
    gc.freeze()
    # And what waits for Twilio is no garbage: two hundred calls are tens of thousands of objects.
    gc.set_threshold(10_000, 10, 10)
    return GracefulShutdown(app, seconds=settings.linger) if settings.linger else app


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Port = 8000,
    ops_port: OpsPort = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; one per pod in Kubernetes, for /metrics shows only the one that answers.")
    ] = 1,
) -> None:
    """Run the API.

    On SIGTERM it takes no new request and commits the outcome of every call that it has begun.

    Needs CALLGATE_DATABASE_URL and CALLGATE_SECRET_KEYS, and a schema that `callgate migrate` has brought up to date. Without
    a database it starts all the same, answers 503, and recovers by itself.
    """
    from app.http.limits import ServerLimits
    from app.http.listening import listen
    from app.http.server import server_config

    log_errors()
    settings = service_settings()
    ops_port = ops_port or settings.ops_port
    sockets = listen(host, port)
    if ops_port:
        sockets += listen(host, ops_port, option="--ops-port")
    config = server_config(
        partial(api_of_this_environment, ops_port),
        ServerLimits.of(settings),
        factory=True,
        workers=workers,
        timeout_worker_healthcheck=_WORKER_START_S,
        timeout_graceful_shutdown=round(settings.drain_timeout),
    )
    _run_server(config, sockets)


def _run_server(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    """As uvicorn.run does, on sockets of ours."""
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    if config.workers > 1:
        Multiprocess(config, sockets).run()
        return
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        raise typer.Exit(STARTUP_FAILURE)


def worker(
    ops_port: Annotated[
        int | None,
        typer.Option(
            "--ops-port",
            "--metrics-port",
            min=1,
            max=65535,
            help="Serve this worker's /livez, /readyz and /metrics there (CALLGATE_OPS_PORT).",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address of --ops-port.")] = "127.0.0.1",
) -> None:
    """Run the worker. Any number may run.

    It keeps records true and finds creations whose process died. Needs CALLGATE_DATABASE_URL and CALLGATE_SECRET_KEYS.
    On SIGTERM it finishes what it has begun.
    """
    from app.jobs.worker import run_worker
    from app.local.stack import probed
    from app.observability import Metrics
    from app.observability.logs import configure_logging
    from app.observability.tracing import tracing_of_this_environment

    settings = service_settings()
    configure_logging(level=settings.log_level, format_=settings.log_format)

    metrics = Metrics()

    async def run() -> None:
        async with AsyncExitStack() as meanwhile:
            if port := ops_port or settings.ops_port:
                await meanwhile.enter_async_context(probed(settings, metrics, host, port))
            await run_worker(settings, metrics, stop_on_signal(), tracing_of_this_environment())

    asyncio.run(run())


def migrate() -> None:
    """Bring the database's schema up to date.

    Run it once before a new version starts; it is safe to repeat. Needs CALLGATE_DATABASE_URL, as a user who may create tables.
    """
    from app.local.state import with_local_database
    from app.settings import load_settings

    log_errors()
    if newer := migrate_database(with_local_database(load_settings())):
        typer.echo(
            f"The schema has revision {newer}, of a newer version of Callgate. This version works with it and changes nothing."
        )
    else:
        typer.echo("The schema is up to date.")


def migrate_database(settings: Settings) -> str | None:
    """Returns the revision of a schema that is newer than this version, and is left as it is.

    Not inside an event loop. Raises DatabaseUnavailable when the database cannot be reached.
    """
    from app.jobs.partitions import Partitioner
    from app.schema import migrate as migrate_schema
    from app.schema import newer_revision

    url = settings.require_database_url()
    newer = asyncio.run(_with_database(url, newer_revision))
    if newer is None:
        migrate_schema(url)
    # Not left to the first worker: what is inserted while a partition is attached is refused.
    asyncio.run(_with_database(url, lambda database: Partitioner(database).step()))
    return newer


async def _with_database(url: str, work: Callable[[Database], Awaitable[Result]]) -> Result:
    from app.database.engine import Database

    database = Database(url, pool_size=1)
    try:
        return await work(database)
    finally:
        await database.close()


def simulator(
    port: Port = 8010,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    speed: Annotated[float, typer.Option(min=0.01, help="Call seconds that pass in one second.")] = 1.0,
) -> None:
    """Run the stand-in for Twilio.

    It serves the Calls resource and no phone rings; docs/simulator.md says what it does. Set CALLGATE_TWILIO_BASE_URL to its
    address, and `callgate serve` and `callgate worker` use it.
    """
    from app.http.listening import listen
    from app.http.server import server_config
    from simulator.config import SimulatorConfig
    from simulator.main import create_app as create_simulator

    log_errors()
    sockets = listen(host, port)
    app = create_simulator(SimulatorConfig(open_mode=True, speed=speed))
    typer.echo(f"The simulator listens on http://{host}:{port} (docs: /docs). Ctrl-C ends it.")
    _run_server(server_config(app, date_header=False, log_level="warning"), sockets)


def healthcheck(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="What to ask, by default the container's process; an answer of 200 is a good one."
        ),
    ] = None,
) -> None:
    """Ask the process in this container whether it is alive. Exit code 1 when it is not."""
    from app.healthcheck import check

    if problem := check(url):
        typer.echo(f"callgate: {problem}", err=True)
        raise typer.Exit(1)
