"""Converts a form in Twilio's format (`SipAuthPassword=…`, `Record=true`, repeated keys) to parameters as /v1 has them.

An empty value counts as not given, as at Twilio. A value that is not a valid number or boolean stays text, so that the later
validation reports it with the parameter's name.
"""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any, get_args, get_origin

from fastapi import Depends, Request
from pydantic import BaseModel

from app.compat.access import AccountDep
from app.errors import FieldError, InvalidRequest
from app.http.form import ParameterValues, parse_form_parameters, read_form_body
from app.twilio.schemas import form_field_name

_MAX_SHOWN_NAME_LENGTH = 64
_INTEGER_PATTERN = re.compile(r"-?[0-9]{1,9}")
_BOOLEANS_BY_TEXT = {"true": True, "false": False}


def known_non_empty_values(fields: ParameterValues, known: Collection[str]) -> ParameterValues:
    """Returns the parameters with their non-empty values. Leaves out parameters that have only empty values.

    Raises InvalidRequest if a name is not in `known`.
    """
    if errors := unknown_name_errors(fields, known):
        raise InvalidRequest(field_errors=tuple(errors))
    return {name: values for name, all_values in fields.items() if (values := [value for value in all_values if value])}


def unknown_name_errors(fields: ParameterValues, known: Collection[str]) -> list[FieldError]:
    has_sip_headers = any("?" in to for to in fields.get("To", ()))
    return [_unknown_parameter_error(name, has_sip_headers) for name in fields if name not in known]


def refuse_encoded_equals_signs(fields: ParameterValues) -> None:
    """Raises InvalidRequest for a name that contains `=`: the client has percent-encoded the `=` between a name and its value.

    No parameter of Twilio has such a name. This function does not check other unknown names; Twilio validates them.
    """
    if errors := [_unknown_parameter_error(name) for name in fields if "=" in name]:
        raise InvalidRequest(field_errors=tuple(errors))


def _unknown_parameter_error(name: str, has_sip_headers: bool = False) -> FieldError:
    text = "is not a parameter of this request"
    if "=" in name:
        text += ": the = between name and value must not be percent-encoded"
    elif has_sip_headers:
        text += ": if it belongs to To, send the & before it as %26"
    return FieldError(f"?{name[:_MAX_SHOWN_NAME_LENGTH]}", "unknown_parameter", text)


async def refuse_query_parameters(request: Request, _: AccountDep) -> None:
    """Raises InvalidRequest if the URL has query parameters. Otherwise they would be ignored silently."""
    known_non_empty_values(parse_form_parameters(request.url.query), ())


async def read_form(request: Request, _: AccountDep, __: Annotated[None, Depends(refuse_query_parameters)]) -> ParameterValues:
    """Parses the form in the body. The unused parameters make FastAPI first check the API key and refuse query parameters."""
    return await read_form_body(request)


FormDep = Annotated[ParameterValues, Depends(read_form)]
NoQueryDep = Depends(refuse_query_parameters)


def parameters_from_form(fields: ParameterValues, model: type[BaseModel]) -> dict[str, Any]:
    """Converts form fields to the names and types of `model`.

    Raises InvalidRequest for an unknown field, and for a repeated field that is not a list.
    """
    known = {form_field_name(name): (name, kind) for name, kind in _parameter_types(model)}
    given = known_non_empty_values(fields, known)
    if errors := [
        FieldError(f"?{name}", "repeated", "must be given once")
        for name, values in given.items()
        if len(values) > 1 and known[name][1] is not list
    ]:
        raise InvalidRequest(field_errors=tuple(errors))
    return {known[name][0]: _parse_values(values, known[name][1]) for name, values in given.items()}


def normalize_boolean(text: str) -> str:
    """Converts `True` and `False`, as Python and C# write them, to lower case. Returns any other text unchanged."""
    return text.lower() if text.lower() in _BOOLEANS_BY_TEXT else text


def _parse_values(values: list[str], kind: type) -> Any:
    text = values[0]
    if kind is list:
        # Twilio documents one list as separated by spaces and the other as repeated keys; its SDKs repeat the keys.
        return [item for value in values for item in value.split()]
    if kind is int:
        return int(text) if _INTEGER_PATTERN.fullmatch(text) else text
    if kind is bool:
        return _BOOLEANS_BY_TEXT.get(text.lower(), text)
    return text


def _parameter_types(model: type[BaseModel]) -> Iterator[tuple[str, type]]:
    """Yields the name and the type (list, int, bool or str) of each parameter of `model`."""
    for name, field in model.model_fields.items():
        found = set(_flat_types(field.annotation))
        yield field.alias or name, next((kind for kind in (list, int, bool) if kind in found), str)


def _flat_types(annotation: Any) -> Iterator[type]:
    """Yields the plain types in an annotation: list and NoneType for `Annotated[list[…], …] | None`; str for a literal."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _flat_types(get_args(annotation)[0])
    elif origin is list:
        yield list
    elif origin is not None and type(None) in get_args(annotation):
        for member in get_args(annotation):
            yield from _flat_types(member)
    else:
        yield annotation if isinstance(annotation, type) else str
