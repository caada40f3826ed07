"""Builds the OpenAPI description of each operation in app.twilio.subresources."""

from typing import Any

from app import errors
from app.calls import examples
from app.http.bodies import JSON_BODY_ERRORS, NO_BODY_ERRORS
from app.http.openapi import json_request_body
from app.http.problems import error_responses
from app.subresources.examples import EXAMPLE_BODIES
from app.subresources.members import members_schema_of
from app.twilio.subresources import EVENTS, RECORDINGS, SUBRESOURCE_OPERATIONS, Subresource, SubresourceOperation

_TWILIO_DOC_PAGES = {
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
    errors.Overloaded,
)
_CHANGE_ERRORS = (*_READ_ERRORS, errors.ActionUnknown, errors.ShuttingDown)
PAGE_URI_MEMBERS = ("first_page_uri", "next_page_uri", "previous_page_uri", "uri")
"""In a list page of Twilio, the members whose values are paths, such as the path of the next page."""
_OBJECT_SCHEMA = {"anyOf": [{"$ref": "#/components/schemas/JsonObject"}, {"type": "null"}]}
# All other fields are strings.
_NON_STRING_MEMBER_SCHEMAS: dict[tuple[Subresource, str], dict[str, Any]] = {
    (EVENTS, "request"): _OBJECT_SCHEMA,
    (EVENTS, "response"): _OBJECT_SCHEMA,
    (RECORDINGS, "channels"): {"type": ["integer", "null"]},
    (RECORDINGS, "encryption_details"): _OBJECT_SCHEMA,
    (RECORDINGS, "error_code"): {"type": ["integer", "null"]},
}


def path_name_of(subresource: Subresource) -> str:
    """Returns the name of a subresource in paths under /v1.

    The name is the same as in Twilio's `subresource_uris`. Only Twilio's events are called `twilio_events`, because `events`
    are Callgate's own events (ADR 17).
    """
    return "twilio_events" if subresource is EVENTS else subresource.snake_case_name


def operation_id_of(operation: SubresourceOperation) -> str:
    return (
        f"list_{path_name_of(operation.subresource)}"
        if operation.action == "list"
        else f"{operation.action}_{_noun(operation)}"
    )


def summary_of(operation: SubresourceOperation) -> str:
    words = path_name_of(operation.subresource) if operation.action == "list" else f"a {_noun(operation)}"
    return f"{operation.action.capitalize()} {words}".replace("_", " ").replace("twilio", "Twilio's")


def description_of(operation: SubresourceOperation) -> str:
    parts = [f"[Twilio's page](https://www.twilio.com/docs/voice/api/{_TWILIO_DOC_PAGES[operation.subresource.segment]})."]
    if operation.is_change:
        parts.append(
            "A 5xx means that nothing was changed. If Twilio may have made the change, the answer is 409 `action-unknown`."
        )
    if operation.takes_idempotency_key:
        parts.append(
            "Repeating a request unchanged with the same `Idempotency-Key` is safe: Twilio gets the same `IdempotencyKey`."
        )
    if operation.action == "list":
        parts.append("`next_page_uri` is the address of the next page in this API.")
    return " ".join(parts)


def responses_of(operation: SubresourceOperation, path: str) -> dict[int | str, dict[str, Any]]:
    refusals = _CHANGE_ERRORS if operation.is_change else _READ_ERRORS
    if operation.targets_item:
        refusals = (*refusals, errors.SubresourceNotFound)
    if operation.action == "create":
        refusals = (*refusals, errors.TenantSuspended)
    if operation.method == "POST":
        refusals = (*refusals, *JSON_BODY_ERRORS)
    if operation.method == "DELETE":
        refusals = (*refusals, *NO_BODY_ERRORS)
    instance = path.replace("{id_or_sid}", str(examples.EXAMPLE_RECORD["id"]))
    documented = error_responses(*refusals, method=operation.method, instance=instance)
    if operation.action == "delete":
        return documented | {operation.status: {"description": "Deleted."}}
    name = _page_schema_name(operation.subresource) if operation.action == "list" else _item_schema_name(operation.subresource)
    content = {"application/json": {"schema": _schema_reference(name)}}
    return documented | {operation.status: {"description": "Twilio's answer.", "content": content}}


