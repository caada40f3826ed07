"""Routes for deliveries: list them, and send them again."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from pydantic import ValidationError

from app.calls.router import IdOrSid
from app.deliveries.schemas import DeliveryList, DeliveryRecord, ReplayAnswer, ReplayRequest
from app.deliveries.service import DeliveryService
from app.errors import (
    CallNotFound,
    DatabaseUnavailable,
    DeliveryNotFound,
    InternalError,
    InvalidRequest,
    Overloaded,
)
from app.http.authentication import CallerDep
from app.http.bodies import JSON_BODY_ERRORS, NO_BODY_ERRORS, JsonBody, refuse_body
from app.http.field_errors import field_errors_from
from app.http.idempotency_key import refuse_idempotency_key
from app.http.openapi import json_example_references, json_request_body
from app.http.problems import DATABASE_READ_ERRORS, error_responses
from app.http.query import refuse_unknown_parameters
from app.http.routes import ScopedRoute, needs
from app.tenants.scopes import Scope

router = APIRouter(
    prefix="/v1", tags=["deliveries"], route_class=ScopedRoute, dependencies=[Depends(refuse_unknown_parameters)]
)

_EXAMPLE = {
    "id": "01a20722-9f00-7c3e-9d4b-3f6f0c7b2a11",
    "call_id": "01a20722-82cb-7520-b5df-0e45ebf88f42",
    "event": "completed",
    "sequence": 3,
    "webhook_id": "msg_01a2072282cb7520b5df0e45ebf88f42_completed",
    "url": "https://calls.example.com/progress",
    "method": "POST",
    "state": "delivered",
    "attempts": 2,
    "next_attempt_at": None,
    "last_attempt_at": "2026-11-23T09:30:41.512Z",
    "last_status": 204,
    "last_error": None,
    "delivered_at": "2026-11-23T09:30:41.512Z",
    "created_at": "2026-11-23T09:30:36.096Z",
    "fields": {"CallSid": "CAaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "CallStatus": "completed", "CallDuration": "12"},
}
_DUE_EXAMPLE = _EXAMPLE | {
    "state": "pending",
    "attempts": 0,
    "next_attempt_at": "2026-11-23T10:00:00.000Z",
    "delivered_at": None,
}
DELIVERY_EXAMPLES: dict[str, Any] = {
    "deliveries": {"summary": "Delivered at the second attempt", "value": {"deliveries": [_EXAMPLE]}},
    "delivery_due": {"summary": "Due again", "value": _DUE_EXAMPLE},
    "replayed": {"summary": "All deliveries are replayed", "value": {"replayed": 17, "continue_since": None}},
}
_CALL_PATH = f"/v1/calls/{_EXAMPLE['call_id']}/deliveries"


async def delivery_service(request: Request) -> DeliveryService:
    service: DeliveryService = request.state.deliveries
    return service


DeliveryServiceDep = Annotated[DeliveryService, Depends(delivery_service)]


@router.get(
    "/calls/{id_or_sid}/deliveries",
    operation_id="list_call_deliveries",
    summary="List the deliveries of a call to its status_callback",
    responses={
        200: {"content": json_example_references("deliveries")},
        **error_responses(CallNotFound, *DATABASE_READ_ERRORS, instance=_CALL_PATH),
    },
)
@needs(Scope.READ)
async def list_call_deliveries(caller: CallerDep, service: DeliveryServiceDep, id_or_sid: IdOrSid) -> DeliveryList:
    """Lists the deliveries of the call, one for each event that was requested and has happened, in the order of the events.

    [Callbacks](/docs/callbacks) describes the requests that your URL receives.
    """
    return DeliveryList(deliveries=list(await service.list(caller, id_or_sid)))


@router.post(
    "/calls/{id_or_sid}/deliveries/{delivery_id}/retry",
    operation_id="retry_delivery",
    summary="Send a delivery again",
    dependencies=[Depends(refuse_idempotency_key), Depends(refuse_body)],
    response_model=DeliveryRecord,
    responses={
        200: {"content": json_example_references("delivery_due")},
        **error_responses(
            CallNotFound,
            DeliveryNotFound,
            *NO_BODY_ERRORS,
            *DATABASE_READ_ERRORS,
            method="POST",
            instance=f"{_CALL_PATH}/{_EXAMPLE['id']}/retry",
        ),
    },
)
@needs(Scope.CALL)
async def retry_delivery(
    caller: CallerDep,
    service: DeliveryServiceDep,
    id_or_sid: IdOrSid,
    delivery_id: Annotated[UUID, Path(description="The delivery's `id`.", examples=[_EXAMPLE["id"]])],
) -> DeliveryRecord:
    """Sends the delivery at once, whatever its state, with the same webhook id.

    If the delivery was delivered or given up, a failed attempt is retried for three days again.
    """
    return await service.retry(caller, id_or_sid, delivery_id)


@router.post(
    "/deliveries/replay",
    operation_id="replay_deliveries",
    summary="Send deliveries again, after the receiver was down",
    dependencies=[Depends(refuse_idempotency_key)],
    openapi_extra=json_request_body(
        "ReplayRequest",
        {
            "failed": {
                "summary": "Deliveries that were given up",
                "value": {"since": "2026-11-23T00:00:00Z", "failed_only": True},
            }
        },
    ),
    responses={
        200: {"content": json_example_references("replayed")},
        **error_responses(
            *JSON_BODY_ERRORS,
            InvalidRequest,
            InternalError,
            DatabaseUnavailable,
            Overloaded,
            method="POST",
            instance="/v1/deliveries/replay",
        ),
    },
)
@needs(Scope.CALL)
async def replay_deliveries(caller: CallerDep, service: DeliveryServiceDep, body: JsonBody) -> ReplayAnswer:
    """Sends deliveries that were given up, and with `failed_only: false` delivered ones too. Each keeps its webhook id.

    Pending deliveries do not change. One request covers at most 10,000 deliveries, and fewer if Postgres fails meanwhile;
    `continue_since` is the `since` of the next request.
    """
    try:
        parameters = ReplayRequest.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(field_errors=tuple(field_errors_from(error))) from None
    replay = await service.replay(caller, since=parameters.since, failed_only=parameters.failed_only)
    return ReplayAnswer(replayed=replay.count, continue_since=replay.continue_since)
