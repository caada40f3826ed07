"""Read a JSON body exactly: the type it claims, one JSON object, no member twice."""

import json
from typing import Annotated, Any

from fastapi import Depends, Request

from app.errors import FieldError, InvalidRequest, MalformedBody, UnsupportedMediaType
from app.http.authentication import CallerDep


async def read_json_object(request: Request, _: CallerDep) -> dict[str, Any]:
    """The body as a dict. Depends on the caller, so that nobody without a key learns how a body is judged."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType
    try:
        body = _read(await request.body())
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"The body is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]} at {where}.") from None
    except UnicodeDecodeError:
        raise MalformedBody("The body is not valid JSON: it is not UTF-8.") from None
    except RecursionError:
        raise MalformedBody("The body is not acceptable JSON: it is nested too deeply.") from None
    except _Unacceptable as error:
        raise MalformedBody(f"The body is not acceptable JSON: {error}.") from None
    except ValueError:
        raise MalformedBody("The body is not acceptable JSON: a number is too long.") from None
    if not isinstance(body, dict):
        raise InvalidRequest(field_errors=(FieldError("", "not_an_object", "must be a JSON object"),))
    return body


class _Unacceptable(ValueError):
    """JSON for some readers and not for others."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8259 leaves a repeated name to the reader; two readers that differ are how a check is slipped past."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Unacceptable("an object names a member twice")
    return members


def _no_constant(_: str) -> float:
    raise _Unacceptable("NaN and Infinity are no JSON numbers")


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)


def _read(body: bytes) -> Any:
    """As json.loads reads bytes, which makes a decoder for each."""
    return _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))


JsonBody = Annotated[dict[str, Any], Depends(read_json_object)]
