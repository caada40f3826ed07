"""The route that lists the audit log."""

from typing import Annotated, Any

from fastapi import Query

from app.admin.access import EXAMPLE_TENANT_ID, SLOT_LIMITED_READ_ERRORS, TransactionsDep, admin_router
from app.admin.audit_events.schemas import AuditEventPage, AuditEventRecord
from app.admin.pages import unknown_cursor_error
from app.audit.service import AUDIT_CURSOR_PATTERN, AuditLog, decode_audit_cursor
from app.audit.store import AuditFilter
from app.errors import TenantNotFound
from app.http.authentication import ClientDep
from app.http.limits import NO_NUL_PATTERN
from app.http.openapi import json_example_references
from app.http.operations import ADMIN_PREFIX
from app.http.problems import error_responses
from app.http.routes import needs
from app.http.times import Timestamp
from app.tenants.caller import Caller
from app.tenants.scopes import Scope

router = admin_router()

_FILTER_RULES: dict[str, Any] = {"min_length": 1, "max_length": 256, "pattern": NO_NUL_PATTERN}
_CURSOR_RULES: dict[str, Any] = {"pattern": f"^{AUDIT_CURSOR_PATTERN.pattern}$"}
_EVENT_EXAMPLE = {
    "id": "01a20722-9f00-7c3e-9d4b-3f6f0c7b2a11",
    "at": "2026-11-28T12:00:31.004Z",
    "actor": {"kind": "key", "name": "cgk_0123456789ab"},
    "action": "tenant.update",
    "tenant_id": EXAMPLE_TENANT_ID,
    "subject": EXAMPLE_TENANT_ID,
    "changed": ["max_in_flight"],
    "request_id": "0199e2f0c7d27f0f8f1d8c1c0d6a4b11",
}
AUDIT_EVENT_EXAMPLES: dict[str, Any] = {
    "audit_events": {"summary": "The last page", "value": {"audit_events": [_EVENT_EXAMPLE], "next_cursor": None}}
}


@router.get(
    "/audit-events",
    operation_id="list_audit_events",
    summary="List who changed what, newest first",
    responses={
        200: {"content": json_example_references("audit_events")},
        **error_responses(TenantNotFound, *SLOT_LIMITED_READ_ERRORS, instance=f"{ADMIN_PREFIX}/audit-events"),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def list_audit_events(
    client: ClientDep,
    transactions: TransactionsDep,
    tenant: Annotated[str | None, Query(description="Changes of this tenant.", **_FILTER_RULES)] = None,
    actor: Annotated[
        str | None, Query(description="The actor's name, such as an API key's id; `?` for actors without one.", **_FILTER_RULES)
    ] = None,
    action: Annotated[str | None, Query(description="The kind of change, such as `key.create`.", **_FILTER_RULES)] = None,
    since: Annotated[Timestamp | None, Query(description="At this time or later. RFC 3339 with a time zone.")] = None,
    until: Annotated[Timestamp | None, Query(description="Before this time. RFC 3339 with a time zone.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="The maximum number of items on a page.")] = 50,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the previous page.", json_schema_extra=_CURSOR_RULES)
    ] = None,
) -> AuditEventPage:
    """Lists changes of tenants, accounts, credentials, keys and queues, and other recorded actions such as logins.

    A tenant's own key lists the changes of its own tenant only.
    """
    if isinstance(client, Caller):
        if tenant not in (None, client.tenant_id):
            raise TenantNotFound
        tenant = client.tenant_id
    before = None if cursor is None else decode_audit_cursor(cursor)
    if cursor is not None and before is None:
        raise unknown_cursor_error()
    filters = AuditFilter(tenant_id=tenant, actor_name=actor, action=action, since=since, until=until, before=before)
    events, next_cursor = await AuditLog(transactions).list(filters, limit=limit)
    return AuditEventPage(audit_events=[AuditEventRecord.from_row(event) for event in events], next_cursor=next_cursor)
