"""HTTP for calls: bind, delegate, return."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from app.calls import examples, ids
from app.calls.creation.router import log_call
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.calls.schemas import CallPage, CallRecord, CallSummary, EventList, EventRecord, Execution, Status
from app.calls.service import CallService
from app.errors import (
    CallNotFound,
    DatabaseUnavailable,
    FieldError,
    InternalError,
    InvalidRequest,
    Overloaded,
    Unauthorized,
)
from app.http.authentication import CallerDep
from app.http.list_responses import list_response
from app.http.problems import responses
from app.http.times import Timestamp

router = APIRouter(prefix="/v1/calls", tags=["calls"])


async def call_service(request: Request) -> CallService:
    service: CallService = request.state.calls
    return service


CallServiceDep = Annotated[CallService, Depends(call_service)]


IdOrSid = Annotated[
    str,
    Path(description="The record's `id`, or Twilio's CallSid.", examples=[examples.RECORD["id"]], max_length=64),
]


_FILTERS = frozenset({"status", "execution", "to", "from", "created_after", "created_before", "limit", "cursor"})
# Postgres knows no NUL in text.
_WANTED: dict[str, Any] = {"min_length": 1, "max_length": 2048, "pattern": r"^[^\x00]+$"}

_CURSOR: dict[str, Any] = {"pattern": f"^{ids.CURSOR.pattern}$"}

_CALL_PATH = f"/v1/calls/{examples.RECORD['id']}"
_READ_ERRORS = (Unauthorized, InvalidRequest, InternalError, DatabaseUnavailable)
_LIST_ERRORS = (*_READ_ERRORS, Overloaded)


async def known_filters(request: Request) -> None:
    """A misspelt filter that is ignored shows more than was asked for."""
    unknown = [name for name in request.query_params if name not in _FILTERS]
    if unknown:
        raise InvalidRequest(
            field_errors=tuple(FieldError(f"?{name}", "unknown_parameter", "is no filter of this list") for name in unknown)
        )


@router.get(
    "",
    operation_id="list_calls",
    summary="List calls, newest first",
    dependencies=[Depends(known_filters)],
    response_model=CallPage,
    responses=responses(*_LIST_ERRORS, instance="/v1/calls"),
)
async def list_calls(
    caller: CallerDep,
    service: CallServiceDep,
    status: Annotated[Status | None, Query(description="Twilio's word for the call's progress.")] = None,
    execution: Annotated[Execution | None, Query(description="What became of the creation.")] = None,
    to: Annotated[str | None, Query(description="As it was asked for.", **_WANTED)] = None,
    from_: Annotated[str | None, Query(alias="from", description="As it was asked for.", **_WANTED)] = None,
    created_after: Annotated[Timestamp | None, Query(description="RFC 3339 with its zone; at or after.")] = None,
    created_before: Annotated[Timestamp | None, Query(description="RFC 3339 with its zone; before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="How many calls a page holds at most.")] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.", json_schema_extra=_CURSOR)] = None,
) -> Response:
    """The tenant's own calls only. A page costs the same at any depth."""
    wanted = CallFilter(
        status=status,
        execution=execution,
        to=to,
        from_=from_,
        since=_bound(created_after),
        until=_bound(created_before),
        before=_before(cursor),
    )
    call_ids, next_cursor = await service.list(caller, wanted, limit=limit)
    calls = service.render_calls(caller, call_ids, tuple(CallSummary.model_fields), _renderer(CallSummary))
    return await list_response("calls", calls, {"next_cursor": next_cursor})


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
    log_call(call)
    return call


@router.get(
    "/{id_or_sid}/events",
    operation_id="list_call_events",
    summary="What happened to a call, in order",
    response_model=EventList,
    responses=responses(CallNotFound, *_LIST_ERRORS, instance=f"{_CALL_PATH}/events"),
)
async def list_call_events(caller: CallerDep, service: CallServiceDep, id_or_sid: IdOrSid) -> Response:
    """Intent, every attempt to place it, its outcome, and each change of status and price since."""
    call = await service.get(caller, id_or_sid)
    return await list_response("events", service.render_events(caller, call, _renderer(EventRecord)))


def _renderer(model: type[BaseModel]) -> Callable[[Any], bytes]:
    """Returns a function that renders a row with the model's attributes as JSON."""
    return lambda row: model.model_validate(row).model_dump_json(by_alias=True).encode()


def _bound(moment: datetime | None) -> UUID | None:
    return None if moment is None else ids.first_id_at(moment)


def _before(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    before = ids.read_cursor(cursor)
    if before is None:
        raise InvalidRequest(
            field_errors=(FieldError("?cursor", "cursor_unknown", "must be the next_cursor of an earlier page"),)
        )
    return before
