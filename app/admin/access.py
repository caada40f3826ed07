"""Shared parts of the admin API's routes: the route class, FastAPI dependencies, and the parsing of request bodies.

    router = admin_router()

    @router.get("/tenants/{tenant_id}/things", …)
    @needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
    async def list_things(tenant_id: TenantIdDep, administration: TenantAdministrationDep, page: PageDep) -> ThingPage:

A tenant's own key can access only its own tenant. For any other tenant, `TenantIdDep` raises TenantNotFound.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ValidationError

from app.admin.problems import NOTHING_CHANGED_DETAIL, api_error_for_administration_error
from app.audit.events import Actor
from app.errors import (
    DatabaseUnavailable,
    InternalError,
    InvalidRequest,
    OperatorKeyRequired,
    Overloaded,
    TenantNotFound,
    TenantSuspended,
)
from app.http.authentication import ClientDep
from app.http.bodies import JSON_BODY_ERRORS
from app.http.concurrency import UNCHANGED_DETAIL, SlotLimitedTransactions
from app.http.field_errors import field_errors_from
from app.http.idempotency_key import REPLAYED_HEADER
from app.http.limits import NO_NUL_PATTERN
from app.http.openapi import header_references, json_example_references
from app.http.operations import ADMIN_PREFIX
from app.http.query import refuse_unknown_parameters
from app.http.routes import ScopedRoute
from app.security.keyring import Keyring
from app.tenants.administration import TenantAdministration
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.errors import AdministrationError

Model = TypeVar("Model", bound=BaseModel)

SLOT_LIMITED_READ_ERRORS = (InvalidRequest, InternalError, DatabaseUnavailable(UNCHANGED_DETAIL), Overloaded)
"""The errors that a route may raise if it reads through SlotLimitedTransactions."""
CHANGE_ERRORS = (TenantSuspended, *SLOT_LIMITED_READ_ERRORS)
"""The errors that a route may raise if it changes something."""
BODY_ERRORS = (*JSON_BODY_ERRORS, *CHANGE_ERRORS)
"""The error classes that a route may raise if it changes something and takes a JSON body."""

EXAMPLE_TENANT_ID = "support"
_SUSPENDED_DETAIL = "The tenant of this API key is suspended: its own keys change nothing until an operator resumes it."


class AdminRoute(ScopedRoute):
    """A route that raises an API error in place of each AdministrationError of its endpoint.

    Also replaces the default text of DatabaseUnavailable, which is about the creation of calls, with
    `database_unavailable_detail`. Keeps other texts: SlotLimitedTransactions has set them, and they say whether the request may
    have changed something.
    """

    database_unavailable_detail: ClassVar[str] = UNCHANGED_DETAIL

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_api_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except AdministrationError as error:
                raise api_error_for_administration_error(error) from error
            except DatabaseUnavailable as error:
                if error.detail == DatabaseUnavailable.default_detail:
                    error.detail = self.database_unavailable_detail
                raise

        return handle_with_api_errors


def admin_router() -> APIRouter:
    """Returns a router for the admin API. Its routes refuse unknown query parameters, and each is an AdminRoute."""
    return APIRouter(
        prefix=ADMIN_PREFIX,
        tags=["administration"],
        route_class=AdminRoute,
        dependencies=[Depends(refuse_unknown_parameters)],
    )


async def accessible_tenant_id(
    client: ClientDep,
    request: Request,
    tenant_id: Annotated[
        str, Path(description="The tenant's id.", examples=[EXAMPLE_TENANT_ID], max_length=63, pattern=NO_NUL_PATTERN)
    ],
) -> str:
    """Returns the tenant's id from the path. Does not check that the tenant exists.

    Raises TenantNotFound if a tenant's own key is used for another tenant, and TenantSuspended if a key of a suspended tenant
    is used for a change.
    """
    if isinstance(client, Caller):
        if client.tenant_id != tenant_id:
            raise TenantNotFound
        if client.suspended and request.method != "GET":
            raise TenantSuspended(_SUSPENDED_DETAIL)
    return tenant_id


TenantIdDep = Annotated[str, Depends(accessible_tenant_id)]


async def audit_actor_of_request(client: ClientDep, request: Request) -> Actor:
    """Returns the client of the request as the actor that the audit log records."""
    return Actor(client.kind, client.name, request.state.request_id)


ActorDep = Annotated[Actor, Depends(audit_actor_of_request)]


async def administration_transactions(request: Request, client: ClientDep) -> SlotLimitedTransactions:
    """Returns a runner of database transactions that limits how many transactions of one tenant run at the same time.

    A transaction above the limit waits. All operators together count as one tenant.
    """
    return SlotLimitedTransactions(request.state.database, request.state.administration_limit, client.tenant_id)


TransactionsDep = Annotated[SlotLimitedTransactions, Depends(administration_transactions)]


async def tenant_administration(request: Request, actor: ActorDep, transactions: TransactionsDep) -> TenantAdministration:
    keyring: Keyring = request.state.keyring
    return TenantAdministration(transactions, keyring, actor)


TenantAdministrationDep = Annotated[TenantAdministration, Depends(tenant_administration)]


def require_operator(client: Caller | OperatorCaller, action: str) -> None:
    """Raises OperatorKeyRequired, "Only an operator's API key may {action}.", if the request has a tenant's own key."""
    if isinstance(client, Caller):
        raise OperatorKeyRequired(f"Only an operator's API key may {action}.")


def parse_body(model: type[Model], body: Mapping[str, Any]) -> Model:
    """Returns the body as an instance of `model`. Raises InvalidRequest, which lists all invalid members."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(NOTHING_CHANGED_DETAIL, field_errors=tuple(field_errors_from(error))) from None


def openapi_creation_responses(
    model: type[BaseModel], example: str, *, unchanged_description: str, repeated_example: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """Returns the OpenAPI responses 201 and 200 of a route that creates a resource.

    `unchanged_description` is the description of 200, the answer to a repeated request. `example` is the name of the OpenAPI
    component with the example of 201. `repeated_example` names the component with the example of 200. If it is None, 200 has
    the same example as 201.
    """
    return {
        200: {
            "model": model,
            "description": unchanged_description,
            "headers": header_references(REPLAYED_HEADER),
            "content": json_example_references(repeated_example or example),
        },
        201: {"content": json_example_references(example)},
    }


def mark_response_as_replayed(response: Response) -> None:
    """Sets the status 200 and the header REPLAYED_HEADER. They tell the client that its creation was a repeated request."""
    response.status_code = 200
    response.headers[REPLAYED_HEADER] = "true"
