"""Endpoints for Twilio's Call resource: https://www.twilio.com/docs/voice/api/call-resource

Each path exists with and without `.json`. The path with `.json` must be registered first, because `/Calls/{sid}` matches
`/Calls/CA….json` as well. Decorators apply from the bottom up, so the decorator with `.json` stands below the one without it.
The endpoints are not in Callgate's OpenAPI document: Twilio's own document describes them.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.responses import Response

from app.calls.control.deletion import delete_at_twilio, deletion_unknown_error
from app.calls.control.router import CallControlDep, update_unknown_error
from app.calls.creation.router import bind_call_to_log, call_id_observer
from app.calls.creation.service import CreationService
from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.parameters import CallParameters, CallUpdate
from app.calls.router import CallServiceDep
from app.calls.service import CallService
from app.compat.access import AccountDep, RequestedAccount, TwilioRoute
from app.compat.errors import CALL_ID_HEADER, TwilioErrorRenderer
from app.compat.form import FormDep, NoQueryDep, parameters_from_form, refuse_query_parameters
from app.compat.listing import parse_list_query
from app.compat.normalization import normalize_parameters
from app.compat.parameter_names import warning_header
from app.compat.resource import RECORD_ATTRIBUTES, twilio_resource_of
from app.compat.service import StartedCallReader
from app.errors import CallNotFound, FieldError, InvalidRequest
from app.http.form import parse_form_parameters, read_form_body
from app.http.idempotency_key import REPLAYED_HEADER, IdempotencyKeyDep
from app.http.list_responses import list_response
from app.http.routes import needs
from app.setting_values import TWILIO_API_VERSION
from app.subresources.router import ResponseStackDep, SubresourceServiceDep
from app.tenants.scopes import Scope
from app.twilio.schemas import CALL_SID_PATTERN

PREFIX = f"/{TWILIO_API_VERSION}"
WARNING_HEADER = "Callgate-Warning"

router = APIRouter(prefix=f"{PREFIX}/Accounts/{{account_sid}}", include_in_schema=False, route_class=TwilioRoute)


async def requested_call(sid: str, account: AccountDep, service: CallServiceDep) -> Call:
    """Returns the call in the path. Raises CallNotFound if it was deleted, or is not a call of the account in the path."""
    return await find_requested_call(service, account, sid)


async def find_requested_call(service: CallService, account: RequestedAccount, sid: str) -> Call:
    if not CALL_SID_PATTERN.fullmatch(sid):
        raise CallNotFound
    call = await service.get(account.caller, sid)
    if call.account_sid != account.account_sid or call.deleted_at is not None:
        raise CallNotFound
    return call


async def started_call_reader(request: Request) -> StartedCallReader:
    started: StartedCallReader = request.state.started_calls
    return started


RequestedCallDep = Annotated[Call, Depends(requested_call)]
StartedCallReaderDep = Annotated[StartedCallReader, Depends(started_call_reader)]


@router.post("/Calls")
@router.post("/Calls.json")
@needs(Scope.CALL)
async def create_call(request: Request, account: AccountDep, idempotency_key: IdempotencyKeyDep) -> Response:
    """Answers 201 with the new call, or with the earlier call that has this Idempotency-Key; 409 if the outcome is unknown."""
    form = await read_form_body(request)
    service: CreationService = request.state.creation
    try:
        await refuse_query_parameters(request, account)
        body, warnings = normalize_parameters(parameters_from_form(form, CallParameters))
    except InvalidRequest as error:
        # If the Idempotency-Key belongs to an earlier call, this raises IdempotencyKeyReused instead of `error`: the form as it
        # was sent never equals the parameters of an earlier request.
        creation, warnings = await service.replay_or_raise(account.caller, form, idempotency_key, error), ()
    else:
        body["account_sid"] = account.account_sid
        creation = await service.create(account.caller, body, idempotency_key, call_id_observer(request))
    call = creation.call
    request.state.placed = call.id
    bind_call_to_log(call)
    if call.execution != "started":
        return TwilioErrorRenderer().render_unknown_outcome(call.id, request_id=request.state.request_id)
    response = _resource_response(call, 201)
    if creation.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    for warning in [FieldError(**stored) for stored in call.warnings] + list(warnings):
        response.headers.append(WARNING_HEADER, warning_header(warning))
    return response


@router.get("/Calls")
@router.get("/Calls.json")
@needs(Scope.READ)
async def list_calls(
    request: Request,
    account: AccountDep,
    service: CallServiceDep,
    started: StartedCallReaderDep,
    subresources: SubresourceServiceDep,
    stack: ResponseStackDep,
) -> Response:
    """Lists started calls from Callgate's records. With `ParentCallSid`, returns Twilio's list of the child calls instead."""
    fields = parse_form_parameters(request.url.query)
    listing = parse_list_query(account.account_sid, fields)
    if parent := listing.filters.parent_call_sid:
        query = [(name, value) for name, values in fields.items() for value in values if value]
        legs = await subresources.list_child_calls(account.caller, account.account_sid, parent, query, stack)
        if legs is not None:
            return JSONResponse(legs)
    page = await started.read_page(account.caller, listing.filters, cursor=listing.cursor, size=listing.page_size)
    calls = service.render_calls(
        account.caller, page.call_ids, RECORD_ATTRIBUTES, lambda call: to_json(twilio_resource_of(call))
    )
    return await list_response("calls", calls, listing.paging_members(page))


@router.get("/Calls/{sid}", dependencies=[NoQueryDep])
@router.get("/Calls/{sid}.json", dependencies=[NoQueryDep])
@needs(Scope.READ)
async def fetch_call(call: RequestedCallDep, started: StartedCallReaderDep) -> Response:
    """Answers with Twilio's current state of the call.

    When Twilio gives no usable answer, answers with the record, and with `Age` and `Warning` headers that say how old it is.
    """
    fetched = await started.fetch_current_call(call)
    response = _resource_response(fetched.call, 200)
    if fetched.age is not None:
        seconds = max(round(fetched.age.total_seconds()), 0)
        response.headers["Age"] = str(seconds)
        text = f"Twilio gave no usable answer ({fetched.reason}); the last update is {seconds} s old"
        response.headers["Warning"] = f'110 callgate "{text}"'
    return response


@router.post("/Calls/{sid}")
@router.post("/Calls/{sid}.json")
@needs(Scope.CALL)
async def update_call(
    request: Request, account: AccountDep, call: RequestedCallDep, control: CallControlDep, form: FormDep
) -> Response:
    """Answers 200 if the change was made, and 202 if Callgate must repeat a request that only ends the call.

    Callgate must repeat the request if Twilio's answer was lost, or if Twilio does not show the new call yet. Callgate does so
    until Twilio accepts or refuses the request, or the call has ended.
    """
    body = parameters_from_form(form, CallUpdate)
    request.state.indeterminate_error = update_unknown_error(call, body)
    change = await control.update(account.caller, call, body)
    return _resource_response(change.call, 200 if change.done else 202)


@router.delete("/Calls/{sid}", dependencies=[NoQueryDep])
@router.delete("/Calls/{sid}.json", dependencies=[NoQueryDep])
@needs(Scope.CALL)
async def delete_call(request: Request, call: RequestedCallDep, control: CallControlDep) -> Response:
    request.state.indeterminate_error = deletion_unknown_error(call)
    await delete_at_twilio(control, call)
    return Response(status_code=204)


def _resource_response(call: Call | NewCall, status: int) -> Response:
    return JSONResponse(twilio_resource_of(call), status, {CALL_ID_HEADER: str(call.id)})
