"""The form parameters of a request (`application/x-www-form-urlencoded`). A list is sent as a repeated key."""

from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import parse_qsl

from fastapi import Request

FORM_MEDIA_TYPE = "application/x-www-form-urlencoded"
SECRET_PARAMETERS = ("SipAuthPassword", "CallToken")
MASK = "********"


class Form:
    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str | None:
        """Returns the first value of a field; None if the field is missing or its first value is empty."""
        return next(iter(self._fields.get(name, ())), None) or None

    def get_all(self, name: str) -> list[str]:
        return [value for value in self._fields.get(name, ()) if value]

    def masked(self) -> dict[str, list[str]]:
        """Returns the values of all fields, by name, with a mask in place of each value of a secret field."""
        return {
            name: [MASK] * len(values) if name in SECRET_PARAMETERS else list(values) for name, values in self._fields.items()
        }

    def secret_sha256(self) -> dict[str, str]:
        """Returns the SHA-256, in hex, of the first value of each secret field, by the name of the field.

        With the hash, a test can check that the secret arrived unchanged.
        """
        return {name: sha256(self._fields[name][0].encode()).hexdigest() for name in SECRET_PARAMETERS if name in self._fields}


async def read_form(request: Request) -> Form:
    """Returns the form in the body of the request.

    If the content type is not that of a form, the form is empty. A creation is then refused with error 21201, as at Twilio.
    """
    body = await request.body()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, list[str]] = {}
    if content_type == FORM_MEDIA_TYPE:
        for name, value in parse_qsl(body.decode(errors="replace"), keep_blank_values=True):
            fields.setdefault(name, []).append(value)
    return Form(fields)
