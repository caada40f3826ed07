"""HTTP for Twilio's own paths: bind, delegate, answer in Twilio's shape.

https://www.twilio.com/docs/voice/api/call-resource. Each path exists also without `.json`. Decorators register from the bottom
up, so the path without `.json` stands above: `/Calls/{sid}` matches `/Calls/CA….json` as well and must come second. Not in
the OpenAPI document: Twilio's own describes them.
"""

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from app.calls.models import Call
from app.calls.parameters import CallParameters
from app.calls.router import CallServiceDep, IdempotencyKey
from app.calls.service import CallService
from app.compat.access import AccountDep, OwnAccount
from app.compat.dialect import CALL_ID_HEADER, TwilioDialect
from app.compat.form import FormDep, parameters_of
from app.compat.resource import resource_of
from app.errors import CallNotFound
from app.twilio.schemas import CALL_SID

PREFIX = "/2010-04-01"
WARNING_HEADER = "Callgate-Warning"

router = APIRouter(prefix=f"{PREFIX}/Accounts/{{account_sid}}", include_in_schema=False)


async def own_call(sid: str, account: AccountDep, service: CallServiceDep) -> Call:
    """The call of the path, if it is one of this account's. Raises CallNotFound, which is 20404 here."""
    return await find_own_call(service, account, sid)


async def find_own_call(service: CallService, account: OwnAccount, sid: str) -> Call:
    if not CALL_SID.fullmatch(sid):
        raise CallNotFound
    call = await service.get(account.caller, sid)
    if call.account_sid != account.account_sid:
        raise CallNotFound
    return call


OwnCallDep = Annotated[Call, Depends(own_call)]


@router.post("/Calls")
@router.post("/Calls.json")
async def create_call(
    request: Request, account: AccountDep, service: CallServiceDep, form: FormDep, idempotency_key: IdempotencyKey
) -> Response:
    """201 and the resource, whether the call was started now or its key names it; 409 when the outcome is not known."""
    body = parameters_of(form, CallParameters) | {"account_sid": account.account_sid}
    creation = await service.create(account.caller, body, idempotency_key)
    call = creation.call
    request.state.placed = call.id
    structlog.contextvars.bind_contextvars(call_id=str(call.id), call_sid=call.sid, execution=call.execution)
    if call.execution != "started":
        return TwilioDialect().unknown(call.id, request_id=request.state.request_id)
    headers = {CALL_ID_HEADER: str(call.id)} | ({"Idempotent-Replayed": "true"} if creation.replayed else {})
    response = JSONResponse(resource_of(call), 201, headers)
    for warning in call.warnings:
        response.headers.append(WARNING_HEADER, _line(warning))
    return response


@router.get("/Calls/{sid}")
@router.get("/Calls/{sid}.json")
async def fetch_call(call: OwnCallDep) -> Response:
    return JSONResponse(resource_of(call), 200, {CALL_ID_HEADER: str(call.id)})


def _line(warning: dict[str, Any]) -> str:
    """As one header line: ASCII without control characters."""
    text = f"{warning['pointer']} {warning['code']}: {warning['detail']}"
    return "".join(character if " " <= character <= "~" else "?" for character in text)
