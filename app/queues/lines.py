"""Reads the lines of a bulk request or file (NDJSON).

Each line is a JSON object with the parameters of one call to create, and `key`, its idempotency key.
"""

from app.errors import CallgateError, FieldError, InvalidRequest
from app.http.idempotency_key_rules import validate_idempotency_key
from app.http.json_objects import parse_json_object
from app.http.limits import MAX_BODY_BYTES
from app.http.request_body import body_too_large_error
from app.queues.bulk import BulkLine


def parse_bulk_line(number: int, text: bytes) -> BulkLine:
    """Parses one line of a bulk request. `number` is the line's number, from 1. Never raises a CallgateError.

    If the JSON or the member `key` is not valid, the error becomes the `body` of the result. The other members are validated
    later, when the call is created.
    """
    key = None
    try:
        if len(text) > MAX_BODY_BYTES:
            raise body_too_large_error(MAX_BODY_BYTES)
        body = parse_json_object(text, "The line")
        if "key" not in body:
            raise InvalidRequest(field_errors=(FieldError("/key", "missing", "is required"),))
        key = validate_idempotency_key(body.pop("key"), "/key")
    except CallgateError as error:
        return BulkLine(number, key, error)
    return BulkLine(number, key, body)
