"""`callgate doctor`: checks an installation and says how to fix it."""

import asyncio
import sys
from dataclasses import asdict

import typer

from app.cli.output import AsJson, show_table
from app.cli.processes import service_settings


def doctor(as_json: AsJson = False) -> None:
    """Check settings, database, keys, accounts and the public URL.

    Each credential is checked with a request to Twilio that reads one call. Nothing is changed. The exit code is 1 if a check
    is wrong; warnings do not affect it.
    """
    from app.doctor.checks import CheckResult, run_checks
    from app.observability.logs import configure_logging
    from app.settings import SettingsError

    configure_logging(level="CRITICAL", format_="text", stream=sys.stderr)  # the table already says it
    try:
        settings = service_settings()
    except SettingsError as error:
        results = [CheckResult("settings", "wrong", str(error), "docs/settings.md lists every setting")]
    else:
        results = asyncio.run(run_checks(settings))
    show_table([asdict(result) for result in results], columns=["state", "check", "found", "do"], as_json=as_json)
    if any(result.state == "wrong" for result in results):
        raise typer.Exit(1)
