"""`callgate tenants hours`: when a tenant's scheduled calls may ring."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from app.cli.output import AsJson, show_values
from app.cli.tenants import TenantId, run_with_tenant_administration
from app.errors import CommandFailed


class Weekday(StrEnum):
    mon = "mon"
    tue = "tue"
    wed = "wed"
    thu = "thu"
    fri = "fri"
    sat = "sat"
    sun = "sun"


TimeZone = Annotated[
    str | None, typer.Option("--time-zone", metavar="ZONE", help="The IANA zone of callees whose own zone is unknown.")
]
Days = Annotated[list[Weekday] | None, typer.Option("--day", help="A day; can be repeated; every day by default.")]
HoursFrom = Annotated[str | None, typer.Option("--from", metavar="HH:MM", help="The first minute, such as 09:00.")]
HoursTo = Annotated[
    str | None, typer.Option("--to", metavar="HH:MM", help="The end, such as 18:00; a time before --from is on the next day.")
]


def register_commands(tenants: typer.Typer) -> None:
    tenants.command("hours")(set_hours)


def set_hours(
    tenant: TenantId,
    time_zone: TimeZone = None,
    days: Days = None,
    start: HoursFrom = None,
    end: HoursTo = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the hours: calls may ring at any time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set or show the hours in which a tenant's scheduled calls may ring.

    Hours are set as a whole: zone, beginning and end. They apply in the time zone of the callee. A queue's own hours replace
    them for its calls.
    """
    from app.tenants.administration_store import TenantSettings

    hours = calling_hours_from_options(time_zone, days, start, end)
    if hours is not None and clear:
        raise CommandFailed("--clear removes the hours: give it alone")
    changes = TenantSettings() if hours is None and not clear else TenantSettings(hours=hours)
    row = run_with_tenant_administration(lambda service: service.update_tenant(tenant, changes))
    stored = row.hours or {}
    members = {name: stored.get(name) for name in ("time_zone", "days", "from", "to")}
    show_values({"tenant": row.id} | members, as_json=as_json)


def calling_hours_from_options(
    time_zone: str | None, days: list[Weekday] | None, start: str | None, end: str | None
) -> dict[str, Any] | None:
    """Returns the options as calling hours in JSON; None if no option is given. Raises CommandFailed for invalid hours."""
    from app.scheduling.hours import CallingHoursInvalid, parse_calling_hours

    options = {"time_zone": time_zone, "days": [day.value for day in days or ()], "from": start, "to": end}
    given = {name: value for name, value in options.items() if value}
    if not given:
        return None
    try:
        return parse_calling_hours(given, pointer="").to_json()
    except CallingHoursInvalid as error:
        fault = error.field_errors[0]
        member = fault.pointer.split("/")[1]
        option = "--day" if member == "days" else f"--{member.replace('_', '-')}"
        raise CommandFailed(f"{option} {fault.detail.replace('`from`', '--from')}") from None
