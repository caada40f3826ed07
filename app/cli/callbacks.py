"""`callgate tenants callbacks|callback-secret`: where a tenant's status callbacks are delivered, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import AsJson, creating_secret_to_print, output_errors_as, show_values
from app.cli.processes import service_settings
from app.cli.tenants import TenantId, run_with_tenant_administration
from app.errors import CommandUnfinished
from app.tenants.callback_settings import CallbackFormat, CallbackMethod
from app.tenants.errors import AdministrationError

if TYPE_CHECKING:
    from app.tenants.administration_store import TenantRow


class CallbackEvent(StrEnum):
    settled = "settled"
    initiated = "initiated"
    ringing = "ringing"
    answered = "answered"
    completed = "completed"


def register_commands(tenants: typer.Typer) -> None:
    tenants.command("callbacks")(configure_callbacks)
    tenants.command("callback-secret")(renew_callback_secret)


def configure_callbacks(
    tenant: TenantId,
    url: Annotated[str | None, typer.Option("--url", help="The default URL, for calls without a status_callback.")] = None,
    method: Annotated[CallbackMethod | None, typer.Option("--method", help="The HTTP method; POST by default.")] = None,
    events: Annotated[
        list[CallbackEvent] | None,
        typer.Option("--event", help="An event to deliver; can be repeated; only completed by default."),
    ] = None,
    callback_format: Annotated[
        CallbackFormat | None,
        typer.Option("--format", help="twilio: Twilio's form fields; json: Callgate's event with the record."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the default URL, method and events first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set or show a tenant's callback defaults.

    Options that are not given stay unchanged. The format applies to all deliveries of the tenant, also to a call's own URL.
    """
    from app.deliveries.addresses import AllowList, UrlError, parse_delivery_url

    if url is not None:
        allowed = AllowList.parse(service_settings().delivery_allow)
        if isinstance(fault := parse_delivery_url(url, allowed), UrlError):
            raise AdministrationError(f"deliveries to this URL are not possible ({fault.code}): {fault.detail}")
    row = run_with_tenant_administration(
        lambda service: service.configure_callbacks(
            tenant,
            url=url,
            method=method,
            events=[event.value for event in events or ()] or None,
            callback_format=callback_format,
            clear=clear,
        ),
    )
    show_values(_callback_settings_row(row, as_json=as_json), as_json=as_json)


def renew_callback_secret(tenant: TenantId, as_json: AsJson = False) -> None:
    """Create a new secret for signing deliveries.

    The secret is printed only this time and signs all deliveries from now on. Receivers should accept the old secret for
    another minute, because deliveries that are signed with it may still arrive.
    """
    with creating_secret_to_print(
        in_doubt="a new secret that was not printed may already sign deliveries: run the command again to print another"
    ):
        secret = run_with_tenant_administration(lambda service: service.renew_callback_secret(tenant))
    with output_errors_as(CommandUnfinished("there is a new secret, but it could not be printed: run the command again")):
        show_values({"tenant": tenant, "secret": secret}, as_json=as_json)


def _callback_settings_row(row: TenantRow, *, as_json: bool) -> dict[str, Any]:
    events = row.status_callback_events
    return {
        "tenant": row.id,
        "url": row.status_callback,
        "method": row.status_callback_method,
        "events": events if as_json or events is None else ", ".join(events),
        "format": row.callback_format,
        "secret": "set" if row.has_callback_secret else "none yet",
    }
