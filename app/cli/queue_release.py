"""`callgate queues halt` stops the dialling of scheduled calls. `callgate queues release` resumes it.

Before it resumes, `release` finds out which calls were already dialled.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import AsJson, configure_error_logging, show_table, show_values
from app.cli.processes import service_settings
from app.cli.tenants import run_with_pool
from app.errors import CommandUnfinished

if TYPE_CHECKING:
    from app.jobs.release.service import ReleaseReport


def register_commands(queues: typer.Typer) -> None:
    queues.command("halt")(halt)
    queues.command("release")(release)


def halt(as_json: AsJson = False) -> None:
    """Stop dialling scheduled calls, of all tenants, until `callgate queues release`.

    Use it when the database may have lost which calls were dialled and Callgate cannot notice it, as after the restore of a
    snapshot. Immediate calls, cancellations and deadlines go on. When the command has ended with exit code 0, workers still
    dial the calls that they had already taken, but take no others. A `callgate queues release` that is running fails.
    """
    from app.audit.events import command_actor
    from app.scheduling.halt import GrantHaltCommand

    halted = run_with_pool(lambda pool: GrantHaltCommand(pool).run(command_actor()))
    if as_json:
        show_values({"since": halted.since, "was_halted": halted.was_halted, "certain": halted.is_complete}, as_json=True)
    elif halted.was_halted:
        since = f"{halted.since:%Y-%m-%d %H:%M:%S} UTC"
        typer.echo(f"Scheduled calls were halted already, since {since}. A release that is running fails.")
    else:
        typer.echo("No worker begins to dial another scheduled call. `callgate queues release` resumes them.")
    if not halted.is_complete:
        raise CommandUnfinished("grants are halted, but a transaction from before is still open: run the command again")


def release(
    skipped: Annotated[
        list[str] | None,
        typer.Option(
            "--skip-account",
            metavar="ACCOUNT_SID",
            help="An account that Twilio cannot be asked about: its due calls become unknown; can be repeated.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Search, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resume dialling scheduled calls after a failover or a restore.

    No call is dialled while the database may have lost which calls were dialled already. This command searches Twilio's lists
    for the calls that were due. A call that Twilio certainly has becomes started, and a call that Twilio may have becomes
    unknown; neither is dialled again. All other calls wait to be dialled. If Postgres is another server than before, or was
    restarted, the command first waits for up to two minutes. It can be interrupted and run again.
    """
    configure_error_logging()
    released = asyncio.run(_release_grants(skipped or [], is_dry_run=dry_run))
    accounts = [{"account_sid": each.account_sid, **each.calls} for each in released.accounts]
    is_halted = released.since is not None
    if as_json:
        show_values({"halted": is_halted, "since": released.since, "dry_run": dry_run, "accounts": accounts}, as_json=True)
    elif not is_halted:
        typer.echo("Scheduled calls are not halted: there is nothing to release.")
    else:
        if accounts:
            show_table(accounts, columns=["account_sid", "bound", "unknown", "waiting"], as_json=False)
        typer.echo("Nothing was changed." if dry_run else "Scheduled calls are dialled again.")


async def _release_grants(skipped: list[str], *, is_dry_run: bool) -> ReleaseReport:
    from app.audit.events import command_actor
    from app.jobs.release.service import GrantReleaseCommand
    from app.observability import Metrics
    from app.services import dial_time_budget, open_services

    settings = service_settings()
    budget = dial_time_budget(settings)
    async with open_services(settings, Metrics()) as state:
        grants = GrantReleaseCommand(
            database=state["database"],
            directory=state["directory"],
            twilio=state["twilio"],
            settlement=state["settlement"],
            max_start_delay=timedelta(seconds=budget.total_s + settings.abandon_margin),
            deadline_s=budget.attempt_s,
        )
        return await grants.run(command_actor(), skipped_account_sids=skipped, is_dry_run=is_dry_run, on_wait=_print_wait)


def _print_wait(seconds: float) -> None:
    typer.echo(f"Waiting {seconds:.0f} s for calls that another process may still be dialling.", err=True)
