"""HTTP for calls: bind, delegate, return."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import StringConstraints, TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.types import Scope

from app.auth import CallerDep, authenticate, bearer
from app.body import read_json_object
from app.calls import examples, ids
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.calls.schemas import CallPage, CallRecord, CallSummary, EventList, EventRecord, Execution, Status
from app.calls.service import CallService
from app.errors import (
    BodyTooLarge,
    CallNotFound,
    CallPending,
    DatabaseUnavailable,
    Fault,
    IdempotencyKeyReused,
    InternalError,
    InvalidRequest,
    MalformedBody,
    NoneFound,
    NoUsableCredentials,
    Overloaded,
    ShuttingDown,
    TenantSuspended,
    Unauthorized,
    UnsupportedMediaType,
    UpstreamCredentialsRejected,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
)
from app.problems import responses

router = APIRouter(prefix="/v1/calls", tags=["calls"])


async def call_service(request: Request) -> CallService:
    service: CallService = request.state.calls
    return service


CallServiceDep = Annotated[CallService, Depends(call_service)]


def admission(scope: Scope) -> AbstractContextManager[None]:
    """Before anything is spent on a creation. One with a key goes on: its call may be live, which no refusal may hide."""
    if "idempotency-key" in Headers(scope=scope):
        return nullcontext()
    service: CallService = scope["state"]["calls"]
    return service.admission()


IdOrSid = Annotated[
    str,
    Path(description="The record's `id`, or Twilio's CallSid.", examples=[examples.RECORD["id"]], max_length=64),
]


_KEY_RULES: dict[str, Any] = {"min_length": 1, "max_length": 255, "pattern": r"^[\x20-\x7e]+$"}
_KEY = TypeAdapter[str](Annotated[str, StringConstraints(**_KEY_RULES)])


async def read_idempotency_key(request: Request) -> str | None:
    """The header, which may be given once. Raises InvalidRequest."""
    given = request.headers.getlist("Idempotency-Key")
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(faults=(Fault("Idempotency-Key", "repeated", "must be given once"),))
    try:
        return _KEY.validate_python(given[0])
    except ValidationError as error:
        raise InvalidRequest(
            faults=tuple(Fault("Idempotency-Key", detail["type"], detail["msg"]) for detail in error.errors())
        ) from None


IdempotencyKeyDep = Annotated[str | None, Depends(read_idempotency_key)]


async def documented_key(
    _: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="Names one dial for as long as its record is kept (1–255 printable ASCII characters). Repeating a "
            "request under its key never rings a second time.",
            examples=["order-4711"],
            **_KEY_RULES,
        ),
    ] = None,
) -> None:
    pass


class StraightRoute(APIRoute):
    """The hot route: its endpoint is given the request. Its dependencies are declared for the documentation; to resolve them
    for each request anew would cost as much as all that they do (docs/performance.md)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


_FILTERS = frozenset({"status", "execution", "to", "from", "created_after", "created_before", "limit", "cursor"})
# Postgres knows no NUL in text.
_WANTED: dict[str, Any] = {"min_length": 1, "max_length": 2048, "pattern": r"^[^\x00]+$"}

_CALL_PATH = f"/v1/calls/{examples.RECORD['id']}"
_READ_ERRORS = (Unauthorized, InvalidRequest, InternalError, DatabaseUnavailable)


async def create_call(request: Request) -> Response:
    """Ask Twilio for one call, and keep its record.

    The intent is committed before the first byte goes to Twilio, the outcome before you hear it. **A 5xx or 429 always means
    that no call was started**; an outcome that is not known is a 202. Send an `Idempotency-Key`, and a retry after a timeout or
    a crash (yours or ours) is answered with the record instead of a second ring.
    """
    caller = await authenticate(request, await bearer(request))
    body = await read_json_object(request, caller)
    idempotency_key = await read_idempotency_key(request)
    service: CallService = request.state.calls
    creation = await service.create(caller, body, idempotency_key)
    call = creation.call
    request.state.placed = call.id
    _log(call)
    headers = {"Location": f"/v1/calls/{call.id}"} | ({"Idempotent-Replayed": "true"} if creation.replayed else {})
    status = 200 if creation.replayed else 201 if call.execution == "started" else 202
    record = CallRecord.model_validate(call).model_dump_json(by_alias=True)
    return Response(record, status, headers, media_type="application/json")


