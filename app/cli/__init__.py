"""The `callgate` command. `main` turns every expected failure into one line on stderr that says what to do."""

import io
import sys

import typer

from app import __version__
from app.cli import callbacks, doctor, local, processes, secrets, sip, tenants
from app.database.errors import describe
from app.errors import DatabaseUnavailable
from app.http.listening import CannotListen
from app.local.demo import DemoFailed
from app.local.postgres import PostgresError
from app.local.stack import AlreadyRunning, StackFailed
from app.local.state import StateFolderUnusable
from app.observability import configure_logging
from app.schema import MigrationFailed
from app.settings import SettingsError
from app.tenants.errors import OperatorError

app = typer.Typer(
    name="callgate",
    help="A gateway in front of Twilio's Calls resource: one request, at most one ring.",
    epilog="Settings come from the environment (CALLGATE_…); docs/settings.md lists them all. To see it work: `callgate demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
local.register(app)
processes.register(app)
callbacks.register(tenants.tenants)
app.add_typer(tenants.tenants, name="tenants")
app.add_typer(tenants.accounts, name="accounts")
app.add_typer(tenants.keys, name="keys")
app.add_typer(secrets.secrets, name="secrets")
app.command()(doctor.doctor)
app.add_typer(sip.sip, name="sip")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"callgate {__version__}")
        raise typer.Exit


@app.callback()
def callgate(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Exit code 0: done; 1: could not be done; 2: asked for wrongly; 130: interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show "…" is no reason to fail
    configure_logging(level="ERROR", format_="text", stream=sys.stderr)  # processes log as their settings say
    try:
        app()
    except SettingsError as error:
        _fail(str(error), 2)
    except (
        OperatorError,
        MigrationFailed,
        PostgresError,
        StateFolderUnusable,
        AlreadyRunning,
        CannotListen,
        StackFailed,
        DemoFailed,
    ) as error:
        _fail(str(error), 1)
    except DatabaseUnavailable as error:
        _fail(f"the database cannot be used ({describe(error)}): check CALLGATE_DATABASE_URL, then run `callgate migrate`", 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"callgate: {message}", err=True)
    sys.exit(code)
