"""Routes of the subresources under /v1: one for each operation in app.twilio.subresources, with JSON bodies."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from app.calls.models import Call
from app.calls.router import IdOrSid
from app.errors import InvalidRequest, ResponseTruncated
from app.http.authentication import CallerDep
from app.http.bodies import read_json_object, refuse_body
from app.http.idempotency_key import idempotency_key_header, read_idempotency_key, refuse_idempotency_key
from app.http.query import query_parameter_errors, refuse_unknown_parameters
from app.http.routes import ScopedRoute, needs
from app.observability.context import bind_log_fields
from app.subresources.answers import action_outcome_unknown_error
from app.subresources.members import convert_to_twilio_parameters
from app.subresources.openapi import (
    PAGE_URI_MEMBERS,
    description_of,
    openapi_extra_of,
    operation_id_of,
    path_name_of,
    responses_of,
    summary_of,
)
from app.subresources.requests import MediaRequest, SubresourceRequest
from app.subresources.service import SubresourceService
from app.tenants.scopes import Scope
from app.twilio.errors import TwilioOutcomeUnknown
from app.twilio.forwarding import StreamedResponse, TwilioChangeResponse
from app.twilio.subresources import RECORDINGS, SUBRESOURCE_OPERATIONS, SubresourceOperation

router = APIRouter(prefix="/v1/calls/{id_or_sid}", tags=["subresources"], route_class=ScopedRoute)

RECORDING_SID_PATTERN = "RE[0-9a-fA-F]{32}"
MAX_ITEM_SID_LENGTH = 255
_METHODS_BY_ACTION = {"list": "GET", "fetch": "GET", "create": "POST", "update": "PATCH", "delete": "DELETE"}


async def subresource_service(request: Request) -> SubresourceService:
    service: SubresourceService = request.state.subresources
    return service


async def response_exit_stack() -> AsyncIterator[AsyncExitStack]:
    """Yields a stack that closes after the last byte of the response was sent, or after the client has disconnected."""
    async with AsyncExitStack() as stack:
        yield stack


async def optional_idempotency_key(
    request: Request,
    _: Annotated[
        str | None,
        idempotency_key_header("Determines Twilio's `IdempotencyKey`, unless the body has one."),
    ] = None,
) -> str | None:
    return await read_idempotency_key(request)


async def item_sid(
    sid: Annotated[
        str, Path(description="The SID of the item; where Twilio takes one, its name.", max_length=MAX_ITEM_SID_LENGTH)
    ],
) -> str:
    return sid


async def no_sid() -> None:
    return None


async def empty_body(_: Annotated[None, Depends(refuse_body)]) -> dict[str, Any]:
    """Returns an empty dict, for operations whose request has no body."""
    return {}


SubresourceServiceDep = Annotated[SubresourceService, Depends(subresource_service)]
ResponseStackDep = Annotated[AsyncExitStack, Depends(response_exit_stack)]
RecordingSid = Annotated[str, Path(description="The recording's SID.", pattern=f"^{RECORDING_SID_PATTERN}$")]
_AUDIO_CONTENT = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("audio/mpeg", "audio/x-wav")}
RangeHeader = Annotated[str | None, Header(alias="Range", pattern=r"^bytes=[0-9, -]{1,100}$")]


async def require_started_call(caller: CallerDep, service: SubresourceServiceDep, id_or_sid: IdOrSid) -> Call:
    call = await service.require_started_call(caller, id_or_sid)
    bind_log_fields(call_id=str(call.id), call_sid=call.sid)
    return call


StartedCallDep = Annotated[Call, Depends(require_started_call)]


@router.get(
    f"/{RECORDINGS.snake_case_name}/{{sid}}/media",
    operation_id="fetch_recording_media",
    summary="Fetch the audio of a recording",
    responses=responses_of(SubresourceOperation(RECORDINGS, "fetch"), f"{router.prefix}/recordings/RE…/media")
    | {
        200: {"description": "The audio, as Twilio sends it.", "content": _AUDIO_CONTENT},
        206: {"description": "The part of the audio that `Range` selects.", "content": _AUDIO_CONTENT},
    },
    response_class=StreamingResponse,
    dependencies=[Depends(refuse_unknown_parameters)],
)
@needs(Scope.READ)
async def fetch_recording_media(
    call: StartedCallDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: RecordingSid,
    media_format: Annotated[Literal["mp3", "wav"], Query(alias="format")] = "mp3",
    requested_channels: Annotated[int | None, Query(ge=1, le=2, description="Twilio's `RequestedChannels`.")] = None,
    byte_range: RangeHeader = None,
) -> Response:
    """Streams the audio from Twilio, up to 4 GiB. Supports `Range`."""
    query = [("RequestedChannels", str(requested_channels))] if requested_channels else []
    headers = {"Range": byte_range} if byte_range else {}
    return streaming_response(
        await stack.enter_async_context(
            service.stream_recording_media(call, MediaRequest(sid, f".{media_format}", query, headers))
        )
    )


def streaming_response(answer: StreamedResponse) -> Response:
    """Returns a response that streams Twilio's answer while it arrives.

    The streaming raises ResponseTruncated if Twilio's answer breaks off.
    """

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.chunks:
                yield chunk
        except TwilioOutcomeUnknown as error:
            raise ResponseTruncated(error.reason) from error

    return StreamingResponse(chunks(), answer.status, answer.headers)


def _make_read_endpoint(operation: SubresourceOperation) -> Callable[..., Awaitable[Response]]:
    @needs(Scope.READ)
    async def read(
        request: Request,
        call: StartedCallDep,
        service: SubresourceServiceDep,
        stack: ResponseStackDep,
        sid: Annotated[str | None, Depends(item_sid if operation.targets_item else no_sid)],
    ) -> Response:
        subrequest = SubresourceRequest(operation, sid, convert_to_twilio_parameters(operation, _query_fields(request)))
        if operation.action != "list":
            return JSONResponse(await service.read_item(call, subrequest))
        page = await service.read_list(call, subrequest, stack)
        return JSONResponse(_with_callgate_uris(page, operation, request.url.path))

    return read


def _make_change_endpoint(operation: SubresourceOperation) -> Callable[..., Awaitable[Response]]:
    @needs(Scope.CALL)
    async def change(
        request: Request,
        caller: CallerDep,
        call: StartedCallDep,
        service: SubresourceServiceDep,
        sid: Annotated[str | None, Depends(item_sid if operation.targets_item else no_sid)],
        key: Annotated[
            str | None,
            Depends(optional_idempotency_key if operation.takes_idempotency_key else refuse_idempotency_key),
        ],
        body: Annotated[dict[str, Any], Depends(empty_body if operation.method == "DELETE" else read_json_object)],
    ) -> Response:
        subrequest = SubresourceRequest(operation, sid, convert_to_twilio_parameters(operation, body), key)
        request.state.indeterminate_error = action_outcome_unknown_error(call, repeatable=False)
        return change_response(await service.change_subresource(caller, call, subrequest))

    return change


def change_response(answer: TwilioChangeResponse) -> Response:
    return Response(status_code=answer.status) if answer.document is None else JSONResponse(answer.document, answer.status)


def _query_fields(request: Request) -> dict[str, str]:
    if faults := query_parameter_errors(request, known=None):
        raise InvalidRequest(field_errors=faults)
    return dict(request.query_params)


def _with_callgate_uris(page: dict[str, Any], operation: SubresourceOperation, path: str) -> dict[str, Any]:
    """Returns a list page of Twilio with URIs of this API instead of Twilio's.

    The URIs, such as that of the next page, get this API's `path` and parameter names.
    """
    members = {name: parameter.member_name for parameter in operation.parameters for name in parameter.field_names()}

    def own_uri(uri: Any) -> Any:
        if not isinstance(uri, str):
            return uri
        query = [(members[name], value) for name, value in parse_qsl(urlsplit(uri).query) if name in members]
        return f"{path}?{urlencode(query)}" if query else path

    return page | {name: own_uri(page[name]) for name in PAGE_URI_MEMBERS if name in page}


for _operation in SUBRESOURCE_OPERATIONS:
    _path = f"/{path_name_of(_operation.subresource)}" + ("/{sid}" if _operation.targets_item else "")
    router.add_api_route(
        _path,
        _make_change_endpoint(_operation) if _operation.is_change else _make_read_endpoint(_operation),
        methods=[_METHODS_BY_ACTION[_operation.action]],
        # A read passes its query to Twilio and checks the parameter names itself.
        dependencies=[Depends(refuse_unknown_parameters)] if _operation.is_change else None,
        operation_id=operation_id_of(_operation),
        summary=summary_of(_operation),
        description=description_of(_operation),
        status_code=_operation.status,
        responses=responses_of(_operation, f"{router.prefix}{_path}"),
        openapi_extra=openapi_extra_of(_operation),
        response_model=None,
    )
