"""Endpoints for Twilio's paths below a call, such as `/Calls/{sid}/Recordings`, and for recordings below the account.

Parameters are forwarded to Twilio, which validates them. They are unchanged with two exceptions: booleans are normalized to
`true` and `false`, and an `IdempotencyKey` is added to operations that accept one. Data that is read from Twilio is streamed to
the client.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from app.calls.models import Call
from app.calls.router import CallServiceDep
from app.compat.access import AccountDep, TwilioRoute
from app.compat.errors import CALL_ID_HEADER
from app.compat.form import FormDep, normalize_boolean, refuse_encoded_equals_signs
from app.compat.router import PREFIX, find_requested_call
from app.errors import SubresourceNotFound
from app.http.form import ParameterValues, parse_form_parameters
from app.http.idempotency_key import IdempotencyKeyDep
from app.http.routes import needs
from app.observability.context import bind_log_fields
from app.subresources.answers import action_outcome_unknown_error
from app.subresources.requests import MediaRequest, SubresourceRequest
from app.subresources.router import (
    MAX_ITEM_SID_LENGTH,
    RECORDING_SID_PATTERN,
    RangeHeader,
    ResponseStackDep,
    SubresourceServiceDep,
    change_response,
    no_sid,
    streaming_response,
)
from app.tenants.scopes import Scope
from app.twilio.subresources import RECORDINGS, SUBRESOURCE_OPERATIONS, SubresourceOperation

router = APIRouter(prefix=f"{PREFIX}/Accounts/{{account_sid}}", include_in_schema=False, route_class=TwilioRoute)

_CALL_PATH = "/Calls/{call_sid}"


async def parent_call(call_sid: str, account: AccountDep, service: CallServiceDep) -> Call:
    call = await find_requested_call(service, account, call_sid)
    bind_log_fields(call_id=str(call.id), call_sid=call.sid)
    return call


ParentCallDep = Annotated[Call, Depends(parent_call)]


async def recording_sid_or_404(sid: str, _: AccountDep) -> str:
    """Returns the recording's SID in the path. Raises SubresourceNotFound if it is malformed: Twilio answers 404, too."""
    if not re.fullmatch(RECORDING_SID_PATTERN, sid):
        raise SubresourceNotFound
    return sid


async def subresource_sid_or_404(sid: str, _: ParentCallDep) -> str:
    """Returns the item's SID or name in the path. Raises SubresourceNotFound if it is too long for either."""
    if len(sid) > MAX_ITEM_SID_LENGTH:
        raise SubresourceNotFound
    return sid


TwilioRecordingSid = Annotated[str, Depends(recording_sid_or_404)]


@router.get(f"{_CALL_PATH}/{RECORDINGS.segment}/{{sid}}.mp3")
@router.get(f"{_CALL_PATH}/{RECORDINGS.segment}/{{sid}}.wav")
@needs(Scope.READ)
async def fetch_media(
    request: Request,
    call: ParentCallDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: TwilioRecordingSid,
    byte_range: RangeHeader = None,
) -> Response:
    media = _media_request(request, sid, byte_range)
    return streaming_response(await stack.enter_async_context(service.stream_recording_media(call, media)))


@router.get(f"/{RECORDINGS.segment}/{{sid}}.mp3")
@router.get(f"/{RECORDINGS.segment}/{{sid}}.wav")
@needs(Scope.READ)
async def fetch_media_of_account(
    request: Request,
    account: AccountDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: TwilioRecordingSid,
    byte_range: RangeHeader = None,
) -> Response:
    """Streams the audio of a recording. First asks Twilio which call was recorded, because the path does not name the call.

    Twilio's guides use this path, and so does a client that adds `.mp3` or `.wav` to the `RecordingUrl` of a callback.
    """
    media = _media_request(request, sid, byte_range)
    answer = service.stream_recording_media_of_account(account.caller, account.account_id, account.account_sid, media)
    return streaming_response(await stack.enter_async_context(answer))


