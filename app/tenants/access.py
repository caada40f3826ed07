"""What a request needs of its client, and the check of it."""

from dataclasses import dataclass
from typing import Final, Literal

from app.errors import OperatorKeyRequired, ScopeRequired, TenantKeyRequired
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope

Clients = Literal["tenant", "operator", "any"]


@dataclass(frozen=True, slots=True)
class Access:
    """What a route needs. `scope` is None for a public route, which needs no key. `clients` says whose keys it takes."""

    scope: Scope | None
    clients: Clients = "tenant"
    operator_scope: Scope | None = None
    """Suffices for an operator's key instead of `scope`."""


PUBLIC: Final = Access(None)


def authorize(client: Caller | OperatorCaller, access: Access) -> None:
    """Raises TenantKeyRequired, OperatorKeyRequired or ScopeRequired, checked in this order."""
    if isinstance(client, OperatorCaller):
        if access.clients == "tenant":
            raise TenantKeyRequired
    elif access.clients == "operator":
        raise OperatorKeyRequired
    if access.scope is None or access.scope in client.scopes:
        return
    if not isinstance(client, OperatorCaller) or access.operator_scope not in client.scopes:
        raise ScopeRequired.of(access.scope)
