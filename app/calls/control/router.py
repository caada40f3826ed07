"""The route that changes a call."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.calls import examples
from app.calls.control.service import CallControl
from app.calls.creation.router import bind_call_to_log
from app.calls.models import Call
from app.calls.router import CallServiceDep, IdOrSid
from app.calls.schemas import CallRecord
from app.errors import (
    ActionUnknown,
    CallNotFound,
    DatabaseUnavailable,
    InternalError,
    InvalidRequest,
    NoUsableCredentials,
    Overloaded,
    ShuttingDown,
    TenantSuspended,
    UpstreamCredentialsRejected,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
    WrongCallState,
)
from app.http.authentication import CallerDep
from app.http.bodies import JSON_BODY_ERRORS, JsonBody
from app.http.idempotency_key import refuse_idempotency_key
from app.http.openapi import json_request_body
from app.http.problems import error_responses
from app.http.query import refuse_unknown_parameters
from app.http.routes import ScopedRoute, needs
from app.tenants.scopes import Scope

router = APIRouter(
    prefix="/v1/calls",
    tags=["calls"],
    route_class=ScopedRoute,
    dependencies=[Depends(refuse_unknown_parameters), Depends(refuse_idempotency_key)],
)


async def call_control(request: Request) -> CallControl:
    control: CallControl = request.state.control
    return control


CallControlDep = Annotated[CallControl, Depends(call_control)]


def update_unknown_error(call: Call, body: Mapping[str, Any]) -> ActionUnknown | None:
    """Returns the error for the client if this process fails or stops during a change: whether it was made is then unknown.

    Returns None if the request only ends the call. The client may safely repeat such a request, and gets the usual error.
    """
    return None if body.keys() == {"status"} else ActionUnknown(call_id=call.id)


@router.patch(
    "/{id_or_sid}",
    operation_id="update_call",
    summary="Cancel, end or redirect a call",
    response_model=CallRecord,
    response_description="Twilio has accepted the change.",
    openapi_extra=json_request_body("CallUpdate", examples.UPDATE_EXAMPLES),
    responses={
        200: {"content": examples.STARTED_EXAMPLE},
        202: {
            "model": CallRecord,
            "description": "Callgate has stored the request to end the call, and repeats it until Twilio has accepted it.",
            "content": examples.UNKNOWN_EXAMPLE,
        },
        **error_responses(
            *JSON_BODY_ERRORS,
            TenantSuspended,
            CallNotFound,
            NoUsableCredentials,
            WrongCallState,
            ActionUnknown,
            InvalidRequest,
            UpstreamRejected,
            InternalError,
            UpstreamCredentialsRejected,
            UpstreamThrottled,
            UpstreamUnreachable,
            DatabaseUnavailable,
            Overloaded,
            ShuttingDown,
            method="PATCH",
            instance=f"/v1/calls/{examples.EXAMPLE_RECORD['id']}",
        ),
    },
)
@needs(Scope.CALL)
async def update_call(
    request: Request,
    caller: CallerDep,
    service: CallServiceDep,
    control: CallControlDep,
    id_or_sid: IdOrSid,
    body: JsonBody,
    response: Response,
) -> Call:
    """Changes a call with Twilio's nine parameters of *update call*.

    A `pending` or `unknown` call can be ended too: the answer is 202, and Callgate ends the call as soon as it is known to have
    started. A call that counts as not started because searches did not find it (`none_found`) can be ended in the same way
    until its last search. If it turns out that the call was not started, the request is discarded. The answer is also 202 if
    Twilio's answer is lost, or if Twilio does not show a new call yet.

    Twilio accepts `canceled` for a call that has been answered, but does not end it: use `completed` to end any call.

    A request that only ends a call may be repeated. For any other change whose answer was lost, the answer is 409
    `action-unknown`: check the call before you repeat the request.
    """
    call = await service.get(caller, id_or_sid)
    request.state.indeterminate_error = update_unknown_error(call, body)
    change = await control.update(caller, call, body)
    response.status_code = 200 if change.done else 202
    call = change.call
    bind_call_to_log(call)
    return call
