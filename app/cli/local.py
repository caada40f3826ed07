"""`callgate dev|demo|clean`: runs all parts of Callgate on this machine and prints their addresses, or removes their data."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli.output import configure_error_logging
from app.cli.processes import migrate_database
from app.cli.signals import stop_event_on_signal

if TYPE_CHECKING:
    from app.local.stack import StackOptions
    from app.local.state import RunningStack, StateFolder
    from app.settings import Settings

Result = TypeVar("Result")

ApiPort = Annotated[int | None, typer.Option(min=0, max=65535, help="The API's port; by default 8000 or the next free port.")]
WithParent = Annotated[bool, typer.Option("--with-parent", help="Stop when the parent process ends; for `make`.")]


def register_commands(app: typer.Typer) -> None:
    for command in (dev, demo, clean):
        app.command()(command)


def dev(
    port: ApiPort = None,
    simulator_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The simulator's port; by default 8010 or the next free port.")
    ] = None,
    simulator: Annotated[
        bool | None,
        typer.Option(
            "--simulator/--no-simulator",
            help="Whether calls go to the simulator (the default) or to Twilio. --simulator also accepts a database of "
            "CALLGATE_DATABASE_URL that has tenants.",
            show_default=False,
        ),
    ] = None,
    with_parent: WithParent = False,
) -> None:
    """Run everything on this machine.

    Starts an embedded Postgres, the API, the worker and the simulator. The data is kept in .callgate/ (CALLGATE_STATE_DIR).
    While it runs, other commands in the same folder use its database, unless CALLGATE_DATABASE_URL is set.
    """
    from app.local.stack import StackOptions, local_database
    from app.local.state import StateFolder
    from app.observability.logs import configure_logging

    parent = os.getppid() if with_parent else None
    configure_error_logging()
    settings = _settings_for_api()
    folder = StateFolder(settings.state_dir)
    if simulator is None:
        _refuse_database_with_tenants(settings)
    with local_database(settings, folder) as (settings, database_location):
        migrate_database(settings)
        configure_logging(level=settings.log_level, format_="text")
        options = StackOptions(port, simulator_port, simulator is not False)
        asyncio.run(_run_dev(settings, folder, options, database_location, parent=parent))
    typer.echo("Everything is stopped.")


def _settings_for_api() -> Settings:
    """Returns the settings. Raises SettingsError if the API cannot run with them."""
    from app.serve_settings import require_serve_settings
    from app.settings import load_settings

    settings = load_settings()
    require_serve_settings(settings)
    return settings


def _refuse_database_with_tenants(settings: Settings) -> None:
    """Raises DatabaseHasTenants if the database of CALLGATE_DATABASE_URL has a tenant other than that of `callgate demo`."""
    from app.cli.tenants import run_with_pool_for_settings
    from app.local.configured_database import require_no_other_tenants

    if settings.database_url is not None:
        asyncio.run(run_with_pool_for_settings(settings, require_no_other_tenants))


async def _run_dev(
    settings: Settings, folder: StateFolder, options: StackOptions, database_location: str, *, parent: int | None
) -> None:
    from app.local.stack import running_stack

    stop = stop_event_on_signal(parent=parent)
    async with running_stack(settings, folder, options, stop) as running:
        _print_addresses(running, database_location, options)
        await _print_console_link(settings, running)
        typer.echo("\nOther `callgate` commands in this folder use this database. Ctrl-C stops everything.")
        await stop.wait()


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the call; the last line is its record as JSON.")] = False,
    port: ApiPort = None,
    with_parent: WithParent = False,
) -> None:
    """Place a SIP call and watch its record.

    Starts everything on this machine, as `callgate dev` does. Creates a tenant and an API key, places a call through the
    gateway to the simulator, and shows its progress. Then keeps running and prints a command to try.
    """
    from app.local.demo import DemoFailed
    from app.local.stack import StackOptions, local_database
    from app.local.state import StateFolder
    from app.observability.logs import configure_logging

    parent = os.getppid() if with_parent else None
    configure_error_logging()
    settings = _settings_for_api()
    folder = StateFolder(settings.state_dir)
    _refuse_database_with_tenants(settings)
    typer.echo("Callgate demo: starting PostgreSQL, the API, the worker and the simulator …\n")
    with local_database(settings, folder) as (settings, database_location), folder.demo_log.open("w") as log:
        migrate_database(settings)
        configure_logging(level=settings.log_level, format_="json", stream=log)
        record = asyncio.run(_run_demo(settings, folder, StackOptions(port=port), database_location, once=once, parent=parent))
    if not once:
        typer.echo("Everything is stopped.")
    elif record is None:
        raise DemoFailed("stopped before the call was completed and priced")
    else:
        typer.echo(json.dumps(record))


async def _run_demo(
    settings: Settings, folder: StateFolder, options: StackOptions, database_location: str, *, once: bool, parent: int | None
) -> dict[str, Any] | None:
    """Runs all parts of Callgate, places the demo's call, and returns the call's record when the call has a price.

    Without `once`, then keeps running until a signal arrives or the parent process with the id `parent` ends. Returns None if
    the demo was stopped before the call had a price.
    """
    from app.audit.events import command_actor
    from app.local.demo import place_demo_call, prepare_demo_tenant
    from app.local.stack import running_stack
    from app.observability import Metrics
    from app.security.keyring import Keyring
    from app.services import open_services
    from app.tenants.administration import TenantAdministration

    stop = stop_event_on_signal(parent=parent)
    async with running_stack(settings, folder, options, stop) as running:
        _print_addresses(running, database_location, options)
        typer.echo(f"  Log        {folder.demo_log}")
        await _print_console_link(settings, running)
        typer.echo()
        async with open_services(settings, Metrics()) as state:
            administration = TenantAdministration(state["database"], Keyring(settings.require_secret_keys()), command_actor())
            key = await prepare_demo_tenant(administration, state["directory"], folder)
        record = await _run_until(stop, place_demo_call(running, key, typer.echo))
        if record and not once:
            typer.echo(f"\nThe docs are at {running.api_url}/docs (Authorize with the key below). Place another call:\n")
            typer.echo(_curl_command(running.api_url, key))
            typer.echo("\nCtrl-C stops everything.")
            await stop.wait()
    return record


async def _run_until(stop: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Awaits `work` and returns its result. If `stop` is set first, cancels the work and returns None."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait({working})
    return None


def clean() -> None:
    """Remove the data of `callgate dev` and `callgate demo`.

    Removes the folder .callgate/ (CALLGATE_STATE_DIR), and the data of the embedded Postgres, which may be elsewhere.
    """
    from app.local.postgres import remove_postgres_data
    from app.local.state import StateFolder
    from app.settings import load_settings

    folder = StateFolder(load_settings().state_dir)
    folder.require_not_running()
    remove_postgres_data(folder.directory)
    folder.remove()
    typer.echo(f"Removed {folder.directory}.")


def _print_addresses(running: RunningStack, database_location: str, options: StackOptions) -> None:
    from app.local.stack import DEFAULT_API_PORT

    typer.echo(f"  API        {running.api_url}  (docs: {running.api_url}/docs)")
    if options.port is None and not running.api_url.endswith(f":{DEFAULT_API_PORT}"):
        typer.echo(f"             (port {DEFAULT_API_PORT} is in use by another process: adjust the commands in the docs)")
    public_url = running.public_url or running.api_url
    if public_url.startswith("http://127.0.0.1:") and public_url != running.api_url:
        typer.echo(f"             (callbacks go to {public_url}: set CALLGATE_PUBLIC_URL={running.api_url} to get them here)")
    typer.echo(f"  Simulator  {running.simulator_url or 'none: calls go to Twilio'}")
    typer.echo(f"  Postgres   {database_location}")


async def _print_console_link(settings: Settings, running: RunningStack) -> None:
    """Prints a link that logs an operator in to the console once. Prints nothing if the console is off."""
    from app.cli.console import create_login_link
    from app.cli.tenants import run_with_pool_for_settings

    if not settings.console:
        return
    address = await run_with_pool_for_settings(settings, lambda pool: create_login_link(pool, running.api_url))
    typer.echo(f"  Console    {address}\n             (logs you in, once; `callgate console link` prints another)")


def _curl_command(api_url: str, key: str) -> str:
    from app.local.demo import DEMO_REQUEST

    return (
        f"  curl {api_url}/v1/calls \\\n"
        f"    -H 'Authorization: Bearer {key}' \\\n"
        f"    -H 'Content-Type: application/json' \\\n"
        f"    -d '{json.dumps(DEMO_REQUEST)}'"
    )
