"""Which tenant a person may act for. A tenant's session reaches its own tenant only; an operator's reaches all."""

from uuid import UUID

from app.errors import ScopeRequired, TenantNotFound
from app.tenants.administration import TENANT_ID_PATTERN
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import ALL_SCOPES, Scope

Client = Caller | OperatorCaller


def reachable_tenant(client: Client, tenant_id: str) -> str:
    """Returns the tenant's id. Does not check that the tenant exists.

    Raises TenantNotFound if the id is invalid, or if the client acts for another tenant.
    """
    if client.tenant_id not in (None, tenant_id) or not TENANT_ID_PATTERN.fullmatch(tenant_id):
        raise TenantNotFound
    return tenant_id


def require_read(client: Client) -> None:
    """Raises ScopeRequired without the scope `read`. Used by forms that need `admin`, because their responses show records."""
    if Scope.READ not in client.scopes:
        raise ScopeRequired.of(Scope.READ)


def caller_for_tenant(client: Client, tenant_id: str) -> Caller:
    """Returns the client as a caller that acts for this tenant. Raises TenantNotFound."""
    reachable_tenant(client, tenant_id)
    if isinstance(client, Caller):
        return client
    # An operator's `admin` includes every scope within a tenant.
    scopes = ALL_SCOPES if Scope.ADMIN in client.scopes else client.scopes
    return Caller(tenant_id, client.key_id or UUID(int=0), client.name, False, scopes, kind=client.kind)
