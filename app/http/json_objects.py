"""Parses JSON strictly: one object, with unique member names."""

import json
from typing import Any

from app.errors import FieldError, InvalidRequest, MalformedBody


def parse_json_object(text: bytes, text_name: str) -> dict[str, Any]:
    """Parses the text and returns its JSON object. `text_name` is the text's name in error messages, such as "The body".

    Raises InvalidRequest if the text is JSON but not an object. Raises MalformedBody if the text is not JSON,
    repeats a member name, is nested too deeply, or has a number that is too long.
    """
    try:
        body = _decode_strictly(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"{text_name} is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]} at {position}.") from None
    except UnicodeDecodeError:
        raise MalformedBody(f"{text_name} is not valid JSON: it is not UTF-8.") from None
    except RecursionError:
        raise MalformedBody(f"{text_name} is not acceptable JSON: it is nested too deeply.") from None
    except _UnacceptableJsonError as error:
        raise MalformedBody(f"{text_name} is not acceptable JSON: {error}.") from None
    except ValueError:
        raise MalformedBody(f"{text_name} is not acceptable JSON: a number is too long.") from None
    if not isinstance(body, dict):
        raise InvalidRequest(field_errors=(FieldError("", "not_an_object", "must be a JSON object"),))
    return body


class _UnacceptableJsonError(ValueError):
    """The text is not valid JSON, or different JSON parsers would read it differently."""


def _refuse_repeated_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the members of a JSON object as a dict. Raises _UnacceptableJsonError if a name is repeated.

    RFC 8259 §4 allows repeated names, but parsers disagree on which of the values counts.
    """
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _UnacceptableJsonError("an object has a repeated member name")
    return members


def _refuse_nan_and_infinity(_: str) -> float:
    """Raises _UnacceptableJsonError for NaN and Infinity, which Python's JSON decoder accepts although RFC 8259 does not."""
    raise _UnacceptableJsonError("NaN and Infinity are not JSON numbers")


_STRICT_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_repeated_members, parse_constant=_refuse_nan_and_infinity)


def _decode_strictly(body: bytes) -> Any:
    """Parses bytes as `json.loads` does, but raises _UnacceptableJsonError for repeated member names, NaN and Infinity."""
    return _STRICT_DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
