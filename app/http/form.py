"""Reads forms (application/x-www-form-urlencoded) and query strings."""

from urllib.parse import parse_qsl

from fastapi import Request

from app.errors import MalformedBody, UnsupportedMediaType
from app.http.limits import MAX_FORM_FIELDS
from app.security.redaction import TOO_MANY_USERINFOS_MESSAGE, has_too_many_userinfos

_FORM_MEDIA_TYPE = "application/x-www-form-urlencoded"


ParameterValues = dict[str, list[str]]
"""The parameters of a form or query string: each name with the list of all its values, including empty values."""


def parse_form_parameters(encoded: str) -> ParameterValues:
    """Returns the parameters of a form or query string.

    Raises MalformedBody if a parameter is not UTF-8, if there are more than MAX_FORM_FIELDS parameters, or if they contain
    too many user names and passwords (`has_too_many_userinfos`).
    """
    try:
        pairs = parse_qsl(encoded, errors="strict", max_num_fields=MAX_FORM_FIELDS, keep_blank_values=True)
    except UnicodeDecodeError:
        raise MalformedBody("A parameter is not UTF-8.") from None
    except ValueError:
        raise MalformedBody(f"There are more than {MAX_FORM_FIELDS} parameters.") from None
    if has_too_many_userinfos(*(value for _, value in pairs)):
        raise MalformedBody(f"The parameters {TOO_MANY_USERINFOS_MESSAGE}.")
    fields: ParameterValues = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


async def read_form_body(request: Request) -> ParameterValues:
    """Returns the parameters of the form in the request body.

    Raises UnsupportedMediaType if the body is not empty and its media type is not that of a form. Raises MalformedBody if the
    body is not ASCII, and for the reasons of `parse_form_parameters`.
    """
    body = await request.body()
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and media_type != _FORM_MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send the body as `Content-Type: {_FORM_MEDIA_TYPE}`.")
    try:
        return parse_form_parameters(body.decode("ascii"))
    except UnicodeDecodeError:
        raise MalformedBody("The body is not a valid form: it contains characters that must be percent-encoded.") from None
