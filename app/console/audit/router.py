"""The page of the audit log. It shows the events that `GET /v1/admin/audit-events` returns."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.audit.service import AuditLog
from app.console.access import ConsoleClientDep, console_router, slot_limited_transactions
from app.console.audit.view import AUDIT_ACTIONS, AuditLine, AuditPageQuery
from app.console.page_size import PAGE_SIZE
from app.console.reads import TimeLimitedReads
from app.console.rendering import page_response
from app.http.routes import needs
from app.tenants.scopes import Scope

router = console_router("/audit")


@router.get("")
@needs(Scope.READ, clients="any")
async def list_audit_events(
    request: Request, client: ConsoleClientDep, query: Annotated[AuditPageQuery, Depends()]
) -> Response:
    """Lists who changed what, newest first. A tenant's session lists the changes of its own tenant only."""
    filters, errors = query.parse_filters(client.tenant_id)
    log = AuditLog(TimeLimitedReads(slot_limited_transactions(request)))
    events, cursor = ([], None) if errors else await log.list(filters, limit=PAGE_SIZE)
    return page_response(
        request,
        "audit/list.html",
        status=422 if errors else 200,
        lines=[AuditLine.from_row(event) for event in events],
        query=query,
        errors=errors,
        actions=AUDIT_ACTIONS,
        next_page=query.page_url(cursor),
    )
