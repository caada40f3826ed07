"""`callgate tenants callbacks|callback-secret`: whom a tenant wants told of its calls' progress, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import AsJson, show
from app.cli.processes import service_settings
from app.cli.tenants import TenantId, ask
from app.tenants.callback_form import CallbackForm, CallbackMethod
from app.tenants.errors import OperatorError

if TYPE_CHECKING:
    from app.tenants.administration_store import TenantRow


class CallbackEvent(StrEnum):
    initiated = "initiated"
    ringing = "ringing"
    answered = "answered"
    completed = "completed"


def register(tenants: typer.Typer) -> None:
    tenants.command("callbacks")(configure)
    tenants.command("callback-secret")(renew_secret)


def configure(
    tenant: TenantId,
    url: Annotated[str | None, typer.Option("--url", help="Told of calls whose creation names no status_callback.")] = None,
    method: Annotated[CallbackMethod | None, typer.Option("--method", help="How it is told there; POST by default.")] = None,
    events: Annotated[
        list[CallbackEvent] | None, typer.Option("--event", help="Of which events; may be repeated; only completed by default.")
    ] = None,
    form: Annotated[
        CallbackForm | None, typer.Option("--format", help="twilio: as Twilio would tell it; json: our event with the record.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget the default URL, method and events first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set whom a tenant's calls are told to, or show it.

    What is not given stays as it is. The form is that of all the tenant's deliveries, whoever named the URL.
    """
    from app.deliveries.addresses import AllowList, UrlError, read_url

    if url is not None:
        allowed = AllowList.parse(service_settings().delivery_allow)
        if isinstance(fault := read_url(url, allowed), UrlError):
            raise OperatorError(f"the URL cannot be told anything ({fault.code}): {fault.detail}")
    row = ask(
        lambda service: service.configure_callbacks(
            tenant,
            url=url,
            method=method,
            events=[event.value for event in events or ()] or None,
            form=form,
            clear=clear,
        ),
    )
    show(_callbacks(row, as_json=as_json), as_json=as_json)


def renew_secret(tenant: TenantId, as_json: AsJson = False) -> None:
    """Make a new secret for signing deliveries and print it.

    It is shown this once, and signs from now on; a receiver that is to miss nothing accepts the old one for a moment more.
    """
    secret = ask(lambda service: service.renew_callback_secret(tenant))
    show({"tenant": tenant, "secret": secret}, as_json=as_json)


def _callbacks(row: TenantRow, *, as_json: bool) -> dict[str, Any]:
    events = row.status_callback_events
    return {
        "tenant": row.id,
        "url": row.status_callback,
        "method": row.status_callback_method,
        "events": events if as_json or events is None else ", ".join(events),
        "format": row.callback_format,
        "secret": "set" if row.has_callback_secret else "none yet",
    }
