"""How an operation is described in OpenAPI: all of it follows from the catalogue."""

from typing import Any

from app import errors
from app.calls import examples
from app.http.problems import responses
from app.subresources.members import schema_of
from app.twilio.subresources import EVENTS, Operation, Subresource

_PAGES = {
    "Events": "call-event-resource",
    "Notifications": "call-notification-resource",
    "Recordings": "recording",
    "Payments": "payment-resource",
    "Transcriptions": "realtime-transcription-resource",
    "Siprec": "siprec",
    "Streams": "stream-resource",
    "UserDefinedMessages": "userdefinedmessage-resource",
    "UserDefinedMessageSubscriptions": "userdefinedmessagesubscription-resource",
}
_READ_ERRORS = (
    errors.Unauthorized,
    errors.CallNotFound,
    errors.NoUsableCredentials,
    errors.WrongCallState,
    errors.InvalidRequest,
    errors.UpstreamRejected,
    errors.InternalError,
    errors.UpstreamCredentialsRejected,
    errors.UpstreamThrottled,
    errors.UpstreamUnreachable,
    errors.DatabaseUnavailable,
)
_CHANGE_ERRORS = (*_READ_ERRORS, errors.ActionUnknown, errors.ShuttingDown)
_BODY_ERRORS = (errors.MalformedBody, errors.BodyTooLarge, errors.UnsupportedMediaType)
_URIS = ("first_page_uri", "next_page_uri", "previous_page_uri", "uri")


def name_of(subresource: Subresource) -> str:
    """In paths under /v1: as in a call's `subresource_uris`, but for Twilio's events: our own have that name (ADR 17)."""
    return "twilio_events" if subresource is EVENTS else subresource.key


def operation_id_of(operation: Operation) -> str:
    return f"list_{name_of(operation.subresource)}" if operation.action == "list" else f"{operation.action}_{_noun(operation)}"


def summary_of(operation: Operation) -> str:
    words = name_of(operation.subresource) if operation.action == "list" else f"a {_noun(operation)}"
    return f"{operation.action.capitalize()} {words}".replace("_", " ").replace("twilio", "Twilio's")


def description_of(operation: Operation) -> str:
    parts = [f"[Twilio's page](https://www.twilio.com/docs/voice/api/{_PAGES[operation.subresource.segment]})."]
    if operation.changes:
        parts.append("A 5xx means that nothing was changed; what may have been is a 409 `action-unknown`, and never repeated.")
    if operation.takes_idempotency_key:
        parts.append("Repeated under its `Idempotency-Key` it is done once: Twilio is given the same `IdempotencyKey`.")
    if operation.action == "list":
        parts.append("`next_page_uri` is the next page's address here.")
    return " ".join(parts)


def responses_of(operation: Operation, path: str) -> dict[int | str, dict[str, Any]]:
    refusals = _CHANGE_ERRORS if operation.changes else _READ_ERRORS
    if operation.of_one:
        refusals = (*refusals, errors.SubresourceNotFound)
    if operation.action == "create":
        refusals = (*refusals, errors.TenantSuspended)
    if operation.method == "POST":
        refusals = (*refusals, *_BODY_ERRORS)
    instance = path.replace("{id_or_sid}", str(examples.RECORD["id"]))
    documented = responses(*refusals, method=operation.method, instance=instance)
    if operation.action == "delete":
        return documented | {operation.status: {"description": "Deleted."}}
    content = {"application/json": {"schema": _answer_schema(operation)}}
    return documented | {operation.status: {"description": "As Twilio answers.", "content": content}}


def extra_of(operation: Operation) -> dict[str, Any]:
    """Query parameters or the body, as they are read by `members`."""
    schema = schema_of(operation)
    if operation.method == "GET":
        properties = schema["properties"].items()
        return {"parameters": [{"name": name, "in": "query", "schema": member} for name, member in properties]}
    if operation.method == "DELETE":
        return {}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answer_schema(operation: Operation) -> dict[str, Any]:
    subresource = operation.subresource
    one = {"type": "object", "properties": {name: {} for name in subresource.fields}}
    if operation.action != "list":
        return one
    page: dict[str, Any] = {subresource.key: {"type": "array", "items": one}}
    page |= {name: {"type": ["string", "null"]} for name in _URIS}
    page |= {name: {"type": "integer"} for name in ("page", "page_size", "start", "end")}
    return {"type": "object", "properties": page}


def _noun(operation: Operation) -> str:
    return operation.subresource.noun
