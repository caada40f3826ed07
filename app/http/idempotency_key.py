"""Reads the Idempotency-Key header, and declares it for the OpenAPI document. Valid keys: idempotency_key_rules.py."""

from typing import Annotated, Any

from fastapi import Depends, Header, Request

from app.errors import FieldError, InvalidRequest
from app.http.idempotency_key_rules import IDEMPOTENCY_KEY_RULES, validate_idempotency_key

IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
"""A response header with the value `true`: the body describes the call that an earlier request with the same key created."""


def idempotency_key_header(description: str, *, examples: list[str] | None = None) -> Any:
    """Returns a FastAPI parameter that declares the header for OpenAPI, with `description` and the rules for valid keys."""
    return Header(alias=IDEMPOTENCY_KEY_HEADER, description=description, examples=examples, **IDEMPOTENCY_KEY_RULES)


async def read_idempotency_key(request: Request) -> str | None:
    """Returns the value of the Idempotency-Key header, or None if the request has no such header.

    Raises InvalidRequest if the header is repeated, or if its value is no valid key.
    """
    values = request.headers.getlist(IDEMPOTENCY_KEY_HEADER)
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(field_errors=(FieldError(IDEMPOTENCY_KEY_HEADER, "repeated", "must be given once"),))
    return validate_idempotency_key(values[0], IDEMPOTENCY_KEY_HEADER)


async def refuse_idempotency_key(request: Request) -> None:
    """Raises InvalidRequest if the request has an Idempotency-Key. Routes that would ignore the header depend on this."""
    if IDEMPOTENCY_KEY_HEADER in request.headers:
        text = "is not supported: a repetition of this request would be carried out again"
        raise InvalidRequest(field_errors=(FieldError(IDEMPOTENCY_KEY_HEADER, "not_supported", text),))


IdempotencyKeyDep = Annotated[str | None, Depends(read_idempotency_key)]
