"""`callgate console`: logs people in to the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import AsJson, show
from app.cli.tenants import run_with_pool

if TYPE_CHECKING:
    from app.database.pool import Transactions

console = typer.Typer(help="The console: pages for people.", no_args_is_help=True)

_DEFAULT_PORT = 8000


@console.callback()
def group() -> None:
    """Keeps `link` a command of its own."""


@console.command("link")
def print_link(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="The address of the console for you; by default CALLGATE_CONSOLE_URL, otherwise this machine."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that logs an operator in, with all scopes.

    It works once, within 15 minutes. Whoever has it is the operator. The audit log has the user who made it.
    """
    base = url or _local_address()
    shown = run_with_pool(lambda pool: login_address(pool, base))
    show({"link": shown}, as_json=True) if as_json else typer.echo(shown)


async def login_address(database: Transactions, base_url: str) -> str:
    """Returns the address of a new one-time link."""
    from app.audit.events import command_actor
    from app.console.sessions.service import add_login_link

    return f"{base_url.rstrip('/')}/console/link/{await add_login_link(database, command_actor())}"


def _local_address() -> str:
    """Returns the address of the `callgate dev` that runs in this folder, or that of a process on this machine."""
    from app.local.state import StateFolder
    from app.settings import load_settings

    settings = load_settings()
    running = None if settings.database_url else StateFolder(settings.state_dir).running()
    if running:
        return running.api_url
    return settings.console_url or f"http://127.0.0.1:{settings.ops_port or _DEFAULT_PORT}"
