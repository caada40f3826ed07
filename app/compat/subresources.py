"""Twilio's own paths below a call, and a recording's below the account: forms in, Twilio's answers out as they arrive.

What a client sends goes on as it is, whatever it is: Twilio judges it. Only booleans are written as Twilio's SDKs write them,
and an `IdempotencyKey` is added where it takes one.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from app.calls.models import Call
from app.calls.router import CallServiceDep
from app.compat.access import AccountDep
from app.compat.errors import CALL_ID_HEADER
from app.compat.form import Fields, FormDep, NoQueryDep, parse_fields, plain_boolean, refuse_encoded_pairs
from app.compat.router import PREFIX, find_own_call
from app.http.idempotency_key import IdempotencyKeyDep
from app.observability.context import bind
from app.subresources.answers import indeterminate_error
from app.subresources.router import (
    RangeHeader,
    RecordingSid,
    ResponseStackDep,
    SubresourceServiceDep,
    item_sid,
    json_response,
    no_sid,
    streamed,
)
from app.subresources.service import Media, SubresourceRequest
from app.twilio.subresources import OPERATIONS, RECORDINGS, Operation

router = APIRouter(prefix=f"{PREFIX}/Accounts/{{account_sid}}", include_in_schema=False)

_BELOW_CALL = "/Calls/{call_sid}"


async def parent_call(call_sid: str, account: AccountDep, service: CallServiceDep) -> Call:
    call = await find_own_call(service, account, call_sid)
    bind(call_id=str(call.id), call_sid=call.sid)
    return call


ParentCallDep = Annotated[Call, Depends(parent_call)]


@router.get(f"{_BELOW_CALL}/{RECORDINGS.segment}/{{sid}}.mp3")
@router.get(f"{_BELOW_CALL}/{RECORDINGS.segment}/{{sid}}.wav")
async def fetch_media(
    request: Request,
    call: ParentCallDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: RecordingSid,
    byte_range: RangeHeader = None,
) -> Response:
    media = _media(request, sid, byte_range)
    return streamed(await stack.enter_async_context(service.media(call, media)))


@router.get(f"/{RECORDINGS.segment}/{{sid}}.mp3")
@router.get(f"/{RECORDINGS.segment}/{{sid}}.wav")
async def fetch_media_of_account(
    request: Request,
    account: AccountDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: RecordingSid,
    byte_range: RangeHeader = None,
) -> Response:
    """Where Twilio's guides and `RecordingUrl` look for it. Which call it is of, Twilio has to be asked first."""
    call, _ = await service.find_recording(account.caller, account.account_id, account.account_sid, sid)
    media = _media(request, sid, byte_range)
    return streamed(await stack.enter_async_context(service.media(call, media)))


@router.get(f"/{RECORDINGS.segment}/{{sid}}.json", dependencies=[NoQueryDep])
async def fetch_recording_of_account(account: AccountDep, service: SubresourceServiceDep, sid: RecordingSid) -> Response:
    _, recording = await service.find_recording(account.caller, account.account_id, account.account_sid, sid)
    return JSONResponse(recording)


@router.get(f"/{RECORDINGS.segment}/{{sid}}")
async def fetch_recording_url(
    request: Request,
    account: AccountDep,
    service: SubresourceServiceDep,
    stack: ResponseStackDep,
    sid: RecordingSid,
    byte_range: RangeHeader = None,
) -> Response:
    """`RecordingUrl` as Twilio writes it in callbacks: WAV, unless JSON is asked for."""
    if "application/json" in request.headers.get("Accept", "").lower():
        return await fetch_recording_of_account(account, service, sid)
    return await fetch_media_of_account(request, account, service, stack, sid, byte_range)


def _media(request: Request, sid: str, byte_range: str | None) -> Media:
    suffix = ".mp3" if request.url.path.endswith(".mp3") else ".wav"
    headers = {"Range": byte_range} if byte_range else {}
    return Media(sid, suffix, _pairs(parse_fields(request.url.query)), headers)


def _reader(operation: Operation) -> Callable[..., Awaitable[Response]]:
    async def read(
        request: Request,
        call: ParentCallDep,
        service: SubresourceServiceDep,
        stack: ResponseStackDep,
        sid: Annotated[str | None, Depends(item_sid if operation.targets_item else no_sid)],
    ) -> Response:
        query = parse_fields(request.url.query)
        refuse_encoded_pairs(query)
        response = streamed(
            await stack.enter_async_context(service.read(call, SubresourceRequest(operation, sid, _pairs(query))))
        )
        response.headers[CALL_ID_HEADER] = str(call.id)
        return response

    return read


def _changer(operation: Operation) -> Callable[..., Awaitable[Response]]:
    async def change(
        request: Request,
        account: AccountDep,
        call: ParentCallDep,
        service: SubresourceServiceDep,
        sid: Annotated[str | None, Depends(item_sid if operation.targets_item else no_sid)],
        form: FormDep,
        key: IdempotencyKeyDep,
    ) -> Response:
        refuse_encoded_pairs(form)
        subrequest = SubresourceRequest(operation, sid, _plain(operation, _pairs(form)), key)
        request.state.indeterminate_error = indeterminate_error(call, repeatable=False)
        response = json_response(await service.change(account.caller, call, subrequest))
        response.headers[CALL_ID_HEADER] = str(call.id)
        return response

    return change


def _pairs(fields: Fields) -> list[tuple[str, str]]:
    return [(name, value) for name, values in fields.items() for value in values]


def _plain(operation: Operation, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    booleans = {parameter.name for parameter in operation.parameters if parameter.is_boolean}
    return [(name, plain_boolean(value) if name in booleans else value) for name, value in pairs]


def _add(operation: Operation) -> None:
    """With `.json` first: the other path matches it as well."""
    path = f"{_BELOW_CALL}/{operation.subresource.segment}" + ("/{sid}" if operation.targets_item else "")
    handler: Any = _changer(operation) if operation.is_change else _reader(operation)
    for suffix in (".json", ""):
        router.add_api_route(path + suffix, handler, methods=[operation.method])


for _operation in OPERATIONS:
    _add(_operation)
