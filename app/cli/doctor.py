"""`callgate doctor`: is everything as it has to be, and if not, what to do."""

import asyncio
import sys
from dataclasses import asdict

import typer

from app.cli.output import AsJson, show_table
from app.cli.processes import service_settings


def doctor(as_json: AsJson = False) -> None:
    """Check settings, database, keys, accounts and the public URL.

    Each account's credentials are tried with a request that reads one call. Nothing is changed. Exit code 1 when something
    is wrong; what is merely worth knowing is a warning.
    """
    from app.doctor import CheckResult, examine
    from app.observability.logs import configure_logging
    from app.settings import SettingsError

    configure_logging(level="CRITICAL", format_="text", stream=sys.stderr)  # the table says it all, and once
    try:
        settings = service_settings()
    except SettingsError as error:
        results = [CheckResult("settings", "wrong", str(error), "docs/settings.md lists every setting")]
    else:
        results = asyncio.run(examine(settings))
    show_table([asdict(result) for result in results], columns=["state", "check", "found", "do"], as_json=as_json)
    if any(result.state == "wrong" for result in results):
        raise typer.Exit(1)
