"""Reads JSON bodies strictly: the media type must be JSON, the body one object, and its member names unique.

Refuses bodies that a route would otherwise ignore.
"""

from typing import Annotated, Any

from fastapi import Depends, Request

from app.errors import BodyTooLarge, FieldError, InvalidRequest, MalformedBody, RequestTimeout, UnsupportedMediaType
from app.http.json_objects import parse_json_object

JSON_BODY_ERRORS = (MalformedBody, BodyTooLarge, RequestTimeout, UnsupportedMediaType)
"""The errors that the body causes at a route that takes a JSON body, besides InvalidRequest."""
NO_BODY_ERRORS = (BodyTooLarge, RequestTimeout)
"""The errors of a route that depends on `refuse_body`, besides InvalidRequest."""


def media_type_of(request: Request) -> str:
    """Returns the media type in the header `Content-Type`, in lower case and without parameters; "" without the header."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json_object(request: Request) -> dict[str, Any]:
    """Returns the JSON object in the body.

    Raises UnsupportedMediaType if the media type is not JSON, and the errors of `parse_json_object`. Routes authenticate the
    client before they call this function, so that bodies of unknown clients are not parsed.
    """
    if media_type_of(request) != "application/json":
        raise UnsupportedMediaType
    return parse_json_object(await request.body(), "The body")


JsonBody = Annotated[dict[str, Any], Depends(read_json_object)]


async def refuse_body(request: Request) -> None:
    """Raises InvalidRequest for a body that is not empty. Routes that change something without a body depend on this check.

    Without this check, a request to cancel a queue's calls would cancel all of them, even if the body named only some.
    """
    if await request.body():
        raise InvalidRequest(field_errors=(FieldError("", "not_supported", "must be empty: this request takes no body"),))
