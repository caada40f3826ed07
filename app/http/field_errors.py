"""Translates pydantic's validation errors to FieldError, with texts for API clients."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.errors import FieldError

_CODES_BY_PYDANTIC_TYPE = {"missing": "missing", "extra_forbidden": "unknown_member"}
# By pydantic's error type. The names in braces are keys of the error's `ctx`.
_MESSAGES_BY_PYDANTIC_TYPE: Mapping[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not a member of this request; /docs lists all members",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}


def field_errors_from(error: ValidationError) -> list[FieldError]:
    """Returns a FieldError for every error of a failed validation. None of them contains a value of the request."""
    return [field_error_from(detail) for detail in error.errors(include_input=False, include_url=False)]


def field_error_from(detail: ErrorDetails) -> FieldError:
    """Converts one of pydantic's errors to a FieldError. It has an RFC 6901 pointer and contains no value of the request."""
    # The location of an unknown member ends with the name that the client sent, which may look like a union tag.
    has_tags = detail["type"] != "extra_forbidden"
    parts = [part for part in detail["loc"] if not (has_tags and isinstance(part, str) and _is_union_tag(part))]
    pointer = "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return FieldError(pointer, _CODES_BY_PYDANTIC_TYPE.get(detail["type"], detail["type"]), _field_error_message(detail))


def _field_error_message(detail: ErrorDetails) -> str:
    context: Mapping[str, Any] = detail.get("ctx", {})
    type_ = detail["type"]
    if context.get("field_type") == "Value":  # pydantic's name for a string whose length is checked after other rules
        type_ = f"string_{type_}"
    text = _MESSAGES_BY_PYDANTIC_TYPE.get(type_)
    if text is None:
        return detail["msg"]
    try:
        formatted = text.format_map({name: str(value).replace("'", "") for name, value in context.items()})
    except KeyError:
        return detail["msg"]
    return formatted.replace(" 1 characters", " 1 character").replace(" 1 items", " 1 item")


def _is_union_tag(part: str) -> bool:
    """Returns whether this part of an error's location is pydantic's name for an alternative of a union type.

    All other parts are names of members of the request.
    """
    return part == "bool" or part.startswith("literal[")