def openapi_extra_of(operation: SubresourceOperation) -> dict[str, Any]:
    """Returns the OpenAPI description of the query parameters or the body that `convert_to_twilio_parameters` accepts."""
    if operation.method == "GET":
        properties = members_schema_of(operation)["properties"].items()
        return {
            "parameters": [
                {"name": name, "in": "query", "description": member["description"], "schema": member}
                for name, member in properties
            ]
        }
    if operation.method == "DELETE":
        return {}
    body_examples: dict[str, Any] = {
        operation.action: {"value": EXAMPLE_BODIES[operation.subresource.segment, operation.action]}
    }
    return json_request_body(_body_schema_name(operation), body_examples)


def component_schemas() -> dict[str, Any]:
    """Returns the schemas of all items, list pages and bodies, by their names in `components/schemas`."""
    found: dict[str, Any] = {}
    for operation in SUBRESOURCE_OPERATIONS:
        subresource = operation.subresource
        if operation.action != "delete":
            found[_item_schema_name(subresource)] = _item_schema(subresource)
        if operation.action == "list":
            found[_page_schema_name(subresource)] = _page_schema(subresource)
        if operation.method == "POST":
            found |= _body_components(_body_schema_name(operation), members_schema_of(operation))
    return found


def _body_components(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the OpenAPI components of a body: its schema under `name`, and a component for each enum and object in it.

    Without components, code generators would invent names for enums and objects, such as a member's name with a number.
    """
    parts: dict[str, Any] = {}

    def with_component_references(property_name: str, property_schema: dict[str, Any]) -> dict[str, Any]:
        """Returns the schema of a property, with references to components instead of enums and objects."""
        if property_schema.get("type") == "array":
            return property_schema | {"items": with_component_references(property_name, property_schema["items"])}
        if "enum" not in property_schema and property_schema.get("type") != "object":
            return property_schema
        part = name + _pascal_case(property_name)
        parts[part] = property_schema
        return _schema_reference(part)

    for property_name, described in schema.get("properties", {}).items():
        if "anyOf" in described:
            described["anyOf"] = [with_component_references(property_name, each) for each in described["anyOf"]]
    return {name: schema} | parts


def _item_schema(subresource: Subresource) -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    properties = {name: _NON_STRING_MEMBER_SCHEMAS.get((subresource, name), text) for name in subresource.fields}
    return {"type": "object", "description": "The resource as Twilio returns it.", "properties": properties}


def _page_schema(subresource: Subresource) -> dict[str, Any]:
    properties: dict[str, Any] = {
        subresource.snake_case_name: {"type": "array", "items": _schema_reference(_item_schema_name(subresource))}
    }
    properties |= {name: {"type": ["string", "null"]} for name in PAGE_URI_MEMBERS}
    properties |= {name: {"type": "integer"} for name in ("page", "page_size", "start", "end")}
    return {"type": "object", "properties": properties, "required": [subresource.snake_case_name]}


def _schema_reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _item_schema_name(subresource: Subresource) -> str:
    """Returns the name of the schema of an item, in PascalCase.

    The name for Twilio's events is `TwilioEvent`, because Callgate has events of its own.
    """
    return _pascal_case("twilio_event" if subresource is EVENTS else subresource.noun)


def _pascal_case(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("_"))


def _page_schema_name(subresource: Subresource) -> str:
    return f"{_item_schema_name(subresource)}Page"


def _body_schema_name(operation: SubresourceOperation) -> str:
    return f"{operation.action.capitalize()}{_item_schema_name(operation.subresource)}"


def _noun(operation: SubresourceOperation) -> str:
    return operation.subresource.noun
