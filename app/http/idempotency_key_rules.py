"""The length and the characters of a valid Idempotency-Key. Does not import FastAPI."""

from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter, ValidationError

from app.errors import FieldError, InvalidRequest

MAX_IDEMPOTENCY_KEY_LENGTH = 255
IDEMPOTENCY_KEY_CHARACTER = r"[\x20-\x7e]"
"""A regular expression for each character of a key: printable ASCII."""
IDEMPOTENCY_KEY_RULES: dict[str, Any] = {
    "min_length": 1,
    "max_length": MAX_IDEMPOTENCY_KEY_LENGTH,
    "pattern": f"^{IDEMPOTENCY_KEY_CHARACTER}+$",
}
_KEY_ADAPTER = TypeAdapter[str](Annotated[str, StringConstraints(**IDEMPOTENCY_KEY_RULES)])


def validate_idempotency_key(value: Any, pointer: str) -> str:
    """Returns the value if it is a valid Idempotency-Key. Otherwise raises InvalidRequest, whose errors have this `pointer`."""
    try:
        return _KEY_ADAPTER.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(
            field_errors=tuple(FieldError(pointer, detail["type"], detail["msg"]) for detail in error.errors())
        ) from None
