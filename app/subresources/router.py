"""HTTP for subresources under /v1: one route for each operation of the catalogue, JSON in and out."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from app.calls.models import Call
from app.calls.router import IdOrSid
from app.errors import FieldError, InvalidRequest, ResponseTruncated
from app.http.authentication import CallerDep
from app.http.bodies import read_json_object
from app.http.idempotency_key import idempotency_key_header, read_idempotency_key
from app.observability.context import bind
from app.subresources.answers import indeterminate_error
from app.subresources.members import read_members
from app.subresources.openapi import (
    description_of,
    extra_of,
    name_of,
    operation_id_of,
    responses_of,
    summary_of,
)
from app.subresources.service import Media, SubresourceService, Wanted
from app.twilio.errors import TwilioOutcomeUnknown
from app.twilio.forwarding import StreamedResponse, UpstreamResponse
from app.twilio.subresources import OPERATIONS, RECORDINGS, Operation

router = APIRouter(prefix="/v1/calls/{id_or_sid}", tags=["subresources"])

_METHODS = {"list": "GET", "fetch": "GET", "create": "POST", "update": "PATCH", "delete": "DELETE"}
_PAGE_URIS = ("first_page_uri", "next_page_uri", "previous_page_uri", "uri")


async def subresource_service(request: Request) -> SubresourceService:
    service: SubresourceService = request.state.subresources
    return service


async def held_open() -> AsyncIterator[AsyncExitStack]:
    """What a streamed answer needs until its last byte was sent, or nobody wants it any more."""
    async with AsyncExitStack() as stack:
        yield stack


async def read_key(
    request: Request,
    _: Annotated[
        str | None,
        idempotency_key_header("Becomes Twilio's `IdempotencyKey`, the same one each time, unless the body has one."),
    ] = None,
) -> str | None:
    return await read_idempotency_key(request)


async def refuse_key(request: Request) -> None:
    """To take a key and not to heed it would be a promise that nobody keeps."""
    if "Idempotency-Key" in request.headers:
        text = "cannot be heeded: Twilio has no idempotency for this operation"
        raise InvalidRequest(field_errors=(FieldError("Idempotency-Key", "not_supported", text),))


async def of_one(
    sid: Annotated[str, Path(description="Its SID; where Twilio takes one, its name.", max_length=255)],
) -> str:
    return sid


async def of_all() -> None:
    return None


async def no_body() -> dict[str, Any]:
    return {}


SubresourceServiceDep = Annotated[SubresourceService, Depends(subresource_service)]
HeldOpenDep = Annotated[AsyncExitStack, Depends(held_open)]
RecordingSid = Annotated[str, Path(description="The recording's SID.", pattern=r"^RE[0-9a-fA-F]{32}$")]
_SOUND = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("audio/mpeg", "audio/x-wav")}
WantedRange = Annotated[str | None, Header(alias="Range", pattern=r"^bytes=[0-9, -]{1,100}$")]


async def started_call(caller: CallerDep, service: SubresourceServiceDep, id_or_sid: IdOrSid) -> Call:
    call = await service.started_call(caller, id_or_sid)
    bind(call_id=str(call.id), call_sid=call.sid)
    return call


StartedCallDep = Annotated[Call, Depends(started_call)]


@router.get(
    f"/{RECORDINGS.key}/{{sid}}/media",
    operation_id="fetch_recording_media",
    summary="The sound of a recording",
    responses=responses_of(Operation(RECORDINGS, "fetch"), f"{router.prefix}/recordings/RE…/media")
    | {
        200: {"description": "Its bytes, as Twilio sends them.", "content": _SOUND},
        206: {"description": "Those of its bytes that `Range` asks for.", "content": _SOUND},
    },
    response_class=StreamingResponse,
)
async def fetch_recording_media(
    call: StartedCallDep,
    service: SubresourceServiceDep,
    stack: HeldOpenDep,
    sid: RecordingSid,
    media_format: Annotated[Literal["mp3", "wav"], Query(alias="format")] = "mp3",
    requested_channels: Annotated[int | None, Query(ge=1, le=2, description="Twilio's `RequestedChannels`.")] = None,
    wanted_range: WantedRange = None,
) -> Response:
    """Passed through from Twilio piece by piece, up to 4 GiB; `Range` is heeded."""
    query = [("RequestedChannels", str(requested_channels))] if requested_channels else []
    wanted = {"Range": wanted_range} if wanted_range else {}
    return streamed(await stack.enter_async_context(service.media(call, Media(sid, f".{media_format}", query, wanted))))


def streamed(opened: StreamedResponse) -> Response:
    """Twilio's answer, while it arrives."""

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in opened.chunks:
                yield chunk
        except TwilioOutcomeUnknown as error:
            raise ResponseTruncated(error.reason) from error

    return StreamingResponse(chunks(), opened.status, opened.headers)


