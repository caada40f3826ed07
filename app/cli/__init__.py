"""The `callgate` command. `main` reports every expected failure in one line on standard error, which says what to do.

The modules of this package import at their top only what is needed to declare the commands. A command imports other modules
when it runs. A small command such as `callgate keys list` therefore needs much less memory than the API.
"""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import typer

from app import __version__
from app.cli import (
    apply,
    audit,
    callbacks,
    console,
    doctor,
    hours,
    keys,
    local,
    pace,
    processes,
    queue_calls,
    queue_release,
    queues,
    rehearse,
    rotate,
    secrets,
    sip,
    sip_credentials,
    tenants,
    workloads,
)
from app.cli.database_failures import command_failure
from app.cli.output import drop_unwritable_output
from app.errors import CommandFailed, DatabaseUnavailable
from app.revisions import newest_revision

# A full disk, an exhausted quota or a device error. If the error has a `filename`, it concerns that file, otherwise the output.
# If a pipe is closed, Typer itself ends the command.
_DISK_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

app = typer.Typer(
    name="callgate",
    help="A gateway in front of Twilio's Calls resource: one request, at most one ring.",
    epilog="Settings come from the environment (CALLGATE_…); docs/settings.md lists them all. Try `callgate demo` first.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
local.register_commands(app)
processes.register_commands(app)
callbacks.register_commands(tenants.tenants)
hours.register_commands(tenants.tenants)
rotate.register_commands(tenants.accounts)
queue_release.register_commands(queues.queues)
pace.register_commands(tenants.accounts)
app.add_typer(tenants.tenants, name="tenants")
app.add_typer(tenants.accounts, name="accounts")
app.add_typer(keys.keys, name="keys")
app.add_typer(sip_credentials.sip_credentials, name="sip-credentials")
queue_calls.register_commands(queues.queues)
app.add_typer(queues.queues, name="queues")
app.add_typer(workloads.workloads, name="workloads")
app.add_typer(console.console, name="console")
app.add_typer(secrets.secrets, name="secrets")
app.command()(apply.apply)
app.command()(audit.audit)
app.command()(rehearse.rehearse)
app.command()(doctor.doctor)
app.add_typer(sip.sip, name="sip")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"callgate {__version__}, schema {newest_revision()}")
        raise typer.Exit


@app.callback()
def callgate(
    context: typer.Context,
    version: bool = typer.Option(
        False,
        "--version",
        callback=_show_version,
        is_eager=True,
        help="Show the version and its schema's revision.",
    ),
) -> None:
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        if context.invoked_subcommand != "sip":  # it reports such an address itself
            raise typer.BadParameter("an argument is not UTF-8") from None


def main() -> None:
    """Runs a command. Exit codes: 0 success, 1 failure, 2 wrong usage, 3 not finished (run it again), 130 interrupted."""
    if sys.stdin is None:  # it was closed
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115  # until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that cannot show "…"
    try:
        app()
    except CommandFailed as error:
        _exit_with_error(str(error), error.exit_code)
    except DatabaseUnavailable as error:
        failure = command_failure(error)
        _exit_with_error(str(failure), failure.exit_code)
    except OSError as error:
        if error.errno not in _DISK_ERRNOS:
            raise
        drop_unwritable_output()
        failed = "the output or a file could not be written" if error.filename is None else f"{error.filename} cannot be used"
        _exit_with_error(f"{failed}: {error.strerror}", 1)


def _exit_with_error(message: str, code: int) -> NoReturn:
    try:
        typer.echo(f"callgate: {message}", err=True)
    except OSError:
        drop_unwritable_output()
    sys.exit(code)
