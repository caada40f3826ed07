"""`callgate queues release`: lets scheduled calls be dialled again after the database may have lost grants."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import AsJson, log_errors, show_table
from app.cli.output import show as show_values
from app.cli.processes import service_settings

if TYPE_CHECKING:
    from app.jobs.release.service import Released


def register(queues: typer.Typer) -> None:
    queues.command("release")(release)


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
    """Dial scheduled calls again after a fail-over or a restore.

    Calls are not dialled while the database may have lost which ones were dialled already. This command searches Twilio's lists
    for those that were due. A call that Twilio certainly has is started, one that it may have becomes unknown, and neither is
    dialled again; the others wait for their turn. It can be interrupted and run again.
    """
    log_errors()
    released = asyncio.run(_run(skipped or [], is_dry_run=dry_run))
    accounts = [{"account_sid": each.account_sid, **each.calls} for each in released.accounts]
    is_halted = released.since is not None
    if as_json:
        show_values({"halted": is_halted, "since": released.since, "dry_run": dry_run, "accounts": accounts}, as_json=True)
    elif not is_halted:
        typer.echo("Grants are not halted; there is nothing to release.")
    else:
        if accounts:
            show_table(accounts, columns=["account_sid", "bound", "unknown", "waiting"], as_json=False)
        typer.echo("Nothing was changed." if dry_run else "Scheduled calls are dialled again.")


async def _run(skipped: list[str], *, is_dry_run: bool) -> Released:
    from app.audit.events import command_actor
    from app.jobs.release.service import GrantRelease
    from app.observability import Metrics
    from app.services import budget_of, services

    settings = service_settings()
    budget = budget_of(settings)
    async with services(settings, Metrics()) as state:
        grants = GrantRelease(
            database=state["database"],
            tenants=state["tenants"],
            twilio=state["twilio"],
            settlement=state["settlement"],
            longest_life=timedelta(seconds=budget.total + settings.abandon_margin),
            deadline_s=budget.attempt,
        )
        return await grants.run(command_actor(), skipped=skipped, is_dry_run=is_dry_run, on_wait=_print_wait)


def _print_wait(seconds: float) -> None:
    typer.echo(f"Waiting {seconds:.0f} s for calls that another process may still be dialling.", err=True)
