"""Twilio's routes below a call (recordings, streams and others), and the routes of a recording below its account.

As in simulator/calls.py, each route also exists without `.json`, and the decorator of that path is written first.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from simulator.accounts import Account
from simulator.calls import StateDep, authenticate
from simulator.calls import get_call as find_call
from simulator.errors import TwilioError
from simulator.form import read_form
from simulator.negotiation import json_response
from simulator.store import Call
from simulator.subresources import KINDS_BY_SEGMENT, SubresourceKind, event_of_creation, wav_tone

router = APIRouter(tags=["Twilio"])

_ACCOUNT_PATH = "/2010-04-01/Accounts/{account_sid}"
_CALL_PATH = _ACCOUNT_PATH + "/Calls/{call_sid}"
_LIST_PATH, _ITEM_PATH = "/{segment}", "/{segment}/{sid}"
_FETCHABLE_KINDS, _LISTABLE_KINDS = {"Notifications", "Recordings"}, {"Notifications", "Recordings", "Events"}
_UPDATABLE_KINDS = {"Recordings", "Payments", "Transcriptions", "Siprec", "Streams"}
_DELETABLE_KINDS = {"Recordings", "UserDefinedMessageSubscriptions"}
_BYTE_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")


def get_kind(segment: str, request: Request) -> SubresourceKind:
    if segment not in KINDS_BY_SEGMENT:
        raise TwilioError(20404, request.url.path)
    return KINDS_BY_SEGMENT[segment]


def get_call(account_sid: str, call_sid: str, request: Request) -> Call:
    return find_call(account_sid, call_sid, request)


AccountDep = Annotated[Account, Depends(authenticate)]
KindDep = Annotated[SubresourceKind, Depends(get_kind)]
CallDep = Annotated[Call, Depends(get_call)]


@router.get(_CALL_PATH + _LIST_PATH, include_in_schema=False)
@router.get(_CALL_PATH + _LIST_PATH + ".json", summary="List events, notifications or recordings of a call")
async def list_subresources(call: CallDep, kind: KindDep, request: Request, state: StateDep) -> JSONResponse:
    """Lists a call's subresources of one kind. Supports `PageSize`, `Page`, and filters by day (`DateCreated>`)."""
    _require_supported_kind(kind, _LISTABLE_KINDS)
    extra = [event_of_creation(call)] if kind.segment == "Events" else []
    path = f"/2010-04-01/Accounts/{call.account_sid}/Calls/{call.sid}/{kind.segment}.json"
    return json_response(state.subresources.render_page(kind, call, request.query_params, extra, path), request)


@router.post(_CALL_PATH + _LIST_PATH, include_in_schema=False)
@router.post(_CALL_PATH + _LIST_PATH + ".json", summary="Start a recording, a stream, a payment …")
async def create_subresource(call: CallDep, kind: KindDep, request: Request, state: StateDep) -> JSONResponse:
    """Creates a subresource of a call in progress. Answers 21220 for any other call."""
    _require_supported_kind(kind, KINDS_BY_SEGMENT.keys() - {"Events", "Notifications"})
    form = await read_form(request)
    return JSONResponse(state.subresources.create(kind, call, form, state.now()), kind.status)


@router.get(_CALL_PATH + _ITEM_PATH, include_in_schema=False)
@router.get(_CALL_PATH + _ITEM_PATH + ".json", summary="Fetch a notification or a recording")
async def fetch_subresource(call: CallDep, kind: KindDep, sid: str, request: Request, state: StateDep) -> dict[str, Any]:
    _require_supported_kind(kind, _FETCHABLE_KINDS)
    return state.subresources.find(kind, call, sid, request.url.path).resource


@router.post(_CALL_PATH + _ITEM_PATH, include_in_schema=False)
@router.post(_CALL_PATH + _ITEM_PATH + ".json", summary="Stop or change a recording, a stream, a payment …")
async def update_subresource(call: CallDep, kind: KindDep, sid: str, request: Request, state: StateDep) -> JSONResponse:
    _require_supported_kind(kind, _UPDATABLE_KINDS)
    item = state.subresources.find(kind, call, sid, request.url.path)
    form = await read_form(request)
    return JSONResponse(
        state.subresources.update(kind, call, item, form, state.now()), 202 if kind.segment == "Payments" else 200
    )


@router.delete(_CALL_PATH + _ITEM_PATH, status_code=204, include_in_schema=False)
@router.delete(_CALL_PATH + _ITEM_PATH + ".json", status_code=204, summary="Delete a recording or a subscription")
async def delete_subresource(call: CallDep, kind: KindDep, sid: str, request: Request, state: StateDep) -> Response:
    _require_supported_kind(kind, _DELETABLE_KINDS)
    state.subresources.delete(kind, state.subresources.find(kind, call, sid, request.url.path))
    return Response(status_code=204)


@router.get(_ACCOUNT_PATH + "/Recordings/{sid}.json", summary="Fetch a recording without its call")
async def fetch_recording(account: AccountDep, sid: str, request: Request, state: StateDep) -> dict[str, Any]:
    return state.subresources.find_recording(account.sid, sid, request.url.path)


def authenticate_media(account_sid: str, request: Request, state: StateDep) -> Account:
    """Authenticates a request for the audio of a recording. Such a request does not have to accept JSON."""
    return state.accounts.authenticate(account_sid, request.headers.get("authorization"))


@router.get(_ACCOUNT_PATH + "/Recordings/{sid}.wav", summary="Fetch the audio of a recording")
@router.get(_ACCOUNT_PATH + "/Recordings/{sid}.mp3", include_in_schema=False)
async def fetch_media(
    account: Annotated[Account, Depends(authenticate_media)], sid: str, request: Request, state: StateDep
) -> Response:
    """Returns a tone of a quarter of a second, always as WAV. Supports `Range: bytes=0-99` and `bytes=100-`."""
    state.subresources.find_recording(account.sid, sid, request.url.path)
    content = wav_tone()
    headers = {"Accept-Ranges": "bytes"}
    found = _BYTE_RANGE.fullmatch(request.headers.get("range", ""))
    if not found:
        return Response(content, media_type="audio/x-wav", headers=headers)
    first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
    if first > last:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Response(content[first : last + 1], 206, headers, "audio/x-wav")


@router.post("/_simulator/calls/{call_sid}/notifications", status_code=201, tags=["control"], summary="Add a notification")
async def add_notification(call_sid: str, fields: dict[str, str], request: Request, state: StateDep) -> dict[str, Any]:
    """Adds a notification to a call. At Twilio, no request can create one.

    `fields` replace members of the new notification.
    """
    call = state.calls.find_in_any_account(call_sid)
    if call is None:
        raise TwilioError(20404, request.url.path)
    return state.subresources.add_created_by_twilio(KINDS_BY_SEGMENT["Notifications"], call, fields, state.now())


def _require_supported_kind(kind: SubresourceKind, supported: set[str]) -> None:
    if kind.segment not in supported:
        raise TwilioError(20004)
