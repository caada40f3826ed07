"""Twilio's routes below a call, and those of a recording below its account.

As in calls, each exists also without `.json`, and that decorator stands above.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from simulator.accounts import Account
from simulator.calls import AccountDep, StateDep
from simulator.errors import TwilioError
from simulator.form import read_form
from simulator.store import Call
from simulator.subresources import KINDS, Kind, event_of_creation, sound

router = APIRouter(tags=["Twilio"])

_ACCOUNT = "/2010-04-01/Accounts/{account_sid}"
_CALL = _ACCOUNT + "/Calls/{call_sid}"
_ALL, _ONE = "/{segment}", "/{segment}/{sid}"
_FETCHED, _LISTED = {"Notifications", "Recordings"}, {"Notifications", "Recordings", "Events"}
_UPDATED = {"Recordings", "Payments", "Transcriptions", "Siprec", "Streams"}
_DELETED = {"Recordings", "UserDefinedMessageSubscriptions"}


def get_kind(segment: str, request: Request) -> Kind:
    if segment not in KINDS:
        raise TwilioError(20404, request.url.path)
    return KINDS[segment]


def get_call(call_sid: str, account: AccountDep, request: Request, state: StateDep) -> Call:
    call = state.calls.get(account.sid, call_sid)
    if call is None or not call.is_visible(state.now()):
        raise TwilioError(20404, request.url.path)
    return call


KindDep = Annotated[Kind, Depends(get_kind)]
CallDep = Annotated[Call, Depends(get_call)]


@router.get(_CALL + _ALL, include_in_schema=False)
@router.get(_CALL + _ALL + ".json", summary="List what a call has")
async def read_all(call: CallDep, kind: KindDep, request: Request, state: StateDep) -> dict[str, Any]:
    """Events, notifications and recordings; `PageSize`, `Page`, and filters by day with the operator in the name."""
    _require(kind, _LISTED)
    own = [event_of_creation(call)] if kind.segment == "Events" else []
    path = f"/2010-04-01/Accounts/{call.account_sid}/Calls/{call.sid}/{kind.segment}.json"
    return state.subresources.page(kind, call, request.query_params, own, path)


@router.post(_CALL + _ALL, include_in_schema=False)
@router.post(_CALL + _ALL + ".json", summary="Start a recording, a stream, a payment …")
async def create(call: CallDep, kind: KindDep, request: Request, state: StateDep) -> JSONResponse:
    """Of a call in progress; otherwise 21220."""
    _require(kind, KINDS.keys() - {"Events", "Notifications"})
    form = await read_form(request)
    return JSONResponse(state.subresources.create(kind, call, form, state.now()), kind.status)


@router.get(_CALL + _ONE, include_in_schema=False)
@router.get(_CALL + _ONE + ".json", summary="Fetch a notification or a recording")
async def fetch(call: CallDep, kind: KindDep, sid: str, request: Request, state: StateDep) -> dict[str, Any]:
    _require(kind, _FETCHED)
    return state.subresources.find(kind, call, sid, request.url.path).resource


@router.post(_CALL + _ONE, include_in_schema=False)
@router.post(_CALL + _ONE + ".json", summary="Stop or change one")
async def update(call: CallDep, kind: KindDep, sid: str, request: Request, state: StateDep) -> JSONResponse:
    _require(kind, _UPDATED)
    one = state.subresources.find(kind, call, sid, request.url.path)
    form = await read_form(request)
    return JSONResponse(
        state.subresources.update(kind, call, one, form, state.now()), 202 if kind.segment == "Payments" else 200
    )


@router.delete(_CALL + _ONE, status_code=204, include_in_schema=False)
@router.delete(_CALL + _ONE + ".json", status_code=204, summary="Delete a recording or a subscription")
async def delete(call: CallDep, kind: KindDep, sid: str, request: Request, state: StateDep) -> Response:
    _require(kind, _DELETED)
    state.subresources.delete(kind, state.subresources.find(kind, call, sid, request.url.path))
    return Response(status_code=204)


@router.get(_ACCOUNT + "/Recordings/{sid}.json", summary="Fetch a recording without its call")
async def fetch_recording(account: AccountDep, sid: str, request: Request, state: StateDep) -> dict[str, Any]:
    return state.subresources.recording(account.sid, sid, request.url.path)


def listener(account_sid: str, request: Request, state: StateDep) -> Account:
    """As elsewhere, but no JSON is asked for."""
    return state.accounts.authenticate(account_sid, request.headers.get("authorization"))


@router.get(_ACCOUNT + "/Recordings/{sid}.wav", summary="A recording's sound")
@router.get(_ACCOUNT + "/Recordings/{sid}.mp3", include_in_schema=False)
async def fetch_sound(account: Annotated[Account, Depends(listener)], sid: str, request: Request, state: StateDep) -> Response:
    """A quarter of a second of a tone, always as WAV; `Range: bytes=…` is heeded."""
    state.subresources.recording(account.sid, sid, request.url.path)
    content = sound()
    first, _, last = request.headers.get("range", "").removeprefix("bytes=").partition("-")
    if not first.isdecimal():
        return Response(content, media_type="audio/x-wav", headers={"Accept-Ranges": "bytes"})
    end = min(int(last), len(content) - 1) if last.isdecimal() else len(content) - 1
    headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{end}/{len(content)}"}
    return Response(content[int(first) : end + 1], 206, headers, "audio/x-wav")


@router.post("/_simulator/calls/{call_sid}/notifications", status_code=201, tags=["control"], summary="Add a notification")
async def add_notification(call_sid: str, fields: dict[str, str], request: Request, state: StateDep) -> dict[str, Any]:
    """Twilio makes them by itself; `fields` are those of the resource that matter to a test."""
    call = state.calls.find(call_sid)
    if call is None:
        raise TwilioError(20404, request.url.path)
    return state.subresources.add(KINDS["Notifications"], call, fields, state.now())


def _require(kind: Kind, those: set[str]) -> None:
    if kind.segment not in those:
        raise TwilioError(20004)
