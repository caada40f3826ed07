"""Texts about a request, in the names of Twilio's parameters: `sip_auth_username` is `SipAuthUsername` to an SDK."""

import re

from app.calls.parameters import CallParameters, CallUpdate
from app.errors import FieldError
from app.twilio.schemas import form_name

_NAMES = {field.alias or name for model in (CallParameters, CallUpdate) for name, field in model.model_fields.items()}
# A name of one word is an English word as well, unless it is marked or cannot be one.
_UNMISTAKABLE = sorted((name for name in _NAMES if "_" in name or name in ("url", "twiml", "byoc")), key=len, reverse=True)
_NAME = re.compile(rf"`(?P<marked>[a-z_]+)`|\b(?P<bare>{'|'.join(_UNMISTAKABLE)})\b")


def in_twilios_names(text: str) -> str:
    return _NAME.sub(_renamed, text)


def _renamed(match: re.Match[str]) -> str:
    name = match["marked"] or match["bare"]
    return form_name(name) if name in _NAMES else match[0]


def sentence(fault: FieldError) -> str:
    """`/sip_auth_password` → `SipAuthPassword: ….`, as the caller wrote it."""
    name, text = parameter_of(fault), in_twilios_names(fault.detail).removesuffix(".") + "."
    return f"{name}: {text}" if name else text


def warning_line(warning: FieldError) -> str:
    """As one header line: ASCII without control characters."""
    text = f"{parameter_of(warning)} {warning.code}: {in_twilios_names(warning.detail)}"
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def parameter_of(fault: FieldError) -> str:
    """Without the place in a list."""
    name = fault.pointer[1:].partition("/")[0] if fault.pointer.startswith("/") else fault.pointer.removeprefix("?")
    return form_name(name) if fault.pointer.startswith("/") else name
