"""Reads the lines of a bulk request or file: NDJSON, each line a creation's body with its key."""

from app.errors import CallgateError, FieldError, InvalidRequest
from app.http.idempotency_key import check_key
from app.http.json_objects import parse_json_object
from app.http.limits import MAX_BODY_BYTES
from app.http.request_body import body_too_large
from app.queues.bulk import Line


def read_line(number: int, text: bytes) -> Line:
    """Returns the line, or what is wrong with it. The rest of the body is checked with the creation."""
    key = None
    try:
        if len(text) > MAX_BODY_BYTES:
            raise body_too_large(MAX_BODY_BYTES)
        body = parse_json_object(text, "The line")
        if "key" not in body:
            raise InvalidRequest(field_errors=(FieldError("/key", "missing", "is required"),))
        key = check_key(body.pop("key"), "/key")
    except CallgateError as error:
        return Line(number, key, error)
    return Line(number, key, body)
