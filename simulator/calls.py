"""Twilio's routes: https://www.twilio.com/docs/voice/api/call-resource.

Each route also exists without `.json` (see negotiation). Decorators register from the bottom up, so the path
without `.json` is written first: `/Calls/{sid}` also matches `/Calls/CA….json` and must be registered second.
"""

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from simulator.accounts import Account
from simulator.creation import CallCreation
from simulator.errors import TwilioError
from simulator.form import read_form
from simulator.lifecycle import Status, hung_up, limited, progress
from simulator.listing import list_calls
from simulator.negotiation import require_json
from simulator.parameters import UpdateParameters, validate_update
from simulator.resource import current
from simulator.state import State
from simulator.store import Call
from simulator.subscription import Subscription

router = APIRouter(prefix="/2010-04-01/Accounts/{account_sid}", tags=["Twilio"])


def get_state(request: Request) -> State:
    state: State = request.app.state.simulator
    return state


StateDep = Annotated[State, Depends(get_state)]


def authenticate(account_sid: str, request: Request, state: StateDep) -> Account:
    account = state.accounts.authenticate(account_sid, request.headers.get("authorization"))
    require_json(request)
    return account


AccountDep = Annotated[Account, Depends(authenticate)]


def get_call(sid: str, account: AccountDep, request: Request, state: StateDep) -> Call:
    call = state.calls.get(account.sid, sid)
    if call is None or not call.is_visible(state.now()):
        raise TwilioError(20404, request.url.path)
    return call


CallDep = Annotated[Call, Depends(get_call)]


@router.post("/Calls", status_code=201, include_in_schema=False)
@router.post("/Calls.json", status_code=201, summary="Create a call")
async def create_call(account_sid: str, request: Request, state: StateDep) -> Response:
    """Takes a form with Twilio's parameters. The user part of the SIP URI decides the outcome: docs/simulator.md."""
    return await CallCreation(state).handle(request, account_sid)


@router.get("/Calls", include_in_schema=False)
@router.get("/Calls.json", summary="List calls")
async def read_calls(account: AccountDep, request: Request, state: StateDep) -> dict[str, Any]:
    """Supports Twilio's ten filters (an operator is part of the name: `StartTime>`), `PageSize` and `PageToken`."""
    return list_calls(state.calls, account.sid, request.query_params, state.now(), state.showing)


@router.get("/Calls/{sid}", include_in_schema=False)
@router.get("/Calls/{sid}.json", summary="Fetch a call")
async def fetch_call(call: CallDep, state: StateDep) -> dict[str, Any]:
    return state.showing.resource(current(call, progress(call.plan, state.now())))


@router.post("/Calls/{sid}", include_in_schema=False)
@router.post("/Calls/{sid}.json", summary="Cancel, end or redirect a call")
async def update_call(call: CallDep, request: Request, state: StateDep) -> dict[str, Any]:
    """`Status=canceled` ends a call that is queued or ringing and does not change one in progress; `completed`
    ends both. `Url` or `Twiml` redirects a call in progress. A call that has ended cannot be updated (21220)."""
    parameters = validate_update(await read_form(request))
    now = state.now()
    _update(call, parameters, now, state)
    return state.showing.resource(current(call, progress(call.plan, now)))


@router.delete("/Calls/{sid}", status_code=204, include_in_schema=False)
@router.delete("/Calls/{sid}.json", status_code=204, summary="Delete a call that has ended")
async def delete_call(call: CallDep, state: StateDep) -> Response:
    if not progress(call.plan, state.now()).has_ended:
        raise TwilioError(20009)
    call.deleted = True
    return Response(status_code=204)


def _update(call: Call, parameters: UpdateParameters, now: datetime, state: State) -> None:
    at = progress(call.plan, now)
    if at.has_ended or (parameters.redirects and at.status is not Status.IN_PROGRESS):
        raise TwilioError(21220)
    if parameters.time_limit_s is not None:
        call.plan = limited(call.plan, parameters.time_limit_s, now)
    cancels = parameters.status is Status.CANCELED and at.status is not Status.IN_PROGRESS
    if cancels or parameters.status is Status.COMPLETED:
        call.plan = hung_up(call.plan, now)
    if parameters.callback_url is not None:
        before = call.subscription or Subscription(parameters.callback_url)
        call.subscription = replace(before, url=parameters.callback_url, method=parameters.callback_method or "POST")
    state.callbacks.watch(call)
