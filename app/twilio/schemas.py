"""Twilio's shapes: access to an account, the Call resource read leniently, and parameters as a form.

https://www.twilio.com/docs/voice/api/call-resource. Real answers differ from the documented example: nearly every field
is null at first, "" means null, and keys may be added. A field that cannot be read is None here and stays in `raw`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote_plus

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

TERMINAL_STATUSES = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
CALL_STATUSES = TERMINAL_STATUSES | {"queued", "initiated", "ringing", "in-progress"}
# Never stored, logged or repeated: used once, in the form that goes to Twilio.
SECRET_PARAMETERS = frozenset({"sip_auth_password", "call_token"})
SID = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}")
CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")
_INT32_MAX = 2**31 - 1
_LONGEST_TEXT = 512
_LONGEST_PRICE = 30
_DEEPEST = 30


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential of one account, ready to be used: Basic auth of `username` and `password`.

    `reference` is the owner's name for it, meaningless here.
    """

    account_sid: str
    username: str
    password: SecretStr
    base_url: str | None = None
    reference: str = ""


def _text(value: object) -> str | None:
    """Longer than any of Twilio's fields is none of them, and might not fit an index."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT else None


def _integer(value: object) -> int | None:
    try:
        number = int(value) if isinstance(value, str | int) else None
    except ValueError:
        return None
    return number if number is not None and abs(number) <= _INT32_MAX else None


def _money(value: object) -> Decimal | None:
    if not isinstance(value, str | int) or len(str(value)) > _LONGEST_PRICE:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        return None
    # A number that Postgres would refuse, or no price at all, must not lose the rest of the answer.
    return amount if amount.is_finite() and abs(amount.adjusted()) < _LONGEST_PRICE else None


def _time(value: object) -> datetime | None:
    """RFC 2822, as the 2010 API writes it."""
    if not isinstance(value, str) or not value:
        return None
    try:
        time = parsedate_to_datetime(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _map(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


Text = Annotated[str | None, BeforeValidator(_text)]
Integer = Annotated[int | None, BeforeValidator(_integer)]
Money = Annotated[Decimal | None, BeforeValidator(_money)]
Time = Annotated[datetime | None, BeforeValidator(_time)]
UriMap = Annotated[dict[str, Any] | None, BeforeValidator(_map)]


class CallResource(BaseModel):
    """What Twilio said of a call. `raw` is the whole answer; empty when it was not the resource (a callback) that said it."""

    model_config = ConfigDict(frozen=True)

    sid: str
    status: Text = None
    direction: Text = None
    to_formatted: Text = None
    from_formatted: Text = None
    date_created: Time = None
    date_updated: Time = None
    start_time: Time = None
    end_time: Time = None
    duration: Integer = None
    price: Money = None
    price_unit: Text = None
    answered_by: Text = None
    api_version: Text = None
    caller_name: Text = None
    forwarded_from: Text = None
    group_sid: Text = None
    parent_call_sid: Text = None
    phone_number_sid: Text = None
    queue_time: Integer = None
    trunk_sid: Text = None
    uri: Text = None
    subresource_uris: UriMap = None
    raw: dict[str, Any] = Field(exclude=True)

    @classmethod
    def read(cls, answer: object) -> "CallResource | None":
        """The resource, or None when the answer is not one: without a CallSid nothing proves that a call exists."""
        if not isinstance(answer, dict) or not isinstance(answer.get("sid"), str):
            return None
        if not CALL_SID.fullmatch(answer["sid"]):
            return None
        return cls.model_validate({name: value for name, value in answer.items() if value is not None} | {"raw": answer})


def storable(value: Any, *, depth: int = 0) -> Any:
    """JSON that can be kept and shown: no NUL or lone surrogates in text, no NaN or infinity, no nesting without end."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {storable(key): storable(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item, depth=depth + 1) for item in value]
    return value


def read_json(body: bytes) -> Any:
    """The same of bytes; None when they are no JSON."""
    try:
        # Most answers hold none of what `storable` looks for, and need no copy.
        plain = body.isascii() and b"\\" not in body and b"\0" not in body
        if plain and body.count(b"{") + body.count(b"[") <= _DEEPEST:
            return _finite_json.decode(body.decode())
        return storable(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_finite_json = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)


def form_name(name: str) -> str:
    """`sip_auth_username` → `SipAuthUsername`: the one rule by which all of Twilio's parameters are named."""
    return "".join(word.capitalize() for word in name.split("_"))


def form(parameters: Mapping[str, Any]) -> bytes:
    """Parameters as a form: booleans as true/false, lists as repeated keys, as Twilio's SDKs send them."""
    return "&".join(
        f"{_quoted_name(name)}={_quoted(item)}"
        for name, value in parameters.items()
        for item in (value if isinstance(value, list) else (value,))
    ).encode()


@dataclass(frozen=True, slots=True)
class Form:
    """Parameters, and the bytes as which they travel."""

    parameters: Mapping[str, Any] = field(repr=False)
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Form":
        """Raises UnicodeEncodeError."""
        return cls(parameters, form(parameters))


@lru_cache(maxsize=256)  # Twilio's names: a fixed set
def _quoted_name(name: str) -> str:
    return _quoted(form_name(name))


def _quoted(value: object) -> str:
    """As urllib's quote_plus, which looks at each letter in Python."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.encode().decode("latin-1").translate(_QUOTED_BYTES)


_QUOTED_BYTES = [quote_plus(bytes([byte])) for byte in range(256)]
