"""What all routes of the admin API share: their class, who acts on which tenant, and how bodies are read.

    router = admin_router()

    @router.get("/tenants/{tenant_id}/things", …)
    @needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
    async def list_things(tenant_id: TenantDep, administration: TenantAdministrationDep, page: PageDep) -> ThingPage:

A tenant's own key reaches its own tenant only: for another, `TenantDep` answers as if it did not exist.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel, ValidationError

from app.admin.problems import NOTHING_CHANGED, problem_for
from app.audit.events import Actor
from app.errors import (
    BodyTooLarge,
    FieldError,
    InvalidRequest,
    MalformedBody,
    OperatorKeyRequired,
    TenantNotFound,
    TenantSuspended,
    UnsupportedMediaType,
)
from app.http.authentication import ClientDep
from app.http.field_errors import field_errors_from
from app.http.idempotency_key import REPLAYED_HEADER
from app.http.limits import WITHOUT_NUL
from app.http.openapi import headers, json_examples
from app.http.operations import ADMIN_PREFIX
from app.http.problems import READ_ERRORS
from app.http.routes import ScopedRoute
from app.security.keyring import Keyring
from app.tenants.administration import TenantAdministration
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.errors import OperatorError

Model = TypeVar("Model", bound=BaseModel)

CHANGE_ERRORS = (TenantSuspended, *READ_ERRORS)
BODY_ERRORS = (MalformedBody, BodyTooLarge, UnsupportedMediaType, *CHANGE_ERRORS)

EXAMPLE_TENANT = "support"
_SUSPENDED = "The tenant of this API key is suspended: its own keys change nothing until an operator resumes it."


class AdminRoute(ScopedRoute):
    """A route whose use cases raise OperatorError, which it turns into problems."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_translated(request: Request) -> Response:
            try:
                return await handle(request)
            except OperatorError as error:
                raise problem_for(error) from error

        return handle_translated


async def refuse_unknown_parameters(request: Request) -> None:
    """Raises InvalidRequest for a query parameter that the route does not have. A misspelt filter would show everything."""
    known = _query_names(request.scope["route"].dependant)
    if unknown := [name for name in request.query_params if name not in known]:
        raise InvalidRequest(
            field_errors=tuple(FieldError(f"?{name}", "unknown_parameter", "is no parameter of this route") for name in unknown)
        )


def _query_names(dependant: Dependant) -> set[str]:
    """Returns the names of the query parameters of an endpoint and of what it depends on."""
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*map(_query_names, dependant.dependencies))


def admin_router() -> APIRouter:
    return APIRouter(
        prefix=ADMIN_PREFIX,
        tags=["administration"],
        route_class=AdminRoute,
        dependencies=[Depends(refuse_unknown_parameters)],
    )


async def accessible_tenant(
    client: ClientDep,
    request: Request,
    tenant_id: Annotated[
        str, Path(description="The tenant's id.", examples=[EXAMPLE_TENANT], max_length=63, pattern=WITHOUT_NUL)
    ],
) -> str:
    """Returns the tenant's id. It need not exist.

    Raises TenantNotFound for another tenant than the one of a tenant's own key, and TenantSuspended for a change by a key of a
    suspended tenant.
    """
    if isinstance(client, Caller):
        if client.tenant_id != tenant_id:
            raise TenantNotFound
        if client.suspended and request.method != "GET":
            raise TenantSuspended(_SUSPENDED)
    return tenant_id


TenantDep = Annotated[str, Depends(accessible_tenant)]


async def acting_client(client: ClientDep, request: Request) -> Actor:
    """Returns the client of the request as the actor of the audit log."""
    return Actor(client.kind, client.name, request.state.request_id)


ActorDep = Annotated[Actor, Depends(acting_client)]


async def tenant_administration(request: Request, actor: ActorDep) -> TenantAdministration:
    keyring: Keyring = request.state.keyring
    return TenantAdministration(request.state.database, keyring, actor)


TenantAdministrationDep = Annotated[TenantAdministration, Depends(tenant_administration)]


def require_operator(client: Caller | OperatorCaller, what: str) -> None:
    """Raises OperatorKeyRequired for a tenant's own key. `what` names what only an operator may do."""
    if isinstance(client, Caller):
        raise OperatorKeyRequired(f"Only an operator's API key may {what}.")


def parse_body(model: type[Model], body: Mapping[str, Any]) -> Model:
    """Returns the body as the model. Raises InvalidRequest with all faults."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(NOTHING_CHANGED, field_errors=tuple(field_errors_from(error))) from None


def creation_responses(
    model: type[BaseModel], example: str, *, unchanged: str, repeated_example: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """Documents the answers 201 and 200 to a creation. `unchanged` describes the 200, the answer to a repeated request."""
    return {
        200: {
            "model": model,
            "description": unchanged,
            "headers": headers(REPLAYED_HEADER),
            "content": json_examples(repeated_example or example),
        },
        201: {"content": json_examples(example)},
    }


def mark_replayed(response: Response) -> None:
    """Makes the answer to a creation a 200: what was to be created exists, and nothing was changed."""
    response.status_code = 200
    response.headers[REPLAYED_HEADER] = "true"
