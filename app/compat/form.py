"""From Twilio's form (`SipAuthPassword=…`, `Record=true`, repeated keys) to the plain mapping that our rules judge.

Empty means not given, as at Twilio. What cannot be read as a number or a truth stays text, for the rules to refuse by name.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from pydantic import BaseModel

from app.compat.access import AccountDep
from app.errors import Fault, InvalidRequest, MalformedBody, UnsupportedMediaType
from app.twilio.schemas import form_name

_MEDIA_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 500
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_TRUTHS = {"true": True, "false": False}

Fields = dict[str, list[str]]


def parse_fields(encoded: str) -> Fields:
    """Names with all their values that are not empty, for a form or a query."""
    try:
        pairs = parse_qsl(encoded, errors="strict", max_num_fields=_MOST_FIELDS)
    except UnicodeDecodeError:
        raise MalformedBody("A parameter is not UTF-8.") from None
    except ValueError:
        raise MalformedBody(f"There are more than {_MOST_FIELDS} parameters.") from None
    fields: Fields = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


async def read_form(request: Request, _: AccountDep) -> Fields:
    """Depends on the account, so that nobody without a key learns how a body is judged."""
    body = await request.body()
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and media_type != _MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send the body as `Content-Type: {_MEDIA_TYPE}`.")
    try:
        return parse_fields(body.decode("ascii"))
    except UnicodeDecodeError:
        raise MalformedBody("The body is not a form: it holds characters that must be percent-encoded.") from None


FormDep = Annotated[Fields, Depends(read_form)]


def parameters_of(fields: Fields, model: type[BaseModel]) -> dict[str, Any]:
    """The fields by `model`'s names, as its types want them. Raises InvalidRequest for names that it has not."""
    known = {form_name(name): (name, kind) for name, kind in _kinds(model)}
    faults = [fault for name, values in fields.items() if (fault := _fault(name, values, known))]
    if faults:
        raise InvalidRequest(faults=tuple(faults))
    return {known[name][0]: _value(values, known[name][1]) for name, values in fields.items()}


def _fault(name: str, values: list[str], known: Mapping[str, tuple[str, type]]) -> Fault | None:
    if name not in known:
        return Fault(f"?{name[:64]}", "unknown_parameter", "is no parameter of this request")
    if len(values) > 1 and known[name][1] is not list:
        return Fault(f"?{name}", "repeated", "must be given once")
    return None


def _value(values: list[str], kind: type) -> Any:
    text = values[0]
    if kind is list:
        # Twilio documents "separate with a space" for one list and repeated keys for the other; its SDKs repeat keys.
        return [item for value in values for item in value.split()]
    if kind is int:
        return int(text) if _NUMBER.fullmatch(text) else text
    if kind is bool:
        return _TRUTHS.get(text.lower(), text)
    return text


def _kinds(model: type[BaseModel]) -> Iterator[tuple[str, type]]:
    """Each parameter's name, and whether it is a number, a truth, a list, or else text."""
    for name, field in model.model_fields.items():
        found = set(_types(field.annotation))
        kind = next((kind for kind in (list, int, bool) if kind in found and str not in found), str)
        yield field.alias or name, kind


def _types(annotation: Any) -> Iterator[type]:
    """`Annotated[list[…], …] | None` → list, NoneType. A literal counts as text."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _types(get_args(annotation)[0])
    elif origin is list:
        yield list
    elif origin is not None and type(None) in get_args(annotation):
        for member in get_args(annotation):
            yield from _types(member)
    else:
        yield annotation if isinstance(annotation, type) else str
