"""The route that creates a call. It bypasses FastAPI, whose overhead would slow down every creation."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from app.calls import examples
from app.calls.creation.service import CallIdObserver, CreationService
from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.schemas import CallRecord
from app.errors import (
    CallNotFoundAtTwilio,
    CallPending,
    CanceledBeforeDial,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    InternalError,
    InvalidRequest,
    NoUsableCredentials,
    Overloaded,
    PaceExceeded,
    RingByDeadlinePassed,
    ShuttingDown,
    TenantSuspended,
    UpstreamCredentialsRejected,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
)
from app.http.authentication import authenticate_caller, bearer_scheme
from app.http.bodies import JSON_BODY_ERRORS, read_json_object
from app.http.idempotency_key import REPLAYED_HEADER, idempotency_key_header, read_idempotency_key
from app.http.idempotency_key_rules import MAX_IDEMPOTENCY_KEY_LENGTH
from app.http.openapi import header_references, json_request_body
from app.http.problems import CREATION_PATH, UnknownOutcomeResponse, error_responses
from app.http.query import query_parameter_errors
from app.http.routes import ScopedRoute, needs
from app.observability.context import bind_log_fields
from app.tenants.scopes import Scope

router = APIRouter(tags=["calls"], route_class=ScopedRoute)


def require_capacity_unless_keyed(scope: ASGIScope) -> None:
    """Raises Overloaded or ShuttingDown if no creation can begin now. Called before and after the body is read.

    A request with an idempotency key passes: it may be a repetition, and a refusal would hide the call of the first request.
    """
    if "idempotency-key" not in Headers(scope=scope):
        service: CreationService = scope["state"]["creation"]
        service.require_capacity()


async def idempotency_key(
    request: Request,
    _: Annotated[
        str | None,
        idempotency_key_header(
            f"Identifies one creation for as long as its record is kept (1–{MAX_IDEMPOTENCY_KEY_LENGTH} printable ASCII "
            "characters). A repetition with the same key never places a second call.",
            examples=["order-4711"],
        ),
    ] = None,
) -> str | None:
    return await read_idempotency_key(request)


@needs(Scope.CALL)
async def create_call(request: Request) -> Response:
    """Places one call through Twilio and keeps a record of it.

    Callgate commits the request before it sends anything to Twilio, and the outcome before it answers. **A 5xx always means
    that no call was started**; if the outcome is unknown, the status is 202. With an `Idempotency-Key`, a retry after a
    timeout or a crash returns the record and never places a second call.
    """
    caller = await authenticate_caller(request, await bearer_scheme(request))
    body = await read_json_object(request)
    key = await idempotency_key(request)
    service: CreationService = request.state.creation
    if faults := query_parameter_errors(request, known=()):
        creation = await service.replay_or_raise(caller, body, key, InvalidRequest(field_errors=faults))
    else:
        creation = await service.create(caller, body, key, call_id_observer(request))
    call = creation.call
    request.state.placed = call.id
    bind_call_to_log(call)
    headers = {"Location": f"{CREATION_PATH}/{call.id}"} | ({REPLAYED_HEADER: "true"} if creation.replayed else {})
    status = 200 if creation.replayed else 201 if call.execution == "started" else 202
    record = CallRecord.model_validate(call).model_dump_json(by_alias=True)
    return Response(record, status, headers, media_type="application/json")


def call_id_observer(request: Request) -> CallIdObserver:
    """Returns a function that stores the id of the call in `request.state`.

    If a process that stops cuts the request off at the end of its drain timeout, the middleware answers with this id.
    """
    return partial(setattr, request.state, "intent")


def bind_call_to_log(call: Call | NewCall) -> None:
    """Adds the call's ids and `execution` (the outcome of its creation so far) to every further log line of this request."""
    bind_log_fields(call_id=str(call.id), call_sid=call.sid, execution=call.execution)


router.add_api_route(
    CREATION_PATH,
    create_call,
    methods=["POST"],
    dependencies=[Depends(idempotency_key)],
    operation_id="create_call",
    summary="Place a call",
    status_code=201,
    response_model=CallRecord,
    response_description="Twilio has created the call.",
    openapi_extra=json_request_body("CallRequest", examples.REQUEST_EXAMPLES),
    responses={
        200: {
            "model": CallRecord,
            "description": "The call of an earlier request with this Idempotency-Key. Nothing was sent to Twilio.",
            "headers": header_references("Location", REPLAYED_HEADER),
            "content": examples.STARTED_EXAMPLE,
        },
        201: {"headers": header_references("Location"), "content": examples.STARTED_EXAMPLE},
        202: {
            "model": CallRecord | UnknownOutcomeResponse,
            "description": "The call is scheduled. Or the outcome is unknown: the request may have reached Twilio, and no "
            "trustworthy answer came back; do not repeat it without its Idempotency-Key. If the creation was cut off or failed "
            "unexpectedly, the body has `id`, `execution` and `request_id` only.",
            "headers": header_references("Location"),
            "content": examples.UNKNOWN_EXAMPLE,
        },
        **error_responses(
            *JSON_BODY_ERRORS,
            TenantSuspended,
            CallPending,
            NoUsableCredentials,
            InvalidRequest,
            IdempotencyKeyReused,
            UpstreamRejected,
            CallNotFoundAtTwilio,
            RingByDeadlinePassed,
            CanceledBeforeDial,
            InternalError,
            UpstreamCredentialsRejected,
            UpstreamThrottled,
            UpstreamUnreachable,
            DatabaseUnavailable,
            Overloaded,
            PaceExceeded,
            ShuttingDown,
            method="POST",
            instance=CREATION_PATH,
        ),
    },
)


async def create_call_asgi(scope: ASGIScope, receive: Receive, send: Send) -> None:
    """Runs `create_call` as an ASGI app, for this route's path and method only. The middleware handles errors.

    FastAPI's own work around an endpoint (dependencies, routing, exit stacks, error handlers) would take much of the time.
    """
    scope["route"] = _ROUTE
    response = await create_call(Request(scope, receive, send))
    await response(scope, receive, send)


_ROUTE = router.routes[0]
