"""`callgate accounts pace`: limits how fast an account's calls are dialled, and how many are in progress at the same time."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import AsJson, show_values
from app.cli.tenants import TenantId, run_with_pace_administration

if TYPE_CHECKING:
    from app.scheduling.pace_limits import PaceChange


def _parse_rate(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number: write 1 or 0.5") from None


CallsPerSecond = Annotated[
    Decimal | None,
    typer.Option(
        "--calls-per-second", parser=_parse_rate, metavar="NUMBER", help="Calls dialled in one second, such as 1 or 0.5."
    ),
]
Burst = Annotated[int | None, typer.Option("--burst", help="Calls that may be dialled at once after a pause; 2 by default.")]
MaxConcurrent = Annotated[int | None, typer.Option("--max-concurrent", help="Calls that may be under way at the same time.")]
Unlimited = Annotated[bool, typer.Option("--unlimited", help="Remove all limits first.")]


def register_commands(accounts: typer.Typer) -> None:
    accounts.command("pace")(set_account_pace)


def set_account_pace(
    tenant: TenantId,
    account_sid: Annotated[str, typer.Argument(metavar="ACCOUNT_SID", help="AC and 32 hexadecimal digits.")],
    calls_per_second: CallsPerSecond = None,
    burst: Burst = None,
    max_concurrent: MaxConcurrent = None,
    unlimited: Unlimited = False,
    as_json: AsJson = False,
) -> None:
    """Set or show the pace of an account: its calls per second and its concurrent calls.

    Limits without an option stay unchanged. An account without a pace is not limited.
    """
    change = pace_change(calls_per_second, burst, max_concurrent, unlimited=unlimited)
    account, _, limits = run_with_pace_administration(
        lambda service: service.set_pace(tenant, account_sid=account_sid, change=change)
    )
    show_values({"tenant": tenant, "account_sid": account.account_sid} | limits.to_json(), as_json=as_json)


def pace_change(
    calls_per_second: Decimal | None, burst: int | None, max_concurrent: int | None, *, unlimited: bool
) -> PaceChange:
    """Converts the options to a change of limits. A limit without an option stays as it is or, with `unlimited`, is removed."""
    from app.scheduling.pace_limits import DEFAULT_BURST, PaceChange

    change = PaceChange(calls_per_second=None, burst=DEFAULT_BURST, max_concurrent=None) if unlimited else PaceChange()
    if calls_per_second is not None:
        change["calls_per_second"] = calls_per_second
    if burst is not None:
        change["burst"] = burst
    if max_concurrent is not None:
        change["max_concurrent"] = max_concurrent
    return change
