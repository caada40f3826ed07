"""Parses JSON bodies strictly: the media type must be JSON, the body one object, and its member names unique."""

import json
from typing import Annotated, Any

from fastapi import Depends, Request

from app.errors import FieldError, InvalidRequest, MalformedBody, UnsupportedMediaType


async def read_json_object(request: Request) -> dict[str, Any]:
    """Returns the body. A route authenticates its client before, so the body of a request without a valid key is not parsed.

    Raises UnsupportedMediaType, MalformedBody or InvalidRequest.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType
    try:
        body = _parse(await request.body())
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"The body is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]} at {position}.") from None
    except UnicodeDecodeError:
        raise MalformedBody("The body is not valid JSON: it is not UTF-8.") from None
    except RecursionError:
        raise MalformedBody("The body is not acceptable JSON: it is nested too deeply.") from None
    except _NotAcceptedError as error:
        raise MalformedBody(f"The body is not acceptable JSON: {error}.") from None
    except ValueError:
        raise MalformedBody("The body is not acceptable JSON: a number is too long.") from None
    if not isinstance(body, dict):
        raise InvalidRequest(field_errors=(FieldError("", "not_an_object", "must be a JSON object"),))
    return body


class _NotAcceptedError(ValueError):
    """The body is not JSON that every parser reads alike."""


def _refuse_repeated_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses repeated names. RFC 8259 §4 allows them, but parsers disagree on which value counts."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotAcceptedError("an object has a repeated member name")
    return members


def _refuse_constant(_: str) -> float:
    raise _NotAcceptedError("NaN and Infinity are not JSON numbers")


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_repeated_members, parse_constant=_refuse_constant)


def _parse(body: bytes) -> Any:
    """Does what json.loads does for bytes, without creating a decoder for each call."""
    return _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))


JsonBody = Annotated[dict[str, Any], Depends(read_json_object)]
