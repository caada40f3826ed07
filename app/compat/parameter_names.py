"""Replaces parameter names in error and warning texts with Twilio's: `sip_auth_username` becomes `SipAuthUsername`."""

import re

from app.calls.parameters import CallParameters, CallUpdate
from app.errors import FieldError
from app.twilio.schemas import form_field_name

_PARAMETER_NAMES = {field.alias or name for model in (CallParameters, CallUpdate) for name, field in model.model_fields.items()}
# A name of one word, such as `to`, may be plain English. It is replaced only where backticks mark it as a name.
_UNAMBIGUOUS_NAMES = sorted(
    (name for name in _PARAMETER_NAMES if "_" in name or name in ("url", "twiml", "byoc")), key=len, reverse=True
)
_PARAMETER_NAME = re.compile(rf"`(?P<marked>[a-z_]+)`|\b(?P<bare>{'|'.join(_UNAMBIGUOUS_NAMES)})\b")


def with_twilio_names(text: str) -> str:
    """Returns the message with Twilio's names (`SipAuthUsername`) instead of the names under /v1 (`sip_auth_username`)."""
    return _PARAMETER_NAME.sub(_twilio_name, text)


def _twilio_name(match: re.Match[str]) -> str:
    name = match["marked"] or match["bare"]
    return form_field_name(name) if name in _PARAMETER_NAMES else match[0]


def field_error_message(error: FieldError) -> str:
    """Returns the error's message, preceded by the parameter's name as the client wrote it (`SipAuthPassword: ….`)."""
    name, text = twilio_parameter_name(error), with_twilio_names(error.detail).removesuffix(".") + "."
    return f"{name}: {text}" if name else text


def warning_header(warning: FieldError) -> str:
    """Returns the warning as a header value in printable ASCII. Replaces other characters with `?`."""
    text = f"{twilio_parameter_name(warning)} {warning.code}: {with_twilio_names(warning.detail)}"
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def twilio_parameter_name(error: FieldError) -> str:
    """Returns Twilio's name of the parameter that has the error, without the index of a list item."""
    name = error.pointer[1:].partition("/")[0] if error.pointer.startswith("/") else error.pointer.removeprefix("?")
    return form_field_name(name) if error.pointer.startswith("/") else name
