"""Routes of queues.

All need `call` to change something, as calls do: a campaign is a queue made for it, and the limits of an account, which an
operator sets, apply to its calls in any case.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from app.admin.access import (
    BODY_ERRORS,
    READ_ERRORS,
    ActorDep,
    AdminRoute,
    parse_body,
    refuse_unknown_parameters,
)
from app.admin.pages import PageDep
from app.admin.problems import NOTHING_CHANGED
from app.errors import InvalidRequest, Overloaded, QueueNotFound, TenantSuspended
from app.http.authentication import CallerDep
from app.http.bodies import JsonBody
from app.http.openapi import headers, json_body, json_examples
from app.http.problems import responses
from app.http.routes import needs
from app.queues import examples
from app.queues.schemas import QueueDetails, QueuePage, QueueRecord, QueueSettings
from app.queues.service import QueueService
from app.scheduling.hours import HoursInvalid
from app.scheduling.schedule import QUEUE_NAME
from app.tenants.scopes import Scope

_PREFIX = "/v1/queues"
_PATH = f"{_PREFIX}/{examples.NAME}"
_NAME = "The queue's name: letters, digits and `._-`, at most 63."

router = APIRouter(
    prefix=_PREFIX,
    tags=["queues"],
    route_class=AdminRoute,
    dependencies=[Depends(refuse_unknown_parameters)],
)


async def queue_service(request: Request) -> QueueService:
    service: QueueService = request.state.queues
    return service


QueueServiceDep = Annotated[QueueService, Depends(queue_service)]
QueueName = Annotated[str, Path(description=_NAME, examples=[examples.NAME], pattern=f"^{QUEUE_NAME}$")]


@router.get(
    "",
    operation_id="list_queues",
    summary="List queues",
    responses={200: {"content": json_examples("queues")}, **responses(*READ_ERRORS, instance=_PREFIX)},
)
@needs(Scope.READ)
async def list_queues(caller: CallerDep, service: QueueServiceDep, page: PageDep) -> QueuePage:
    """Lists the tenant's queues by name, with their settings."""
    rows = await service.list(caller.tenant_id, after=page.after, limit=page.fetch_limit)
    shown, next_cursor = page.cut(rows, lambda row: row.name)
    return QueuePage(queues=[QueueRecord.of(row) for row in shown], next_cursor=next_cursor)


@router.get(
    "/{name}",
    operation_id="get_queue",
    summary="Get a queue and how far it is",
    responses={
        200: {"content": json_examples("queue_details")},
        **responses(QueueNotFound, *READ_ERRORS, Overloaded, instance=_PATH),
    },
)
@needs(Scope.READ)
async def get_queue(caller: CallerDep, service: QueueServiceDep, name: QueueName) -> QueueDetails:
    """Returns the settings, the numbers of calls, and what the next one waits for."""
    return QueueDetails.with_progress(*await service.progress(caller.tenant_id, name))


@router.put(
    "/{name}",
    operation_id="put_queue",
    summary="Create or change a queue",
    status_code=201,
    response_model=QueueRecord,
    response_description="The queue was created.",
    openapi_extra=json_body("QueueSettings", examples.SETTINGS),
    responses={
        200: {"model": QueueRecord, "description": "The queue as it is now.", "content": json_examples("queue")},
        201: {"headers": headers("Location"), "content": json_examples("queue")},
        **responses(*BODY_ERRORS, method="PUT", instance=_PATH),
    },
)
@needs(Scope.CALL)
async def put_queue(
    caller: CallerDep, service: QueueServiceDep, actor: ActorDep, name: QueueName, body: JsonBody, response: Response
) -> QueueRecord:
    """Creates the queue, or changes the members that the body has. Missing members stay as they are; null removes a value.

    A pause stops dialling; calls under way go on. Other hours apply to waiting calls, too.
    """
    if caller.suspended:
        raise TenantSuspended
    try:
        change = parse_body(QueueSettings, body).change
    except HoursInvalid as error:
        raise InvalidRequest(NOTHING_CHANGED, field_errors=error.field_errors) from None
    queue, created = await service.put(actor, caller.tenant_id, name, change)
    if created:
        response.headers["Location"] = f"{_PREFIX}/{queue.name}"
    else:
        response.status_code = 200
    return QueueRecord.of(queue)