@router.get(f"/{RECORDINGS.segment}/{{sid}}.json")
@needs(Scope.READ)
async def fetch_recording_of_account(
    request: Request, account: AccountDep, service: SubresourceServiceDep, sid: TwilioRecordingSid
) -> Response:
    query = _query_pairs(request)
    _, recording = await service.find_recording(account.caller, account.account_id, account.account_sid, sid, query)
    return JSONResponse(recording)


@router.get(f"/{RECORDINGS.segment}/{{sid}}")
@needs(Scope.READ)
async def fetch_recording_url(
    request: Request,
    account: AccountDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: TwilioRecordingSid,
    byte_range: RangeHeader = None,
) -> Response:
    """Serves the `RecordingUrl` of Twilio's callbacks: the WAV file or, if the client accepts JSON, the Recording resource."""
    if "application/json" in request.headers.get("Accept", "").lower():
        return await fetch_recording_of_account(request, account, service, sid)
    return await fetch_media_of_account(request, account, service, stack, sid, byte_range)


def _media_request(request: Request, sid: str, byte_range: str | None) -> MediaRequest:
    suffix = ".mp3" if request.url.path.endswith(".mp3") else ".wav"
    headers = {"Range": byte_range} if byte_range else {}
    return MediaRequest(sid, suffix, _name_value_pairs(parse_form_parameters(request.url.query)), headers)


def _make_read_endpoint(operation: SubresourceOperation) -> Callable[..., Awaitable[Response]]:
    @needs(Scope.READ)
    async def read(
        request: Request,
        call: ParentCallDep,
        service: SubresourceServiceDep,
        stack: ResponseStackDep,
        sid: Annotated[str | None, Depends(subresource_sid_or_404 if operation.targets_item else no_sid)],
    ) -> Response:
        subrequest = SubresourceRequest(operation, sid, _query_pairs(request))
        response = streaming_response(await stack.enter_async_context(service.stream_subresource(call, subrequest)))
        response.headers[CALL_ID_HEADER] = str(call.id)
        return response

    return read


def _make_change_endpoint(operation: SubresourceOperation) -> Callable[..., Awaitable[Response]]:
    @needs(Scope.CALL)
    async def change(
        request: Request,
        account: AccountDep,
        call: ParentCallDep,
        service: SubresourceServiceDep,
        sid: Annotated[str | None, Depends(subresource_sid_or_404 if operation.targets_item else no_sid)],
        form: FormDep,
        key: IdempotencyKeyDep,
    ) -> Response:
        refuse_encoded_equals_signs(form)
        subrequest = SubresourceRequest(operation, sid, _with_normalized_booleans(operation, _name_value_pairs(form)), key)
        request.state.indeterminate_error = action_outcome_unknown_error(call, repeatable=False)
        response = change_response(await service.change_subresource(account.caller, call, subrequest))
        response.headers[CALL_ID_HEADER] = str(call.id)
        return response

    return change


def _query_pairs(request: Request) -> list[tuple[str, str]]:
    query = parse_form_parameters(request.url.query)
    refuse_encoded_equals_signs(query)
    return _name_value_pairs(query)


def _name_value_pairs(fields: ParameterValues) -> list[tuple[str, str]]:
    return [(name, value) for name, values in fields.items() for value in values]


def _with_normalized_booleans(operation: SubresourceOperation, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    booleans = {parameter.name for parameter in operation.parameters if parameter.is_boolean}
    return [(name, normalize_boolean(value) if name in booleans else value) for name, value in pairs]


def _add_routes(operation: SubresourceOperation) -> None:
    """Adds two routes for the operation: its path with `.json`, and its path without.

    The path with `.json` comes first, because the path without `.json` also matches its requests.
    """
    path = f"{_CALL_PATH}/{operation.subresource.segment}" + ("/{sid}" if operation.targets_item else "")
    handler: Any = _make_change_endpoint(operation) if operation.is_change else _make_read_endpoint(operation)
    for suffix in (".json", ""):
        router.add_api_route(path + suffix, handler, methods=[operation.method])


for _operation in SUBRESOURCE_OPERATIONS:
    _add_routes(_operation)
