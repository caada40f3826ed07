"""Checks for which tenant a person may act: in a tenant's session only for this tenant, in an operator's session for all."""

from uuid import UUID

from app.errors import ScopeRequired, TenantNotFound
from app.tenants.administration import TENANT_ID_PATTERN
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import ALL_SCOPES, Scope

Client = Caller | OperatorCaller


def require_accessible_tenant(client: Client, tenant_id: str) -> str:
    """Returns `tenant_id` if the client may act for this tenant. Does not check that the tenant exists.

    Raises TenantNotFound if the id is invalid, or if the client acts for another tenant.
    """
    if client.tenant_id not in (None, tenant_id) or not TENANT_ID_PATTERN.fullmatch(tenant_id):
        raise TenantNotFound
    return tenant_id


def require_read_scope(client: Client) -> None:
    """Raises ScopeRequired if the client lacks the scope `read`.

    Forms need this scope as well as `admin`, because the responses to them show records.
    """
    if Scope.READ not in client.scopes:
        raise ScopeRequired.of(Scope.READ)


def caller_for_tenant(client: Client, tenant_id: str) -> Caller:
    """Returns the client as a Caller, which acts for this tenant only.

    Raises TenantNotFound if the client may not act for this tenant.
    """
    require_accessible_tenant(client, tenant_id)
    if isinstance(client, Caller):
        return client
    # An operator's `admin` includes every scope within a tenant.
    scopes = ALL_SCOPES if Scope.ADMIN in client.scopes else client.scopes
    return Caller(tenant_id, client.key_id or UUID(int=0), client.name, False, scopes, kind=client.kind)
