"""Operations as JSON: the members of a request under /v1, made from the catalogue, and their way into Twilio's names."""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from app.calls.parameters import Text
from app.errors import FieldError, InvalidRequest
from app.http.field_errors import field_errors_from
from app.twilio.forwarding import QueryPairs
from app.twilio.subresources import IDEMPOTENCY_KEY, Operation, Parameter, pair_names


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    """Nested JSON is written out again, which a text without end must not reach."""
    try:
        json.dumps(value)
    except RecursionError:
        raise PydanticCustomError("too_deep", "must not be nested so deeply") from None
    return value


_TYPES: Mapping[str, Any] = {
    "text": Text,
    "integer": Annotated[int, Field(ge=0)],
    "number": Annotated[Decimal, Field(strict=False, ge=0, max_digits=20)],
    "boolean": bool,
    "json": Annotated[dict[str, Any], AfterValidator(_bounded)],
    "pairs": Annotated[dict[Text, Text], Field(max_length=99)],
}


@cache
def members_of(operation: Operation) -> type[BaseModel]:
    """Strict in a body; in a query everything is text."""
    fields: dict[str, Any] = {}
    for parameter in operation.parameters:
        type_ = Literal[parameter.choices] if parameter.choices else _TYPES[parameter.kind]
        type_ = Annotated[list[type_], Field(min_length=1)] if parameter.many else type_  # type: ignore[valid-type]
        description = _description(parameter)
        fields[parameter.member] = (
            (type_, Field(description=description))
            if parameter.required
            else (type_ | None, Field(None, description=description))
        )
    config = ConfigDict(extra="forbid", strict=operation.method != "GET", hide_input_in_errors=True)
    return create_model(f"{operation.action}_{operation.subresource.noun}", __config__=config, **fields)


def _description(parameter: Parameter) -> str:
    if parameter.name == IDEMPOTENCY_KEY:
        return "Twilio's `IdempotencyKey`. Made from the `Idempotency-Key` header, or anew, when it is not given."
    if parameter.kind == "pairs":
        return "Up to 99 names and values of your own; Twilio's `Parameter1.Name`, `Parameter1.Value` and so on."
    return f"Twilio's `{parameter.name}`."


def schema_of(operation: Operation) -> dict[str, Any]:
    """JSON Schema of the members, for OpenAPI."""
    schema = members_of(operation).model_json_schema()
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def read_members(operation: Operation, given: Mapping[str, Any]) -> QueryPairs:
    """In Twilio's names. Raises InvalidRequest with every fault."""
    try:
        members = members_of(operation).model_validate(given)
    except ValidationError as error:
        faults = field_errors_from(error)
        if operation.method == "GET":
            faults = [FieldError(f"?{fault.pointer[1:]}", fault.code, fault.detail) for fault in faults]
        raise InvalidRequest(field_errors=tuple(faults)) from None
    return [field for parameter in operation.parameters for field in _fields(parameter, getattr(members, parameter.member))]


def _fields(parameter: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if parameter.kind == "pairs":
        for number, pair in enumerate(value.items(), start=1):
            yield from zip(pair_names(number), pair, strict=True)
        return
    for item in value if parameter.many else [value]:
        yield parameter.name, _text(item)


def _text(value: Any) -> str:
    """As Twilio's SDKs write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