def _reader(operation: Operation) -> Callable[..., Awaitable[Response]]:
    async def read(
        request: Request,
        call: StartedCallDep,
        service: SubresourceServiceDep,
        sid: Annotated[str | None, Depends(of_one if operation.targets_item else of_all)],
    ) -> Response:
        wanted = Wanted(operation, sid, read_members(operation, _query(request)))
        page = await service.read_whole(call, wanted)
        return JSONResponse(_at_home(page, operation, request.url.path) if operation.action == "list" else page)

    return read


def _changer(operation: Operation) -> Callable[..., Awaitable[Response]]:
    async def change(
        request: Request,
        caller: CallerDep,
        call: StartedCallDep,
        service: SubresourceServiceDep,
        sid: Annotated[str | None, Depends(of_one if operation.targets_item else of_all)],
        key: Annotated[str | None, Depends(read_key if operation.takes_idempotency_key else refuse_key)],
        body: Annotated[dict[str, Any], Depends(no_body if operation.method == "DELETE" else read_json_object)],
    ) -> Response:
        wanted = Wanted(operation, sid, read_members(operation, body), key)
        request.state.indeterminate_error = indeterminate_error(call, repeatable=False)
        return answered(await service.change(caller, call, wanted))

    return change


def answered(done: UpstreamResponse) -> Response:
    return Response(status_code=done.status) if done.document is None else JSONResponse(done.document, done.status)


def _query(request: Request) -> dict[str, str]:
    query = request.query_params
    repeated = [name for name in query if len(query.getlist(name)) > 1]
    if repeated:
        raise InvalidRequest(field_errors=tuple(FieldError(f"?{name}", "repeated", "must be given once") for name in repeated))
    return dict(query)


def _at_home(page: dict[str, Any], operation: Operation, path: str) -> dict[str, Any]:
    """Twilio's page with the addresses of its neighbours here, in this API's names."""
    members = {name: parameter.member for parameter in operation.parameters for name in parameter.names()}

    def moved(uri: Any) -> Any:
        if not isinstance(uri, str):
            return uri
        query = [(members[name], value) for name, value in parse_qsl(urlsplit(uri).query) if name in members]
        return f"{path}?{urlencode(query)}" if query else path

    return page | {name: moved(page[name]) for name in _PAGE_URIS if name in page}


for _operation in OPERATIONS:
    _path = f"/{name_of(_operation.subresource)}" + ("/{sid}" if _operation.targets_item else "")
    router.add_api_route(
        _path,
        _changer(_operation) if _operation.is_change else _reader(_operation),
        methods=[_METHODS[_operation.action]],
        operation_id=operation_id_of(_operation),
        summary=summary_of(_operation),
        description=description_of(_operation),
        status_code=_operation.status,
        responses=responses_of(_operation, f"{router.prefix}{_path}"),
        openapi_extra=extra_of(_operation),
        response_model=None,
    )
