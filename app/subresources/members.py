"""Defines the query parameters and JSON members of requests for subresources under /v1, and translates them to Twilio's.

The names and types of the members are derived from the operations in app.twilio.subresources.
"""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from app.calls.parameter_types import ParameterText, refuse_too_many_userinfos, refuse_too_many_userinfos_in_request
from app.errors import FieldError, InvalidRequest
from app.http.field_errors import field_errors_from
from app.twilio.forwarding import QueryPairs
from app.twilio.subresources import IDEMPOTENCY_KEY_NAME, OperationParameter, SubresourceOperation, custom_parameter_field_names


def _require_json_within_limits(value: dict[str, Any]) -> dict[str, Any]:
    """Returns the value unchanged. Raises PydanticCustomError if it is nested so deeply that it cannot be serialized to JSON.

    Also raises it if the URLs in the value have too many user names and passwords. The limit bounds CPU time, because Callgate
    searches Twilio's answer for each of them.
    """
    try:
        text = json.dumps(value)
    except RecursionError:
        raise PydanticCustomError("too_deep", "must not be nested so deeply") from None
    refuse_too_many_userinfos(text)
    return value


_TYPES_BY_KIND: Mapping[str, Any] = {
    "text": ParameterText,
    "integer": Annotated[int, Field(ge=0)],
    "number": Annotated[Decimal, Field(strict=False, ge=0, max_digits=20)],
    "boolean": bool,
    "json": Annotated[dict[str, Any], AfterValidator(_require_json_within_limits)],
    "pairs": Annotated[dict[ParameterText, ParameterText], Field(max_length=99)],
}


@cache
def members_model_of(operation: SubresourceOperation) -> type[BaseModel]:
    """Returns the pydantic model of the query parameters, or of the members of the JSON body, of a request for this operation.

    The model of a body accepts only the right JSON types. The model of a query converts texts to these types.
    """
    fields: dict[str, Any] = {}
    for parameter in operation.parameters:
        type_ = Literal[parameter.choices] if parameter.choices else _TYPES_BY_KIND[parameter.kind]
        type_ = Annotated[list[type_], Field(min_length=1)] if parameter.is_list else type_  # type: ignore[valid-type]
        description = _parameter_description(parameter)
        fields[parameter.member_name] = (
            (type_, Field(description=description))
            if parameter.required
            else (type_ | None, Field(None, description=description))
        )
    config = ConfigDict(extra="forbid", strict=operation.method != "GET", hide_input_in_errors=True)
    return create_model(f"{operation.action}_{operation.subresource.noun}", __config__=config, **fields)


def _parameter_description(parameter: OperationParameter) -> str:
    if parameter.name == IDEMPOTENCY_KEY_NAME:
        return "Twilio's `IdempotencyKey`. Without it, Callgate uses the `Idempotency-Key` header or a random key."
    if parameter.kind == "pairs":
        return "Up to 99 names and values of your choice: Twilio's `Parameter1.Name`, `Parameter1.Value` and so on."
    return f"Twilio's `{parameter.name}`."


def members_schema_of(operation: SubresourceOperation) -> dict[str, Any]:
    """Returns the JSON Schema of the members that a request for this operation may have."""
    schema = members_model_of(operation).model_json_schema()
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def convert_to_twilio_parameters(operation: SubresourceOperation, values: Mapping[str, Any]) -> QueryPairs:
    """Validates the query or the JSON body of a request, and returns Twilio's parameters.

    Raises InvalidRequest, which lists all invalid parameters or members.
    """
    try:
        members = members_model_of(operation).model_validate(values)
    except ValidationError as error:
        invalid = field_errors_from(error)
        if operation.method == "GET":
            invalid = [FieldError(f"?{item.pointer[1:]}", item.code, item.detail) for item in invalid]
        raise InvalidRequest(field_errors=tuple(invalid)) from None
    pairs = [
        field
        for parameter in operation.parameters
        for field in _form_fields(parameter, getattr(members, parameter.member_name))
    ]
    refuse_too_many_userinfos_in_request(value for _, value in pairs)
    return pairs


def _form_fields(parameter: OperationParameter, value: Any) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if parameter.kind == "pairs":
        for number, pair in enumerate(value.items(), start=1):
            yield from zip(custom_parameter_field_names(number), pair, strict=True)
        return
    for item in value if parameter.is_list else [value]:
        yield parameter.name, _format_form_value(item)


def _format_form_value(value: Any) -> str:
    """Returns the value as text, in the format of Twilio's SDKs: booleans as true/false, objects as JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
