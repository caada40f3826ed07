"""HTTP for Twilio's own paths: bind, delegate, answer in Twilio's shape.

https://www.twilio.com/docs/voice/api/call-resource. Each path exists also without `.json`. Decorators register from the bottom
up, so the path without `.json` stands above: `/Calls/{sid}` matches `/Calls/CA….json` as well and must come second. Not in
the OpenAPI document: Twilio's own describes them.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.responses import Response

from app.calls.control.router import CallControlDep, indeterminate_error
from app.calls.creation.router import log_call
from app.calls.creation.service import CreationService
from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.parameters import CallParameters, CallUpdate
from app.calls.router import CallServiceDep
from app.calls.service import CallService
from app.compat.access import AccountDep, OwnAccount
from app.compat.errors import CALL_ID_HEADER, TwilioErrorRenderer
from app.compat.form import FormDep, NoQueryDep, parameters_of, parse_fields
from app.compat.listing import read_listing
from app.compat.resource import ATTRIBUTES, resource_of
from app.compat.service import StartedCalls
from app.compat.tolerance import tolerate
from app.compat.wording import warning_line
from app.errors import CallNotFound, FieldError
from app.http.idempotency_key import IdempotencyKeyDep
from app.http.list_responses import list_response
from app.subresources.router import SubresourceServiceDep
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
    if call.account_sid != account.account_sid or call.deleted_at is not None:
        raise CallNotFound
    return call


async def started_calls(request: Request) -> StartedCalls:
    started: StartedCalls = request.state.started
    return started


OwnCallDep = Annotated[Call, Depends(own_call)]
StartedDep = Annotated[StartedCalls, Depends(started_calls)]


@router.post("/Calls")
@router.post("/Calls.json")
async def create_call(request: Request, account: AccountDep, form: FormDep, idempotency_key: IdempotencyKeyDep) -> Response:
    """201 and the resource, whether the call was started now or its key names it; 409 when the outcome is not known."""
    body, warnings = tolerate(parameters_of(form, CallParameters))
    body["account_sid"] = account.account_sid
    service: CreationService = request.state.creation
    creation = await service.create(account.caller, body, idempotency_key)
    call = creation.call
    request.state.placed = call.id
    log_call(call)
    if call.execution != "started":
        return TwilioErrorRenderer().render_unknown(call.id, request_id=request.state.request_id)
    response = _resource(call, 201)
    if creation.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    for warning in [FieldError(**stored) for stored in call.warnings] + list(warnings):
        response.headers.append(WARNING_HEADER, warning_line(warning))
    return response


@router.get("/Calls")
@router.get("/Calls.json")
async def list_calls(
    request: Request,
    account: AccountDep,
    service: CallServiceDep,
    started: StartedDep,
    subresources: SubresourceServiceDep,
) -> Response:
    """Started calls from our records, as Twilio would show them. The child legs of a call are known to Twilio alone."""
    fields = parse_fields(request.url.query)
    listing = read_listing(account.account_sid, fields)
    if parent := listing.wanted.parent_call_sid:
        query = [(name, value) for name, values in fields.items() for value in values if value]
        legs = await subresources.child_legs(account.caller, account.account_sid, parent, query)
        if legs is not None:
            return JSONResponse(legs)
    page = await started.page(account.caller, listing.wanted, edge=listing.edge, size=listing.size)
    calls = service.render_calls(account.caller, page.call_ids, ATTRIBUTES, lambda call: to_json(resource_of(call)))
    return await list_response("calls", calls, listing.envelope(page))


@router.get("/Calls/{sid}", dependencies=[NoQueryDep])
@router.get("/Calls/{sid}.json", dependencies=[NoQueryDep])
async def fetch_call(call: OwnCallDep, started: StartedDep) -> Response:
    """As Twilio sees it now; when Twilio cannot be asked, the record, with a warning that says how old it is."""
    seen = await started.see(call)
    response = _resource(seen.call, 200)
    if seen.age is not None:
        seconds = max(round(seen.age.total_seconds()), 0)
        response.headers["Age"] = str(seconds)
        response.headers["Warning"] = f'110 callgate "Twilio could not be asked; the last news is {seconds} s old"'
    return response


@router.post("/Calls/{sid}")
@router.post("/Calls/{sid}.json")
async def update_call(
    request: Request, account: AccountDep, call: OwnCallDep, control: CallControlDep, form: FormDep
) -> Response:
    """202 when Twilio's answer was lost and the end of the call is remembered: Callgate asks again until it is done."""
    body = parameters_of(form, CallUpdate)
    request.state.indeterminate_error = indeterminate_error(call, body)
    change = await control.update(account.caller, call, body)
    return _resource(change.call, 200 if change.done else 202)


@router.delete("/Calls/{sid}", dependencies=[NoQueryDep])
@router.delete("/Calls/{sid}.json", dependencies=[NoQueryDep])
async def delete_call(call: OwnCallDep, control: CallControlDep) -> Response:
    await control.delete(call)
    return Response(status_code=204)


def _resource(call: Call | NewCall, status: int) -> Response:
    return JSONResponse(resource_of(call), status, {CALL_ID_HEADER: str(call.id)})
