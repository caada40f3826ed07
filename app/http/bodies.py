"""Reads JSON bodies strictly: the media type must be JSON, the body one object, and its member names unique.

Refuses bodies that a route would otherwise ignore.
"""

from typing import Annotated, Any

from fastapi import Depends, Request

from app.errors import BodyTooLarge, FieldError, InvalidRequest, MalformedBody, RequestTimeout, UnsupportedMediaType
from app.http.json_objects import parse_json_object

JSON_BODY_ERRORS = (MalformedBody, BodyTooLarge, RequestTimeout, UnsupportedMediaType)
"""The errors of a route that takes a JSON body, besides those of the members."""
NO_BODY_ERRORS = (BodyTooLarge, RequestTimeout)
"""The errors of a route that depends on `refuse_body`, besides InvalidRequest."""


def media_type_of(request: Request) -> str:
    """Returns the media type in lower case and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json_object(request: Request) -> dict[str, Any]:
    """Returns the JSON object in the body. Raises UnsupportedMediaType, MalformedBody or InvalidRequest.

    Does not authenticate the client. Call it after the authentication, so that bodies of unknown clients are not parsed.
    """
    if media_type_of(request) != "application/json":
        raise UnsupportedMediaType
    return parse_json_object(await request.body(), "The body")


JsonBody = Annotated[dict[str, Any], Depends(read_json_object)]


async def refuse_body(request: Request) -> None:
    """Raises InvalidRequest for a body that is not empty. Routes that change something without a body depend on this function.

    Without this check, a request to cancel some of the calls of a queue would cancel all of them.
    """
    if await request.body():
        raise InvalidRequest(field_errors=(FieldError("", "not_supported", "must be empty: this request takes no body"),))
