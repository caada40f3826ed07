"""The routes of Twilio's Calls resource: https://www.twilio.com/docs/voice/api/call-resource.

The endpoints take a request and return a response, so that `CallsMiddleware` can call them without FastAPI.

Each route also exists with a path without `.json` (see simulator/negotiation.py). The path without `.json` must be registered
second, because `/Calls/{sid}` also matches `/Calls/CA….json`. So its decorator is written first: decorators run from the bottom
up.
"""

import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.accounts import Account
from simulator.creation import CallCreation
from simulator.errors import TwilioError
from simulator.form import read_form
from simulator.lifecycle import Status, plan_with_time_limit
from simulator.listing import render_call_page
from simulator.negotiation import require_json
from simulator.parameters import UpdateParameters, validate_update
from simulator.resource import render_call_resource
from simulator.state import SimulatorState
from simulator.store import Call
from simulator.subscription import CallbackSubscription

STATE_SCOPE_KEY = "simulator"
"""The key of the simulator's state in the ASGI scope of a request."""

router = APIRouter(prefix="/2010-04-01/Accounts/{account_sid}", tags=["Twilio"])


def get_state(request: Request) -> SimulatorState:
    state: SimulatorState = request.scope[STATE_SCOPE_KEY]
    return state


StateDep = Annotated[SimulatorState, Depends(get_state)]


def authenticate(account_sid: str, request: Request) -> Account:
    account = get_state(request).accounts.authenticate(account_sid, request.headers.get("authorization"))
    require_json(request)
    return account


def get_call(account_sid: str, sid: str, request: Request) -> Call:
    """Authenticates the request and returns the call.

    Raises error 20404 if the account has no such call, or if the call is deleted or still hidden by a fault.
    """
    state = get_state(request)
    call = state.calls.get(authenticate(account_sid, request).sid, sid)
    if call is None or not call.is_visible(state.now()):
        raise TwilioError(20404, request.scope["path"])
    return call


@router.post("/Calls", status_code=201, include_in_schema=False)
@router.post("/Calls.json", status_code=201, summary="Create a call")
async def create_call(account_sid: str, request: Request) -> Response:
    """Creates a call from a form with Twilio's parameters.

    The user part of a SIP `To` can decide how the call ends: see docs/simulator.md.
    """
    return await CallCreation(get_state(request)).handle_creation(request, account_sid)


@router.get("/Calls", include_in_schema=False)
@router.get("/Calls.json", summary="List calls")
async def list_calls(account_sid: str, request: Request) -> Response:
    """Lists calls. Supports `PageSize`, `PageToken` and Twilio's ten filters.

    The name of a filter by date may end with an operator, such as `StartTime>`.
    """
    account, state = authenticate(account_sid, request), get_state(request)
    now = state.now()
    state.list_faults.require_allowed_rate(account.sid, now)
    return _json_response(
        render_call_page(
            state.calls, account.sid, request.query_params, state.list_faults.draw_request_faults(now), state.display_rules
        )
    )


@router.get("/Calls/{sid}", include_in_schema=False)
@router.get("/Calls/{sid}.json", summary="Fetch a call")
async def fetch_call(account_sid: str, sid: str, request: Request) -> Response:
    state = get_state(request)
    return _json_response(render_call_resource(get_call(account_sid, sid, request), state.now(), state.display_rules))


@router.post("/Calls/{sid}", include_in_schema=False)
@router.post("/Calls/{sid}.json", summary="Cancel, end or redirect a call")
async def update_call(account_sid: str, sid: str, request: Request) -> Response:
    """Cancels, ends or redirects a call.

    `Status=canceled` ends a call that is queued or ringing, and does not change a call in progress. `Status=completed` ends a
    call that is queued, ringing or in progress. `Url` or `Twiml` redirects a call in progress, and gets error 21220 before
    that. A call that has ended cannot be updated: a request with `Status` gets the error `SimulatorConfig.ended_call_code`, and
    any other request gets error 21220.
    """
    state, call = get_state(request), get_call(account_sid, sid, request)
    parameters = validate_update(await read_form(request))
    now = state.now()
    if parameters.status is not None and call.stage_at(now).progress.has_ended:
        raise TwilioError(state.config.ended_call_code, request.scope["path"])
    _update_call(call, parameters, now, state)
    return _json_response(render_call_resource(call, now, state.display_rules))


@router.delete("/Calls/{sid}", status_code=204, include_in_schema=False)
@router.delete("/Calls/{sid}.json", status_code=204, summary="Delete a call that has ended")
async def delete_call(account_sid: str, sid: str, request: Request) -> Response:
    call, now = get_call(account_sid, sid, request), get_state(request).now()
    if not call.stage_at(now).progress.has_ended:
        raise TwilioError(20009)
    call.deleted_at = now
    return Response(status_code=204)


Endpoint = Callable[..., Coroutine[Any, Any, Response]]
_LIST_ENDPOINTS: Mapping[str, Endpoint] = {"POST": create_call, "GET": list_calls}
_CALL_ENDPOINTS: Mapping[str, Endpoint] = {"GET": fetch_call, "POST": update_call, "DELETE": delete_call}


class CallsMiddleware:
    """A middleware that calls the endpoints of this module directly. It passes requests for other routes to `app`.

    FastAPI's routing, dependencies and serialization would take more processor time than the endpoints themselves.
    """

    _CALLS_PATH_PATTERN = re.compile(r"/2010-04-01/Accounts/(?P<account_sid>[^/]+)/Calls(?:/(?P<sid>[^/]+?))?(?:\.json)?")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._CALLS_PATH_PATTERN.fullmatch(scope["path"]) if scope["type"] == "http" else None
        endpoint = (_LIST_ENDPOINTS if found["sid"] is None else _CALL_ENDPOINTS).get(scope["method"]) if found else None
        if found is None or endpoint is None:
            await self.app(scope, receive, send)
            return
        parameters = {name: value for name, value in found.groupdict().items() if value is not None}
        try:
            response = await endpoint(request=Request(scope, receive), **parameters)
        except TwilioError as error:
            response = error.response()
        await response(scope, receive, send)


def _json_response(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _update_call(call: Call, parameters: UpdateParameters, now: datetime, state: SimulatorState) -> None:
    at = call.stage_at(now).progress
    if at.has_ended or (parameters.redirects and at.status is not Status.IN_PROGRESS):
        raise TwilioError(21220)
    if parameters.time_limit_s is not None:
        call.plan = plan_with_time_limit(call.plan, parameters.time_limit_s, now)
    cancels = parameters.status is Status.CANCELED and at.status is not Status.IN_PROGRESS
    if cancels or parameters.status is Status.COMPLETED:
        state.end_call(call, now)
    if parameters.callback_url is not None:
        before = call.subscription or CallbackSubscription(parameters.callback_url)
        call.subscription = replace(before, url=parameters.callback_url, method=parameters.callback_method or "POST")
    state.callbacks.schedule_callbacks(call)
