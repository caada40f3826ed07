"""`callgate doctor`: checks an installation and says how to fix it."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import AsJson, show_table
from app.cli.processes import service_settings
from app.errors import CommandFailed


def doctor(
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="Also check the service account token in this file (-: standard input). The token is not printed.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, database, encryption keys, accounts, the public URL and the signing keys of service account tokens.

    Each credential is checked with a request to Twilio that reads one call. Nothing is changed. The exit code is 1 if a check
    fails; warnings do not affect it.
    """
    from app.doctor.checks import run_checks
    from app.doctor.results import CheckResult
    from app.observability.logs import configure_logging
    from app.settings import SettingsError

    configure_logging(level="CRITICAL", format_="text", stream=sys.stderr)  # the table shows the same failures
    try:
        settings = service_settings()
    except SettingsError as error:
        results = [CheckResult("settings", "wrong", str(error), "docs/settings.md lists every setting")]
    else:
        results = asyncio.run(run_checks(settings, _read_service_account_token(token_file)))
    show_table([asdict(result) for result in results], columns=["state", "check", "found", "do"], as_json=as_json)
    if any(result.state == "wrong" for result in results):
        raise typer.Exit(1)


def _read_service_account_token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}") from None
    return content.decode("ascii", "replace").strip()
