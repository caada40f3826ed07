"""Routes of queues, and the size limits of requests that add many calls.

Requests that change a queue need the scope `call`, like requests that create calls, because services create queues for their
campaigns. The limits of the account, which an operator sets, still apply.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Scope as ASGIScope

from app.admin.access import BODY_ERRORS, SLOT_LIMITED_READ_ERRORS, ActorDep, AdminRoute, TransactionsDep, parse_body
from app.admin.pages import PageDep
from app.admin.problems import NOTHING_CHANGED_DETAIL
from app.errors import (
    BodyTooLarge,
    CallgateError,
    DatabaseUnavailable,
    FieldError,
    InvalidRequest,
    Overloaded,
    QueueNotFound,
    RequestTimeout,
    TenantSuspended,
    UnsupportedMediaType,
)
from app.http.authentication import CallerDep
from app.http.bodies import NO_BODY_ERRORS, JsonBody, media_type_of, refuse_body
from app.http.idempotency_key import refuse_idempotency_key
from app.http.openapi import header_references, json_example_references, json_request_body
from app.http.problems import DATABASE_READ_ERRORS, error_responses, problem_json, problem_of
from app.http.query import refuse_unknown_parameters
from app.http.request_log import count_error
from app.http.routes import needs
from app.observability.context import bind_log_fields
from app.queues import examples
from app.queues.bulk import BulkLineResult, BulkService
from app.queues.cancellation import QueueCancellation
from app.queues.lines import parse_bulk_line
from app.queues.schemas import CancelAnswer, QueueDetails, QueuePage, QueueRecord, QueueSettings
from app.queues.service import QueueService
from app.scheduling.hours import CallingHoursInvalid
from app.subresources.router import ResponseStackDep
from app.tenants.names import RESOURCE_NAME_PATTERN
from app.tenants.scopes import Scope

_PREFIX = "/v1/queues"
_EXAMPLE_QUEUE_PATH = f"{_PREFIX}/{examples.NAME}"
_BULK_PATH = re.compile(rf"{_PREFIX}/[^/]+/calls")
NDJSON_MEDIA_TYPE: Final = "application/x-ndjson"
MAX_BULK_LINES: Final = 1_000
MAX_BULK_BYTES: Final = 4 * 1024 * 1024
_NAME_DESCRIPTION = "The queue's name: letters, digits and `._-`, at most 63."


class BulkRoute(AdminRoute):
    """A route that creates calls. If the database is unavailable, its 503 says that the request placed no call."""

    database_unavailable_detail = DatabaseUnavailable.default_detail


_DEPENDENCIES = [Depends(refuse_unknown_parameters)]
router = APIRouter(prefix=_PREFIX, tags=["queues"], route_class=AdminRoute, dependencies=_DEPENDENCIES)
bulk_router = APIRouter(prefix=_PREFIX, tags=["queues"], route_class=BulkRoute, dependencies=_DEPENDENCIES)


async def queue_service(request: Request, transactions: TransactionsDep) -> QueueService:
    """Returns the queue service, which runs only a few transactions of one tenant at the same time."""
    service: QueueService = request.state.queues
    return replace(service, database=transactions)


async def unlimited_queue_service(request: Request) -> QueueService:
    """Returns the queue service without a limit on the transactions of one tenant, unlike `queue_service`.

    Use it to read the progress of a queue, which has a limit of its own, or to read a single row.
    """
    service: QueueService = request.state.queues
    return service


QueueServiceDep = Annotated[QueueService, Depends(queue_service)]
UnlimitedQueueServiceDep = Annotated[QueueService, Depends(unlimited_queue_service)]
QueueName = Annotated[str, Path(description=_NAME_DESCRIPTION, examples=[examples.NAME], pattern=f"^{RESOURCE_NAME_PATTERN}$")]


@router.get(
    "",
    operation_id="list_queues",
    summary="List queues",
    responses={
        200: {"content": json_example_references("queues")},
        **error_responses(*SLOT_LIMITED_READ_ERRORS, instance=_PREFIX),
    },
)
@needs(Scope.READ)
async def list_queues(caller: CallerDep, service: QueueServiceDep, page: PageDep) -> QueuePage:
    """Lists the tenant's queues by name, with their settings."""
    rows = await service.list(caller.tenant_id, after=page.after, limit=page.limit_with_lookahead)
    shown, next_cursor = page.page_and_next_cursor(rows, lambda row: row.name)
    return QueuePage(queues=[QueueRecord.from_row(row) for row in shown], next_cursor=next_cursor)


