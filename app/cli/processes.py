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

from app.cli.output import configure_error_logging
from app.cli.signals import stop_event_on_signal

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from app.database.engine import Database
    from app.settings import Settings

# uvicorn kills a process that does not respond for this long. On a busy machine a starting process takes a while to respond.
_WORKER_START_TIMEOUT_S = 60
Result = TypeVar("Result")

Port = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]
OpsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="A separate port for probes, metrics, docs and the admin API; /metrics and /v1/admin are then served only there "
        "(CALLGATE_OPS_PORT).",
    ),
]


def register_commands(app: typer.Typer) -> None:
    for command in (serve, worker, migrate, simulator, healthcheck):
        app.command()(command)


def service_settings() -> Settings:
    """Returns the settings. Raises SettingsError, which says what is missing, if there is no database URL or encryption key.

    If CALLGATE_DATABASE_URL is not set, uses the database of a `callgate dev` or `callgate demo` that runs now.
    """
    from app.local.state import settings_with_local_database
    from app.settings import SettingsError, load_settings

    settings = settings_with_local_database(load_settings())
    missing = []
    for require in (settings.require_database_url, settings.require_secret_keys):
        try:
            require()
        except SettingsError as error:
            missing.append(str(error))
    if missing:
        raise SettingsError("; ".join(missing))
    return settings


def create_api(ops_port: int | None = None) -> ASGIApp:
    """Creates the ASGI application that each process of `callgate serve` runs.

    `ops_port` is the separate port for probes, metrics, docs and the admin API. If it is None, the main port serves them too.
    """
    from app.cli.graceful_shutdown import GracefulShutdown
    from app.main import create_app
    from app.observability.logs import configure_logging
    from app.observability.tracing import tracing_from_environment

    settings = service_settings().model_copy(update={"ops_port": ops_port})
    configure_logging(level=settings.log_level, format_=settings.log_format)
    app = create_app(settings, tracing_from_environment())
    # The objects that exist now live until the end. Without freezing them, each full collection visits half a million objects,
    # which takes a quarter of all CPU time.
    gc.collect()
    gc.freeze()
    # Two hundred calls that wait for Twilio have tens of thousands of live objects, which must not trigger collections.
    gc.set_threshold(10_000, 10, 10)
    return GracefulShutdown(app, seconds=settings.linger) if settings.linger else app


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Port = 8000,
    ops_port: OpsPort = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="The number of processes. Use 1 in Kubernetes: /metrics shows only one process."),
    ] = 1,
) -> None:
    """Run the API.

    On SIGTERM it serves for CALLGATE_LINGER more seconds. Then it accepts no new requests, waits for the outcome of each call
    that it is creating at Twilio, for at most CALLGATE_DRAIN_TIMEOUT, and stores the outcome. It does not wait for the end of
    conversations.

    Requires CALLGATE_DATABASE_URL, CALLGATE_SECRET_KEYS and a schema that `callgate migrate` has updated. If the
    database cannot be reached, it starts nevertheless, responds with 503, and recovers by itself.
    """
    from app.http.limits import ServerLimits
    from app.http.listening import open_listening_sockets
    from app.http.server import server_config
    from app.serve_settings import require_serve_settings

    configure_error_logging()
    settings = service_settings()
    require_serve_settings(settings)
    ops_port = ops_port or settings.ops_port
    sockets = open_listening_sockets(host, port)
    if ops_port:
        sockets += open_listening_sockets(host, ops_port, option="--ops-port")
    config = server_config(
        partial(create_api, ops_port),
        ServerLimits.from_settings(settings, ops_port=ops_port),
        factory=True,
        workers=workers,
        timeout_worker_healthcheck=_WORKER_START_TIMEOUT_S,
        timeout_graceful_shutdown=round(settings.drain_timeout),
    )
    _run_server(config, sockets)


