"""Routes that read calls and their events."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.calls import examples, ids
from app.calls.creation.router import bind_call_to_log
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.calls.schemas import CallPage, CallRecord, CallSummary, EventList, EventRecord, Execution, Status
from app.calls.service import CallService
from app.errors import (
    CallNotFound,
    FieldError,
    InvalidRequest,
    Overloaded,
)
from app.http.authentication import CallerDep
from app.http.limits import NO_NUL_PATTERN
from app.http.list_responses import list_response
from app.http.problems import DATABASE_READ_ERRORS, error_responses
from app.http.query import refuse_unknown_parameters
from app.http.routes import ScopedRoute, needs
from app.http.times import Timestamp
from app.tenants.scopes import Scope

router = APIRouter(
    prefix="/v1/calls", tags=["calls"], route_class=ScopedRoute, dependencies=[Depends(refuse_unknown_parameters)]
)


async def call_service(request: Request) -> CallService:
    service: CallService = request.state.calls
    return service


CallServiceDep = Annotated[CallService, Depends(call_service)]


IdOrSid = Annotated[
    str,
    Path(description="The record's `id`, or Twilio's CallSid.", examples=[examples.EXAMPLE_RECORD["id"]], max_length=64),
]


def _require_no_space(value: str) -> str:
    """Returns the text unchanged. Raises PydanticCustomError if it has a space, which no stored address has."""
    if " " in value:
        raise PydanticCustomError("unencoded_plus", "must have no space: in a URL, + stands for a space, so write + as %2B")
    return value


_Address = Annotated[str, AfterValidator(_require_no_space), WithJsonSchema({"type": "string", "pattern": "^[^ ]+$"})]
_ADDRESS_CONSTRAINTS: dict[str, Any] = {"min_length": 1, "max_length": 2048, "pattern": NO_NUL_PATTERN}

_CURSOR_SCHEMA: dict[str, Any] = {"pattern": f"^{ids.CURSOR_PATTERN.pattern}$"}

_CALL_PATH = f"/v1/calls/{examples.EXAMPLE_RECORD['id']}"
_LIST_ERRORS = (*DATABASE_READ_ERRORS, Overloaded)


@router.get(
    "",
    operation_id="list_calls",
    summary="List calls, newest first",
    response_model=CallPage,
    responses=error_responses(*_LIST_ERRORS, instance="/v1/calls"),
)
@needs(Scope.READ)
async def list_calls(
    caller: CallerDep,
    service: CallServiceDep,
    status: Annotated[Status | None, Query(description="Twilio's status of the call.")] = None,
    execution: Annotated[Execution | None, Query(description="The outcome of the creation.")] = None,
    to: Annotated[_Address | None, Query(description="The `to` of the creation.", **_ADDRESS_CONSTRAINTS)] = None,
    from_: Annotated[
        _Address | None, Query(alias="from", description="The `from` of the creation.", **_ADDRESS_CONSTRAINTS)
    ] = None,
    created_after: Annotated[Timestamp | None, Query(description="At this time or later. RFC 3339 with a time zone.")] = None,
    created_before: Annotated[Timestamp | None, Query(description="Before this time. RFC 3339 with a time zone.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="The maximum number of calls on a page.")] = 50,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the previous page.", json_schema_extra=_CURSOR_SCHEMA)
    ] = None,
) -> Response:
    """Lists the tenant's own calls. `next_cursor` is the `cursor` of the next page."""
    call_filter = CallFilter(
        status=status,
        execution=execution,
        to=to,
        from_=from_,
        since=_lowest_id_at(created_after),
        until=_lowest_id_at(created_before),
        before=_id_of_cursor(cursor),
    )
    call_ids, next_cursor = await service.list_call_ids(caller, call_filter, limit=limit)
    calls = service.render_calls(caller, call_ids, tuple(CallSummary.model_fields), _make_json_renderer(CallSummary))
    return await list_response("calls", calls, {"next_cursor": next_cursor})


@router.get(
    "/{id_or_sid}",
    operation_id="get_call",
    summary="Get a call",
    response_model=CallRecord,
    responses={
        200: {"content": examples.STARTED_EXAMPLE},
        **error_responses(CallNotFound, *DATABASE_READ_ERRORS, instance=_CALL_PATH),
    },
)
@needs(Scope.READ)
async def get_call(caller: CallerDep, service: CallServiceDep, id_or_sid: IdOrSid) -> Call:
    """Returns the current record, with the last resource that Twilio sent. Does not send a request to Twilio."""
    call = await service.get(caller, id_or_sid)
    bind_call_to_log(call)
    return call


@router.get(
    "/{id_or_sid}/events",
    operation_id="list_call_events",
    summary="List the events of a call, in order",
    response_model=EventList,
    responses=error_responses(CallNotFound, *_LIST_ERRORS, instance=f"{_CALL_PATH}/events"),
)
@needs(Scope.READ)
async def list_call_events(caller: CallerDep, service: CallServiceDep, id_or_sid: IdOrSid) -> Response:
    """Lists the request, each attempt to place the call, the outcome, and every later change of status or price."""
    call = await service.get(caller, id_or_sid)
    return await list_response("events", service.render_events(caller, call.id, _make_json_renderer(EventRecord)))


def _make_json_renderer(model: type[BaseModel]) -> Callable[[Any], bytes]:
    """Returns a function that converts a row to JSON. The row must have the attributes that `model` reads."""
    return lambda row: model.model_validate(row).model_dump_json(by_alias=True).encode()


def _lowest_id_at(moment: datetime | None) -> UUID | None:
    """Returns the lowest id that a call created at `moment` or later can have. Returns None if `moment` is None."""
    return None if moment is None else ids.lowest_call_id_at(moment)


def _id_of_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    before = ids.decode_call_cursor(cursor)
    if before is None:
        raise InvalidRequest(
            field_errors=(FieldError("?cursor", "cursor_unknown", "must be the next_cursor of an earlier page"),)
        )
    return before