@router.get(
    "/{name}",
    operation_id="get_queue",
    summary="Get a queue and how far it is",
    responses={
        200: {"content": json_example_references("queue_details")},
        **error_responses(QueueNotFound, *SLOT_LIMITED_READ_ERRORS, instance=_EXAMPLE_QUEUE_PATH),
    },
)
@needs(Scope.READ)
async def get_queue(caller: CallerDep, service: UnlimitedQueueServiceDep, name: QueueName) -> QueueDetails:
    """Returns the queue's settings, the numbers of its calls, and what its next call waits for."""
    return QueueDetails.with_progress(await service.progress(caller.tenant_id, name))


@router.put(
    "/{name}",
    operation_id="put_queue",
    summary="Create or change a queue",
    status_code=201,
    response_model=QueueRecord,
    response_description="The queue was created.",
    openapi_extra=json_request_body("QueueSettings", examples.SETTINGS),
    responses={
        200: {"model": QueueRecord, "description": "The queue as it is now.", "content": json_example_references("queue")},
        201: {"headers": header_references("Location"), "content": json_example_references("queue")},
        **error_responses(*BODY_ERRORS, method="PUT", instance=_EXAMPLE_QUEUE_PATH),
    },
)
@needs(Scope.CALL)
async def put_queue(
    caller: CallerDep, service: QueueServiceDep, actor: ActorDep, name: QueueName, body: JsonBody, response: Response
) -> QueueRecord:
    """Creates the queue, or changes it if it exists. Only the settings in the body are changed; null removes one.

    A pause stops dialling; calls that were dialled go on. Changed hours also apply to calls that already wait.
    """
    if caller.suspended:
        raise TenantSuspended
    try:
        change = parse_body(QueueSettings, body).queue_change
    except CallingHoursInvalid as error:
        raise InvalidRequest(NOTHING_CHANGED_DETAIL, field_errors=error.field_errors) from None
    queue, created = await service.create_or_change(actor, caller.tenant_id, name, change)
    if created:
        response.headers["Location"] = f"{_PREFIX}/{queue.name}"
    else:
        response.status_code = 200
    return QueueRecord.from_row(queue)


async def queue_cancellation(request: Request, queues: QueueServiceDep) -> QueueCancellation:
    """Returns the service that cancels waiting calls. It runs only a few transactions of one tenant at the same time."""
    service: QueueCancellation = request.state.queue_cancellation
    return replace(service, queues=queues)


@router.post(
    "/{name}/cancel",
    operation_id="cancel_queue",
    summary="Cancel all waiting calls of a queue",
    dependencies=[Depends(refuse_idempotency_key), Depends(refuse_body)],
    responses={
        200: {"content": json_example_references("queue_canceled")},
        **error_responses(
            QueueNotFound, *NO_BODY_ERRORS, *SLOT_LIMITED_READ_ERRORS, method="POST", instance=f"{_EXAMPLE_QUEUE_PATH}/cancel"
        ),
    },
)
@needs(Scope.CALL)
async def cancel_queue(
    caller: CallerDep,
    service: Annotated[QueueCancellation, Depends(queue_cancellation)],
    actor: ActorDep,
    name: QueueName,
) -> CancelAnswer:
    """Cancels all waiting calls: none of them will ring. They become `not_started`, with the problem `canceled-before-dial`.

    Calls that are being dialled continue. The queue stays and accepts further calls. The request has no body.
    A repeated request also cancels calls that were added since, so an `Idempotency-Key` is refused.
    """
    return CancelAnswer(canceled=await service.cancel(actor, caller.tenant_id, name))


