"""`callgate console`: creates login links for the console, and lists and ends its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from app.cli.output import AsJson, creating_secret_to_print, show_table, show_values
from app.cli.processes import service_settings
from app.cli.tenants import run_with_pool
from app.errors import CommandFailed

if TYPE_CHECKING:
    from app.console.sessions.service import ConsoleSessions
    from app.database.pool import StatementPool, TransactionRunner

console = typer.Typer(help="The console: pages for people.", no_args_is_help=True)

_DEFAULT_CONSOLE_PORT = 8000


def _parse_console_url(text: str) -> str:
    from app.setting_values import parse_console_url

    try:
        return parse_console_url(text)
    except ValueError as error:
        raise typer.BadParameter(f"it {error}; use a URL such as https://calls-ops.example.com") from None


@console.command("link")
def print_login_link(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            parser=_parse_console_url,
            metavar="URL",
            help="The address of the console for you; by default CALLGATE_CONSOLE_URL, otherwise this machine.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that logs an operator in, with all scopes.

    It works once, within 15 minutes, for anyone who opens it: keep it secret. The audit log names the user who made it.
    """
    base = url or _default_console_url()
    with creating_secret_to_print(
        in_doubt="an unseen link may be valid for 15 minutes: run the command again to create another"
    ):
        shown = run_with_pool(lambda pool: create_login_link(pool, base))
    show_values({"link": shown}, as_json=True) if as_json else typer.echo(shown)


@console.command("sessions")
def list_console_sessions(as_json: AsJson = False) -> None:
    """List who is logged in, and the links that were not used.

    STATE is `logged in` for a session and `unused link` for a link. SEEN is the time of the last request, accurate to about a
    minute.
    """
    rows = [
        {
            "id": session.id,
            "who": f"{session.kind}:{session.name}",
            "tenant": session.tenant_id,
            "state": "unused link" if session.is_unused_link else "logged in",
            "created": session.created_at,
            "seen": session.seen_at,
            "expires": session.expires_at,
        }
        for session in run_with_pool(lambda pool: _console_sessions(pool).list())
    ]
    show_table(rows, columns=("id", "who", "tenant", "state", "created", "seen", "expires"), as_json=as_json)


@console.command("end")
def end_session(
    session: Annotated[UUID, typer.Argument(metavar="ID", help="The session, as `console sessions` shows it.")],
) -> None:
    """End a session of the console.

    A browser that is logged in is logged out with its next request. A login link that was not used yet stops working.
    """
    from app.audit.events import command_actor

    if not run_with_pool(lambda pool: _console_sessions(pool).end(session, command_actor())):
        raise CommandFailed(f"there is no session {session}, or it was ended before: `callgate console sessions` lists them")
    typer.echo(f"Ended the session {session}.")


def _console_sessions(pool: StatementPool) -> ConsoleSessions:
    from app.console.sessions.service import ConsoleSessions

    return ConsoleSessions.from_settings(pool, service_settings())


async def create_login_link(database: TransactionRunner, base_url: str) -> str:
    """Creates a link that logs an operator in once, and returns the link's URL."""
    from app.audit.events import command_actor
    from app.console.sessions.service import add_login_link

    return f"{base_url.rstrip('/')}/console/link/{await add_login_link(database, command_actor())}"


def _default_console_url() -> str:
    """Returns the base URL of a login link for which the command line gives no `--url`.

    If CALLGATE_DATABASE_URL is not set and `callgate dev` or `callgate demo` is running with the same CALLGATE_STATE_DIR, this
    is the URL of the running API. Otherwise it is CALLGATE_CONSOLE_URL or, if that is not set, a URL on this machine.
    """
    from app.local.state import StateFolder
    from app.settings import load_settings

    settings = load_settings()
    running = None if settings.database_url else StateFolder(settings.state_dir).find_running_stack()
    if running:
        return running.api_url
    return settings.console_url or f"http://127.0.0.1:{settings.ops_port or _DEFAULT_CONSOLE_PORT}"
