"""From Twilio's form (`SipAuthPassword=…`, `Record=true`, repeated keys) to the plain mapping that our rules judge.

Empty means not given, as at Twilio. What cannot be read as a number or a boolean stays text, for the rules to refuse by name.
"""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from pydantic import BaseModel

from app.compat.access import AccountDep
from app.errors import FieldError, InvalidRequest, MalformedBody, UnsupportedMediaType
from app.twilio.schemas import form_name

_MEDIA_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 500
_SHOWN_NAME = 64
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_BOOLEANS = {"true": True, "false": False}

Fields = dict[str, list[str]]
"""Every name with its values, empty ones too: a name is checked whatever its value."""


def parse_fields(encoded: str) -> Fields:
    """Of a form or a query."""
    try:
        pairs = parse_qsl(encoded, errors="strict", max_num_fields=_MOST_FIELDS, keep_blank_values=True)
    except UnicodeDecodeError:
        raise MalformedBody("A parameter is not UTF-8.") from None
    except ValueError:
        raise MalformedBody(f"There are more than {_MOST_FIELDS} parameters.") from None
    fields: Fields = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def given_values(fields: Fields, known: Collection[str]) -> Fields:
    """The values that are not empty. Raises InvalidRequest for names that are not among the `known` ones."""
    if faults := unknown_names(fields, known):
        raise InvalidRequest(field_errors=tuple(faults))
    return {name: values for name, all_values in fields.items() if (values := [value for value in all_values if value])}


def unknown_names(fields: Fields, known: Collection[str]) -> list[FieldError]:
    return [_unknown(name) for name in fields if name not in known]


def refuse_encoded_pairs(fields: Fields) -> None:
    """Where Twilio judges the names: none of them has a `=`, so such a name is a pair that was encoded as a whole."""
    if faults := [_unknown(name) for name in fields if "=" in name]:
        raise InvalidRequest(field_errors=tuple(faults))


def _unknown(name: str) -> FieldError:
    text = "is no parameter of this request"
    if "=" in name:
        text += ": the = between name and value must not be percent-encoded"
    return FieldError(f"?{name[:_SHOWN_NAME]}", "unknown_parameter", text)


async def refuse_query(request: Request, _: AccountDep) -> None:
    """For requests that take no query: what stands there would be lost without a word."""
    given_values(parse_fields(request.url.query), ())


async def read_form(request: Request, _: AccountDep, __: Annotated[None, Depends(refuse_query)]) -> Fields:
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
NoQueryDep = Depends(refuse_query)


def parameters_of(fields: Fields, model: type[BaseModel]) -> dict[str, Any]:
    """The fields by `model`'s names, as its types want them. Raises InvalidRequest for names that it has not."""
    known = {form_name(name): (name, kind) for name, kind in _kinds(model)}
    given = given_values(fields, known)
    if faults := [
        FieldError(f"?{name}", "repeated", "must be given once")
        for name, values in given.items()
        if len(values) > 1 and known[name][1] is not list
    ]:
        raise InvalidRequest(field_errors=tuple(faults))
    return {known[name][0]: _value(values, known[name][1]) for name, values in given.items()}


def plain_boolean(text: str) -> str:
    """`True`, as Python and C# write it, is `true`; what is no boolean stays as it is."""
    return text.lower() if text.lower() in _BOOLEANS else text


def _value(values: list[str], kind: type) -> Any:
    text = values[0]
    if kind is list:
        # Twilio documents "separate with a space" for one list and repeated keys for the other; its SDKs repeat keys.
        return [item for value in values for item in value.split()]
    if kind is int:
        return int(text) if _NUMBER.fullmatch(text) else text
    if kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    return text


def _kinds(model: type[BaseModel]) -> Iterator[tuple[str, type]]:
    """Each parameter's name, and whether it is a list, a number, a boolean, or else text."""
    for name, field in model.model_fields.items():
        found = set(_types(field.annotation))
        yield field.alias or name, next((kind for kind in (list, int, bool) if kind in found), str)


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
