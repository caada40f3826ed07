"""Lets each route declare the scope that it needs. The scope is checked before the endpoint runs, and is shown in OpenAPI.

    router = APIRouter(route_class=ScopedRoute)

    @router.get("/v1/things")
    @needs(Scope.READ)
    async def list_things(caller: CallerDep) -> …

A `ScopedRoute` cannot be created without a declaration. `require_access_declarations` finds other routes without one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

from app.errors import (
    CallgateError,
    OperatorKeyRequired,
    ScopeRequired,
    TenantKeyRequired,
    TooManyAttempts,
    Unauthorized,
    WorkloadKeysUnavailable,
)
from app.http.authentication import authenticate_caller, authenticate_client
from app.http.problems import PROBLEM_MEDIA_TYPE, error_responses
from app.tenants.access import PUBLIC_ACCESS, AllowedClients, RouteAccess
from app.tenants.scopes import Scope

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_ACCESS_ATTRIBUTE = "access"
_WRONG_CLIENT_ERRORS: dict[AllowedClients, tuple[CallgateError, ...]] = {
    "tenant": (TenantKeyRequired(),),
    "operator": (OperatorKeyRequired(),),
    "any": (),
}


def needs(
    scope: Scope, *, clients: AllowedClients = "tenant", operator_scope: Scope | None = None
) -> Callable[[Endpoint], Endpoint]:
    """Returns a decorator which declares that an endpoint needs an API key with this scope.

    `clients` says whose keys are accepted: those of tenants, those of operators, or both ("any").
    An operator's key may have `operator_scope` instead of `scope`.
    """
    return _declare_access(RouteAccess(scope, clients, operator_scope))


def public(endpoint: Endpoint) -> Endpoint:
    """Declares that an endpoint needs no API key. This is a decorator."""
    return _declare_access(PUBLIC_ACCESS)(endpoint)


def _declare_access(access: RouteAccess) -> Callable[[Endpoint], Endpoint]:
    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ACCESS_ATTRIBUTE, access)
        return endpoint

    return declare


class ScopedRoute(APIRoute):
    """A route that first authenticates the client and checks its scope, as the endpoint declares with `needs` or `public`."""

    access: RouteAccess

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        declared = getattr(endpoint, _ACCESS_ATTRIBUTE, None)
        if not isinstance(declared, RouteAccess):
            raise TypeError(f"{path}: {endpoint.__name__} does not declare what it needs: see app/http/routes.py")
        self.access = declared
        if declared is not PUBLIC_ACCESS:
            options["dependencies"] = [Depends(self.authentication_dependency()), *(options.get("dependencies") or ())]
        super().__init__(path, endpoint, **options)

    def authentication_dependency(self) -> Callable[..., Any]:
        """Returns the FastAPI dependency that authenticates the client.

        FastAPI calls the dependency once per request, even if the endpoint depends on it as well.
        """
        return authenticate_caller if self.access.clients == "tenant" else authenticate_client


def add_routes(app: FastAPI, *routers: APIRouter) -> None:
    """Adds the routes of these routers to the app as they are.

    FastAPI's `include_router` builds each route a second time, which would take nearly all of the time in `create_app`.
    """
    for router in routers:
        app.router.routes.extend(router.routes)


def declared_access(route: RouteContext) -> RouteAccess | None:
    """Returns the access that the endpoint of a route, or the app mounted at it, declares with `needs` or `public`.

    Returns None if the endpoint declares nothing. Also returns None if it declares a scope but the route is not a
    `ScopedRoute`, because only a `ScopedRoute` checks scopes.
    """
    endpoint = route.endpoint or getattr(route.original_route, "app", None)
    declared = getattr(endpoint, _ACCESS_ATTRIBUTE, None)
    is_checked = isinstance(route.original_route, ScopedRoute) or declared is PUBLIC_ACCESS
    return declared if isinstance(declared, RouteAccess) and is_checked else None


def require_access_declarations(routes: Sequence[BaseRoute]) -> None:
    """Raises TypeError unless each route is public, or is a `ScopedRoute` that declares its scope."""
    undeclared = [route.path for route in iter_route_contexts(routes) if declared_access(route) is None]
    if undeclared:
        raise TypeError(f"these routes do not declare what they need, see app/http/routes.py: {undeclared}")


def describe_access(document: dict[str, Any], routes: Sequence[BaseRoute]) -> None:
    """Adds to each operation of the OpenAPI document the scope that it needs, and the errors of authentication."""
    for route, operation in _routes_with_operations(document, routes):
        access = declared_access(route)
        if access is None or access.scope is None:
            continue
        operation["x-scope"] = access.scope.value
        operation["description"] += f"\n\nNeeds {_key_description(access)} with the scope `{access.scope}`."
        if access.operator_scope is not None:
            operation["description"] += f" For an operator's key `{access.operator_scope}` suffices."
        method = next(iter(route.methods or ()))
        refusals = (
            Unauthorized(),
            TooManyAttempts(),
            ScopeRequired.of(access.scope),
            *_WRONG_CLIENT_ERRORS[access.clients],
            WorkloadKeysUnavailable(),
        )
        documented = error_responses(*refusals, method=method, instance=_example_path(operation) or str(route.path))
        _add_responses(operation["responses"], documented)


def _routes_with_operations(
    document: dict[str, Any], routes: Sequence[BaseRoute]
) -> Iterator[tuple[RouteContext, dict[str, Any]]]:
    for route in iter_route_contexts(routes):
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                yield route, operation


def _key_description(access: RouteAccess) -> str:
    return {"tenant": "a tenant's API key", "operator": "an operator's API key", "any": "an API key"}[access.clients]


def _example_path(operation: dict[str, Any]) -> str | None:
    """Returns the request path in the operation's first example of an error response; None if it has no such example."""
    for response in operation["responses"].values():
        for example in response.get("content", {}).get(PROBLEM_MEDIA_TYPE, {}).get("examples", {}).values():
            instance: str = example["value"]["instance"]
            return instance
    return None


def _add_responses(documented: dict[str, Any], more: dict[int | str, dict[str, Any]]) -> None:
    """Adds the responses `more` to `documented`, sorted by status. Responses with the same status are merged."""
    for status, response in more.items():
        known = documented.setdefault(str(status), response)
        if known is not response:
            examples, others = (
                response["content"][PROBLEM_MEDIA_TYPE]["examples"],
                known["content"][PROBLEM_MEDIA_TYPE]["examples"],
            )
            known["content"][PROBLEM_MEDIA_TYPE]["examples"] = examples | {
                slug: others[slug] for slug in others if slug not in examples
            }
            known["headers"] = known.get("headers", {}) | response.get("headers", {})
    in_order = sorted(documented.items())
    documented.clear()
    documented.update(in_order)
