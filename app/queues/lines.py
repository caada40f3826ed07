"""Reads the lines of a bulk request or file (NDJSON). Each line is the body of a creation and its `key`."""

from app.errors import CallgateError, FieldError, InvalidRequest
from app.http.idempotency_key import validate_idempotency_key
from app.http.json_objects import parse_json_object
from app.http.limits import MAX_BODY_BYTES
from app.http.request_body import body_too_large
from app.queues.bulk import BulkLine


def read_line(number: int, text: bytes) -> BulkLine:
    """Parses the line with this number. An error in its JSON or its key becomes the result's `body`.

    The other members are validated later, by the creation.
    """
    key = None
    try:
        if len(text) > MAX_BODY_BYTES:
            raise body_too_large(MAX_BODY_BYTES)
        body = parse_json_object(text, "The line")
        if "key" not in body:
            raise InvalidRequest(field_errors=(FieldError("/key", "missing", "is required"),))
        key = validate_idempotency_key(body.pop("key"), "/key")
    except CallgateError as error:
        return BulkLine(number, key, error)
    return BulkLine(number, key, body)
