"""`callgate audit`: lists the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.audit.events import UNNAMED_ACTOR
from app.cli.output import AsJson, show_table
from app.cli.tenants import run_with_pool
from app.cli.times import parse_time_or_age

if TYPE_CHECKING:
    from app.audit.store import AuditEventRow

_MAX_LIMIT = 10_000


def _parse_cursor(text: str) -> tuple[datetime, Any]:
    from app.audit.service import decode_audit_cursor

    before = decode_audit_cursor(text)
    if before is None:
        raise typer.BadParameter("it is not a cursor: copy it from the last line of an earlier list")
    return before


def audit(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]", help="Only changes of this tenant.")] = None,
    actor: Annotated[
        str | None,
        typer.Option(
            "--actor",
            help="Only changes by this user, API key (cgk_…) or workload: the part of ACTOR behind the colon; ? means no name.",
        ),
    ] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only changes of this kind, such as key.create.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since", parser=parse_time_or_age, metavar="WHEN", help="Only changes since then: 90d, 12h, 30m ago, or a time."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=_MAX_LIMIT, help="The maximum number of changes.")] = 100,
    cursor: Annotated[
        str | None,
        typer.Option(
            "--cursor", parser=_parse_cursor, metavar="CURSOR", help="Continue after an earlier list, which printed it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first.

    Each change of a tenant, an account, a credential, a key or the encryption keys is recorded with the names of the members
    that it changed, and never with a value. If there are more changes than the limit, the last line, on standard error, has the
    cursor for the following changes.
    """
    from app.audit.service import AuditLog
    from app.audit.store import AuditFilter

    filters = AuditFilter(
        tenant_id=tenant,
        actor_name=actor,
        action=action,
        since=since,
        before=cursor,  # type: ignore[arg-type]  # as `_parse_cursor` returns it
    )
    events, following = run_with_pool(lambda pool: AuditLog(pool).list(filters, limit=limit))
    rows = [_audit_row(event, as_json=as_json) for event in events]
    columns = ["at", "actor", "action", "tenant", "subject", "changed", "request_id"]
    show_table(rows, columns=columns, as_json=as_json)
    if following:
        typer.echo(f"more: --cursor {following}", err=True)


def _audit_row(event: AuditEventRow, *, as_json: bool) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": event.at,
        "actor": event.actor_name if as_json else f"{event.actor_kind}:{event.actor_name or UNNAMED_ACTOR}",
        "actor_kind": event.actor_kind,
        "action": event.action,
        "tenant": event.tenant_id,
        "subject": event.subject,
        "changed": event.changed if as_json else ", ".join(event.changed) or None,
        "request_id": event.request_id,
    }