def _run_server(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    """Runs a uvicorn server on sockets that are already open, until it is stopped. Otherwise works as `uvicorn.run` does."""
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from app.http.server import Server

    if config.workers > 1:
        Multiprocess(config, sockets).run()
        return
    server = Server(config)
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
            help="The port for this worker's /livez, /readyz and /metrics (CALLGATE_OPS_PORT).",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on with --ops-port.")] = "127.0.0.1",
) -> None:
    """Run a worker. Any number can run.

    Dials scheduled calls, updates records from Twilio, delivers callbacks, and finds out what became of creations whose process
    died. Requires CALLGATE_DATABASE_URL and CALLGATE_SECRET_KEYS. On SIGTERM it begins no new work and finishes what it has
    begun.
    """
    from uvicorn.loops.auto import auto_loop_factory

    from app.jobs.worker import run_worker
    from app.local.probes import serving_probes
    from app.observability import Metrics
    from app.observability.logs import configure_logging
    from app.observability.tracing import tracing_from_environment

    settings = service_settings()
    configure_logging(level=settings.log_level, format_=settings.log_format)
    metrics = Metrics()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            if port := ops_port or settings.ops_port:
                await stack.enter_async_context(serving_probes(settings, metrics, host, port))
            await run_worker(settings, metrics, stop_event_on_signal(), tracing_from_environment())

    # uvicorn chooses the loop of the API in the same way: uvloop where it is installed.
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(run())


def migrate() -> None:
    """Update the database's schema.

    Run it before a new version starts; repeating it is safe. Requires CALLGATE_DATABASE_URL with a role that can create tables.
    """
    from app.local.state import settings_with_local_database
    from app.settings import load_settings

    configure_error_logging()
    if newer := migrate_database(settings_with_local_database(load_settings())):
        typer.echo(
            f"The schema has revision {newer}, of a newer version of Callgate. This version works with it and changes nothing."
        )
    else:
        typer.echo("The schema is up to date.")


def migrate_database(settings: Settings) -> str | None:
    """Migrates the schema, and creates the table partitions of the next months.

    If a newer version of Callgate has already migrated the schema, creates only the partitions, and returns the schema's
    revision; otherwise returns None. Must not be called inside an event loop. Raises MigrationFailed or DatabaseUnavailable.
    """
    from app.jobs.partitions import PartitionCreator
    from app.schema import migrate as migrate_schema
    from app.schema import revision_if_newer

    url = settings.require_database_url()
    newer = asyncio.run(_run_with_database(url, revision_if_newer))
    if newer is None:
        migrate_schema(url)
    # Create the next partitions before the first worker does: Postgres refuses some inserts while a partition is attached.
    asyncio.run(_run_with_database(url, lambda database: PartitionCreator(database).step()))
    return newer


async def _run_with_database(url: str, work: Callable[[Database], Awaitable[Result]]) -> Result:
    from app.database.engine import Database

    database = Database(url, pool_size=1)
    try:
        return await work(database)
    finally:
        await database.close()


def simulator(
    port: Port = 8010,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    speed: Annotated[float, typer.Option(min=0.01, help="Simulated seconds per second of real time.")] = 1.0,
    calls_per_second: Annotated[
        float | None, typer.Option(min=0.001, max=1000, help="Calls dialled per second and account; others are queued.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(min=0, help="Concurrent calls per account; others are refused with Twilio's error 10004.")
    ] = None,
) -> None:
    """Run the simulator of Twilio's API.

    It places no real calls; docs/simulator.md describes what it does. To use it, set CALLGATE_TWILIO_BASE_URL of
    `callgate serve` and `callgate worker` to its address.
    """
    from app.http.listening import open_listening_sockets
    from app.http.server import server_config
    from simulator.config import SimulatorConfig
    from simulator.limits import AccountLimits
    from simulator.main import create_app as create_simulator

    configure_error_logging()
    sockets = open_listening_sockets(host, port)
    limits = AccountLimits(calls_per_second=calls_per_second, max_concurrent=max_concurrent)
    app = create_simulator(SimulatorConfig(open_mode=True, speed=speed, limits=limits))
    typer.echo(f"The simulator listens on http://{host}:{port} (docs: /docs). Ctrl-C stops it.")
    _run_server(server_config(app, date_header=False, log_level="warning"), sockets)


def healthcheck(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="The URL to request, by default of the container's process. A response of 200 means healthy."
        ),
    ] = None,
) -> None:
    """Check the process in this container. Exit code 1 if it is not healthy."""
    from app.healthcheck import check_health

    if problem := check_health(url):
        typer.echo(f"callgate: {problem}", err=True)
        raise typer.Exit(1)
