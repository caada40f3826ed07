"""`callgate dev|demo|clean`: everything on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli.output import log_errors
from app.cli.processes import migrate_database
from app.cli.signals import stop_on_signal

if TYPE_CHECKING:
    from app.local.stack import Plan
    from app.local.state import Running, StateFolder
    from app.settings import Settings

Result = TypeVar("Result")

AnyPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="The API's port; by default 8000 or the next that is free.")
]
WithParent = Annotated[bool, typer.Option("--with-parent", help="End when the process that started this one ends; for `make`.")]


def register(app: typer.Typer) -> None:
    for command in (dev, demo, clean):
        app.command()(command)


def dev(
    port: AnyPort = None,
    simulator_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The simulator's port; by default 8010 or the next that is free.")
    ] = None,
    simulator: Annotated[bool, typer.Option(help="Stand in for Twilio; without it calls go to the real one.")] = True,
    with_parent: WithParent = False,
) -> None:
    """Run everything on this machine.

    That is an embedded Postgres, the API, the worker and the simulator. Its data is kept in .callgate/ (CALLGATE_STATE_DIR).
    The other commands, run in the same folder without CALLGATE_DATABASE_URL, work on its database meanwhile.
    """
    from app.local.stack import Plan, local_database
    from app.local.state import StateFolder
    from app.observability.logs import configure_logging
    from app.settings import load_settings

    log_errors()
    settings = load_settings()
    folder = StateFolder(settings.state_dir)
    with local_database(settings, folder) as (settings, where):
        migrate_database(settings)
        configure_logging(level=settings.log_level, format_="text")
        plan = Plan(port, simulator_port, simulator)
        asyncio.run(_run_dev(settings, folder, plan, where, with_parent=with_parent))
    typer.echo("Everything is stopped.")


async def _run_dev(settings: Settings, folder: StateFolder, plan: Plan, where: str, *, with_parent: bool) -> None:
    from app.local.stack import running_stack

    stop = stop_on_signal(with_parent=with_parent)
    async with running_stack(settings, folder, plan, stop) as running:
        _print_places(running, where, plan)
        typer.echo("\nThe other `callgate` commands, run in this folder, work on this database. Ctrl-C ends everything.")
        await stop.wait()


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the call; the last line is its record as JSON.")] = False,
    port: AnyPort = None,
    with_parent: WithParent = False,
) -> None:
    """Place a SIP call and watch its record.

    Runs everything on this machine as `callgate dev` does, makes a tenant and an API key, sends a call through the gateway to
    the simulator, and shows what becomes of it. Then stays up to be tried, and prints how.
    """
    from app.local.demo import DemoFailed
    from app.local.stack import Plan, local_database
    from app.local.state import StateFolder
    from app.observability.logs import configure_logging
    from app.settings import load_settings

    log_errors()
    settings = load_settings()
    folder = StateFolder(settings.state_dir)
    typer.echo("Callgate demo: starting a PostgreSQL, the API, the worker and a stand-in for Twilio …\n")
    with local_database(settings, folder) as (settings, where), folder.demo_log.open("w") as log:
        migrate_database(settings)
        configure_logging(level=settings.log_level, format_="json", stream=log)
        record = asyncio.run(_run_demo(settings, folder, Plan(port=port), where, once=once, with_parent=with_parent))
    if not once:
        typer.echo("Everything is stopped.")
    elif record is None:
        raise DemoFailed("ended before the call was completed and priced")
    else:
        typer.echo(json.dumps(record))


async def _run_demo(
    settings: Settings, folder: StateFolder, plan: Plan, where: str, *, once: bool, with_parent: bool
) -> dict[str, Any] | None:
    """The call's record; None when it was told to stop before the call was priced."""
    from app.local.demo import place_and_watch, prepare_tenant
    from app.local.stack import running_stack
    from app.observability import Metrics
    from app.security.keyring import Keyring
    from app.services import services
    from app.tenants.administration import TenantAdministration

    stop = stop_on_signal(with_parent=with_parent)
    async with running_stack(settings, folder, plan, stop) as running:
        _print_places(running, where, plan)
        typer.echo(f"  Log        {folder.demo_log}\n")
        async with services(settings, Metrics()) as state:
            administration = TenantAdministration(state["database"], Keyring(settings.require_secret_keys()))
            key = await prepare_tenant(administration, state["tenants"], folder)
        record = await _unless(stop, place_and_watch(running, key, typer.echo))
        if record and not once:
            typer.echo(f"\nThe docs are at {running.api_url}/docs (Authorize with the key below). Place another call:\n")
            typer.echo(_curl(running.api_url, key))
            typer.echo("\nCtrl-C ends everything.")
            await stop.wait()
    return record


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What the work returns; None when it is to stop before."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait({working})
    return None


def clean() -> None:
    """Remove the state folder.

    With the data of the embedded Postgres, wherever it lies.
    """
    from app.local.postgres import remove
    from app.local.state import StateFolder
    from app.settings import load_settings

    folder = StateFolder(load_settings().state_dir)
    remove(folder.directory)
    folder.remove()
    typer.echo(f"Removed {folder.directory}.")


def _print_places(running: Running, where: str, plan: Plan) -> None:
    from app.local.stack import API_PORT

    typer.echo(f"  API        {running.api_url}  (docs: {running.api_url}/docs)")
    if plan.port is None and not running.api_url.endswith(f":{API_PORT}"):
        typer.echo(f"             (port {API_PORT} is taken by something else: mind that in the commands of the docs)")
    typer.echo(f"  Simulator  {running.simulator_url or 'none: calls go to Twilio'}")
    typer.echo(f"  Postgres   {where}")


def _curl(api_url: str, key: str) -> str:
    from app.local.demo import REQUEST

    return (
        f"  curl {api_url}/v1/calls \\\n"
        f"    -H 'Authorization: Bearer {key}' \\\n"
        f"    -H 'Content-Type: application/json' \\\n"
        f"    -d '{json.dumps(REQUEST)}'"
    )