def bulk_body_limit(scope: ASGIScope) -> int | None:
    """Returns the maximum body size of a bulk request in bytes; None for any other request."""
    return MAX_BULK_BYTES if scope["method"] == "POST" and _BULK_PATH.fullmatch(scope["path"]) else None


async def bulk_service(request: Request) -> BulkService:
    service: BulkService = request.state.bulk
    return service


@bulk_router.post(
    "/{name}/calls",
    operation_id="add_calls",
    summary="Add calls to a queue",
    response_class=StreamingResponse,
    response_description="One line for each line of the body, in the same order.",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {NDJSON_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/BulkCall"}, "examples": examples.BULK}},
        }
    },
    responses={
        200: {
            "content": {
                NDJSON_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/BulkAnswer"}, "examples": examples.BULK_ANSWERS}
            }
        },
        **error_responses(
            QueueNotFound,
            BodyTooLarge,
            RequestTimeout,
            UnsupportedMediaType,
            *DATABASE_READ_ERRORS,
            Overloaded,
            method="POST",
            instance=f"{_EXAMPLE_QUEUE_PATH}/calls",
        ),
    },
)
@needs(Scope.CALL)
async def add_calls(
    request: Request,
    caller: CallerDep,
    queues: UnlimitedQueueServiceDep,
    service: Annotated[BulkService, Depends(bulk_service)],
    stack: ResponseStackDep,
    name: QueueName,
) -> Response:
    """Creates up to 1,000 scheduled calls. A line of the body has the members of a creation, and `key`, its Idempotency-Key.

    Each line has its own answer: `status` 202 and the id of a new call, 200 and the call of an earlier request with this key,
    or the `problem` for which no call was created. So after a failure the whole body can be sent again: no call is created
    twice. The answer begins when the first calls are committed.
    """
    await queues.get(caller.tenant_id, name)
    if media_type_of(request) != NDJSON_MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send the body as `Content-Type: {NDJSON_MEDIA_TYPE}`.")
    async with service.body_slot(caller):
        lines = _split_lines(await request.body())
        await stack.enter_async_context(service.creation_slot(caller))
    answered = service.create_calls(caller, name, (parse_bulk_line(*line) for line in lines))
    first = await anext(answered)
    bind_log_fields(lines=len(lines))

    async def body() -> AsyncIterator[bytes]:
        yield _render_lines(first, request)
        async for more in answered:
            yield _render_lines(more, request)

    return StreamingResponse(body(), media_type=NDJSON_MEDIA_TYPE)


def _split_lines(body: bytes) -> list[tuple[int, bytes]]:
    """Returns the lines that are not empty, each with its number in the body. The first line has the number 1.

    Raises InvalidRequest if all lines are empty. Raises BodyTooLarge if more than MAX_BULK_LINES lines are not empty, or if the
    body has more than 2 * MAX_BULK_LINES line breaks.
    """
    if body.count(b"\n") > 2 * MAX_BULK_LINES:  # before the body is split, which takes a second for millions of lines
        raise BodyTooLarge(f"The body has more lines than the limit of {MAX_BULK_LINES}.")
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise InvalidRequest(field_errors=(FieldError("", "too_short", "must have at least 1 line"),))
    if len(lines) > MAX_BULK_LINES:
        raise BodyTooLarge(f"The body has more lines than the limit of {MAX_BULK_LINES}.")
    return lines


def _render_lines(lines: Sequence[BulkLineResult], request: Request) -> bytes:
    return b"".join(_render_line(line, request) for line in lines)


def _render_line(line: BulkLineResult, request: Request) -> bytes:
    place = {"line": line.number, "key": line.key}
    if isinstance(line.result, CallgateError):
        count_error(request.state.metrics, request.scope, line.result)
        problem = problem_of(
            line.result,
            method="POST",
            instance=request.url.path,
            request_id=request.state.request_id,
            is_of_creation=True,
        )
        return to_json(place | {"problem": problem_json(problem)}) + b"\n"
    call = line.result.call
    status = 200 if line.result.replayed else 202
    return to_json(place | {"status": status, "id": call.id, "execution": call.execution}) + b"\n"
