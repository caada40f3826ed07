"""HTTP for the creation of a call. The route bypasses FastAPI, because every call pays for its overhead."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.calls import examples
from app.calls.creation.service import CreationService
from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.schemas import CallRecord
from app.errors import (
    BodyTooLarge,
    CallPending,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    InternalError,
    InvalidRequest,
    MalformedBody,
    NoneFound,
    NoUsableCredentials,
    Overloaded,
    RequestTimeout,
    ShuttingDown,
    TenantSuspended,
    Unauthorized,
    UnsupportedMediaType,
    UpstreamCredentialsRejected,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
)
from app.http.authentication import authenticate, bearer
from app.http.bodies import read_json_object
from app.http.idempotency_key import idempotency_key_header, read_idempotency_key
from app.http.openapi import headers, json_body
from app.http.problems import CREATION_PATH, responses
from app.observability.context import bind

router = APIRouter(tags=["calls"])


def require_room(scope: Scope) -> None:
    """Raises Overloaded or ShuttingDown early. A request with a key passes, because a refusal could hide its live call."""
    if "idempotency-key" not in Headers(scope=scope):
        service: CreationService = scope["state"]["creation"]
        service.require_room()


async def idempotency_key(
    request: Request,
    _: Annotated[
        str | None,
        idempotency_key_header(
            "Names one dial for as long as its record is kept (1–255 printable ASCII characters). Repeating a "
            "request under its key never rings a second time.",
            examples=["order-4711"],
        ),
    ] = None,
) -> str | None:
    return await read_idempotency_key(request)


async def create_call(request: Request) -> Response:
    """Ask Twilio for one call, and keep its record.

    The intent is committed before the first byte goes to Twilio, the outcome before you hear it. **A 5xx always means that
    no call was started**; an outcome that is not known is a 202. Send an `Idempotency-Key`, and a retry after a timeout or
    a crash (yours or ours) is answered with the record instead of a second ring.
    """
    caller = await authenticate(request, await bearer(request))
    body = await read_json_object(request, caller)
    key = await idempotency_key(request)
    service: CreationService = request.state.creation
    creation = await service.create(caller, body, key)
    call = creation.call
    request.state.placed = call.id
    log_call(call)
    headers = {"Location": f"{CREATION_PATH}/{call.id}"} | ({"Idempotent-Replayed": "true"} if creation.replayed else {})
    status = 200 if creation.replayed else 201 if call.execution == "started" else 202
    record = CallRecord.model_validate(call).model_dump_json(by_alias=True)
    return Response(record, status, headers, media_type="application/json")


def log_call(call: Call | NewCall) -> None:
    bind(call_id=str(call.id), call_sid=call.sid, execution=call.execution)


router.add_api_route(
    CREATION_PATH,
    create_call,
    methods=["POST"],
    dependencies=[Depends(authenticate), Depends(idempotency_key)],
    operation_id="create_call",
    summary="Place a call",
    status_code=201,
    response_model=CallRecord,
    response_description="Started: Twilio has created the call.",
    openapi_extra=json_body("CallRequest", examples.REQUESTS),
    responses={
        200: {
            "model": CallRecord,
            "description": "The Idempotency-Key names this call already; Twilio was not called. `Idempotent-Replayed: true`.",
            "headers": headers("Location", "Idempotent-Replayed"),
            "content": examples.STARTED,
        },
        201: {"headers": headers("Location"), "content": examples.STARTED},
        202: {
            "model": CallRecord,
            "description": "Unknown: the request reached Twilio, or may have, and no trustworthy answer came back. Do not "
            "repeat it without its Idempotency-Key.",
            "headers": headers("Location"),
            "content": examples.UNKNOWN,
        },
        **responses(
            MalformedBody,
            Unauthorized,
            TenantSuspended,
            CallPending,
            NoUsableCredentials,
            BodyTooLarge,
            RequestTimeout,
            UnsupportedMediaType,
            InvalidRequest,
            IdempotencyKeyReused,
            UpstreamRejected,
            NoneFound,
            InternalError,
            UpstreamCredentialsRejected,
            UpstreamThrottled,
            UpstreamUnreachable,
            DatabaseUnavailable,
            Overloaded,
            ShuttingDown,
            method="POST",
            instance=CREATION_PATH,
        ),
    },
)


async def create_call_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Runs `create_call` as an ASGI app, for this route's path and method only. The middleware answers its errors.

    FastAPI's own work around an endpoint (dependencies, routing, exit stacks, error handlers) would be a good part of the cost.
    """
    scope["route"] = _ROUTE
    response = await create_call(Request(scope, receive, send))
    await response(scope, receive, send)


_ROUTE = router.routes[0]