router.add_api_route(
    "",
    create_call,
    methods=["POST"],
    route_class_override=StraightRoute,
    dependencies=[Depends(authenticate), Depends(documented_key)],
    operation_id="create_call",
    summary="Place a call",
    status_code=201,
    response_model=CallRecord,
    response_description="Started: Twilio has created the call.",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/CallRequest"},
                    "examples": examples.REQUESTS,
                }
            },
        }
    },
    responses={
        200: {
            "model": CallRecord,
            "description": "The Idempotency-Key names this call already; Twilio was not called. `Idempotent-Replayed: true`.",
            "content": examples.STARTED,
        },
        201: {"content": examples.STARTED},
        202: {
            "model": CallRecord,
            "description": "Unknown: the request reached Twilio, or may have, and no trustworthy answer came back. Do not "
            "repeat it without its Idempotency-Key.",
            "content": examples.UNKNOWN,
        },
        **responses(
            MalformedBody,
            Unauthorized,
            TenantSuspended,
            CallPending,
            NoUsableCredentials,
            BodyTooLarge,
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
            instance="/v1/calls",
        ),
    },
)


async def known_filters(request: Request) -> None:
    """A misspelt filter that is ignored shows more than was asked for."""
    unknown = [name for name in request.query_params if name not in _FILTERS]
    if unknown:
        raise InvalidRequest(
            faults=tuple(Fault(f"?{name}", "unknown_parameter", "is no filter of this list") for name in unknown)
        )


@router.get(
    "",
    operation_id="list_calls",
    summary="List calls, newest first",
    dependencies=[Depends(known_filters)],
    responses=responses(*_READ_ERRORS, instance="/v1/calls"),
)
async def list_calls(
    caller: CallerDep,
    service: CallServiceDep,
    status: Annotated[Status | None, Query(description="Twilio's word for the call's progress.")] = None,
    execution: Annotated[Execution | None, Query(description="What became of the creation.")] = None,
    to: Annotated[str | None, Query(description="As it was asked for.", **_WANTED)] = None,
    from_: Annotated[str | None, Query(alias="from", description="As it was asked for.", **_WANTED)] = None,
    created_after: Annotated[datetime | None, Query(description="RFC 3339; at or after.")] = None,
    created_before: Annotated[datetime | None, Query(description="RFC 3339; before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.", max_length=64)] = None,
) -> CallPage:
    """The tenant's own calls only. A page costs the same at any depth."""
    wanted = CallFilter(
        status=status,
        execution=execution,
        to=to,
        from_=from_,
        since=_bound("created_after", created_after),
        until=_bound("created_before", created_before),
        before=_before(cursor),
    )
    calls, next_cursor = await service.list(caller, wanted, limit=limit)
    return CallPage(calls=[CallSummary.model_validate(call) for call in calls], next_cursor=next_cursor)


@router.get(
    "/{id_or_sid}",
    operation_id="get_call",
    summary="One call",
    response_model=CallRecord,
    responses={
        200: {"content": examples.STARTED},
        **responses(CallNotFound, *_READ_ERRORS, instance=_CALL_PATH),
    },
)
async def get_call(caller: CallerDep, service: CallServiceDep, id_or_sid: IdOrSid) -> Call:
    """The record as it is now, with Twilio's resource as it was last seen. Asks Postgres, never Twilio."""
    call = await service.get(caller, id_or_sid)
    _log(call)
    return call


@router.get(
    "/{id_or_sid}/events",
    operation_id="list_call_events",
    summary="What happened to a call, in order",
    responses=responses(CallNotFound, *_READ_ERRORS, instance=f"{_CALL_PATH}/events"),
)
async def list_call_events(caller: CallerDep, service: CallServiceDep, id_or_sid: IdOrSid) -> EventList:
    """Intent, every attempt to place it, its outcome, and each change of status and price since."""
    events = await service.events(caller, id_or_sid)
    return EventList(events=[EventRecord.model_validate(event) for event in events])


def _log(call: Call) -> None:
    structlog.contextvars.bind_contextvars(call_id=str(call.id), call_sid=call.sid, execution=call.execution)


def _bound(name: str, moment: datetime | None) -> UUID | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidRequest(faults=(Fault(f"?{name}", "time_without_zone", "must say its zone, e.g. end in Z"),))
    return ids.first_id_at(moment)


def _before(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    before = ids.read_cursor(cursor)
    if before is None:
        raise InvalidRequest(faults=(Fault("?cursor", "cursor_unknown", "must be the next_cursor of an earlier page"),))
    return before
