"""Declares which clients may use a route and which scope they need, and checks whether a client may use a route."""

from dataclasses import dataclass
from typing import Final, Literal

from app.errors import OperatorKeyRequired, ScopeRequired, TenantKeyRequired
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope

AllowedClients = Literal["tenant", "operator", "any"]


@dataclass(frozen=True, slots=True)
class RouteAccess:
    """The clients that a route accepts, and the scope they need. A route whose `scope` is None is public and needs no key."""

    scope: Scope | None
    clients: AllowedClients = "tenant"
    operator_scope: Scope | None = None
    """A scope that an operator may have instead of `scope`."""


PUBLIC_ACCESS: Final = RouteAccess(None)


def authorize(client: Caller | OperatorCaller, access: RouteAccess) -> None:
    """Checks that a client may use a route.

    Raises TenantKeyRequired or OperatorKeyRequired if the route does not accept this kind of client. Otherwise raises
    ScopeRequired if the client lacks the scope.
    """
    if isinstance(client, OperatorCaller):
        if access.clients == "tenant":
            raise TenantKeyRequired
    elif access.clients == "operator":
        raise OperatorKeyRequired
    if access.scope is None or access.scope in client.scopes:
        return
    if not isinstance(client, OperatorCaller) or access.operator_scope not in client.scopes:
        raise ScopeRequired.of(access.scope)
