"""Types of Twilio's data: credentials, the Call resource and its statuses, and the form of a request.

https://www.twilio.com/docs/voice/api/call-resource. Real answers differ from the documented example: nearly every field
is null at first, "" means null, and keys may be added. A field with an invalid value is None; its value stays in `raw`.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote_plus

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

TERMINAL_STATUSES = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
CALL_STATUSES = TERMINAL_STATUSES | {"queued", "initiated", "ringing", "in-progress"}
# These parameters are never stored, logged or returned. They are used once, in the form that is sent to Twilio.
SECRET_PARAMETERS = frozenset({"sip_auth_password", "call_token"})
SID_PATTERN = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}")
MAX_QUEUE_TIME = timedelta(hours=24)
"""Twilio ends a call that has waited this long in its queue."""
MAX_CALL_TIME = timedelta(hours=24)
"""Twilio ends a call that has lasted this long."""
ACCOUNT_SID_PATTERN = re.compile(r"AC[0-9a-fA-F]{32}")
CALL_SID_PATTERN = re.compile(r"CA[0-9a-fA-F]{32}")
_INT32_MAX = 2**31 - 1
_MAX_TEXT_LENGTH = 512
_MAX_PRICE_LENGTH = 30
_MAX_JSON_DEPTH = 30


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential of a Twilio account, for Basic auth.

    `reference` is any id by which the caller recognizes the credential. `base_url` is None for the default server of Twilio.
    """

    account_sid: str
    username: str
    password: SecretStr
    base_url: str | None = None
    reference: str = ""

    @property
    def is_api_key(self) -> bool:
        """Whether this is an API key. An auth token has the account's SID as its user name."""
        return self.username != self.account_sid


OnCredentialUse = Callable[[Credential], None]
"""A function that is called with each credential with which a request is sent, and each auth token that verifies a callback."""


def _parse_twilio_text(value: object) -> str | None:
    """Returns the text; None if it is empty, or so long that it is no value of Twilio and might not fit into an index."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT_LENGTH else None


def _parse_twilio_integer(value: object) -> int | None:
    try:
        number = int(value) if isinstance(value, str | int) else None
    except ValueError:
        return None
    return number if number is not None and abs(number) <= _INT32_MAX else None


def _parse_twilio_price(value: object) -> Decimal | None:
    if not isinstance(value, str | int) or len(str(value)) > _MAX_PRICE_LENGTH:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        return None
    if not amount:
        amount = abs(amount)  # Postgres knows no negative zero
    # An amount that Postgres would refuse must not make the whole answer unreadable.
    return amount if amount.is_finite() and abs(amount.adjusted()) < _MAX_PRICE_LENGTH else None


def _parse_twilio_time(value: object) -> datetime | None:
    """Parses a date in RFC 2822 format, which the 2010 API uses. Returns None for any other value."""
    if not isinstance(value, str) or not value:
        return None
    try:
        time = parsedate_to_datetime(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _dict_or_none(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


TwilioText = Annotated[str | None, BeforeValidator(_parse_twilio_text)]
TwilioInteger = Annotated[int | None, BeforeValidator(_parse_twilio_integer)]
TwilioPrice = Annotated[Decimal | None, BeforeValidator(_parse_twilio_price)]
TwilioTime = Annotated[datetime | None, BeforeValidator(_parse_twilio_time)]
TwilioUris = Annotated[dict[str, Any] | None, BeforeValidator(_dict_or_none)]


class CallResource(BaseModel):
    """Twilio's state of a call. `raw` is the whole answer, or empty if the state comes from a callback."""

    model_config = ConfigDict(frozen=True)

    sid: str
    status: TwilioText = None
    direction: TwilioText = None
    to_formatted: TwilioText = None
    from_formatted: TwilioText = None
    date_created: TwilioTime = None
    date_updated: TwilioTime = None
    start_time: TwilioTime = None
    end_time: TwilioTime = None
    duration: TwilioInteger = None
    price: TwilioPrice = None
    price_unit: TwilioText = None
    answered_by: TwilioText = None
    api_version: TwilioText = None
    caller_name: TwilioText = None
    forwarded_from: TwilioText = None
    group_sid: TwilioText = None
    parent_call_sid: TwilioText = None
    phone_number_sid: TwilioText = None
    queue_time: TwilioInteger = None
    trunk_sid: TwilioText = None
    uri: TwilioText = None
    subresource_uris: TwilioUris = None
    raw: dict[str, Any] = Field(exclude=True)

    @classmethod
    def parse_answer(cls, answer: object) -> "CallResource | None":
        """Returns the call in an answer of Twilio; None if the answer has no valid call SID, and so describes no call."""
        if not isinstance(answer, dict) or not isinstance(answer.get("sid"), str):
            return None
        if not CALL_SID_PATTERN.fullmatch(answer["sid"]):
            return None
        return cls.model_validate({name: value for name, value in answer.items() if value is not None} | {"raw": answer})


def to_storable_json(value: Any, *, depth: int = 0) -> Any:
    """Returns JSON that Postgres can store.

    Removes NUL, replaces lone surrogates with `?`, and replaces NaN, infinity and too deeply nested values with null. `depth`
    is the number of objects and lists around `value`.
    """
    if depth > _MAX_JSON_DEPTH:
        return None
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {to_storable_json(key): to_storable_json(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [to_storable_json(item, depth=depth + 1) for item in value]
    return value


def parse_storable_json(body: bytes) -> Any:
    """Parses JSON and changes what Postgres cannot store (`to_storable_json`). Returns None if the bytes are not JSON."""
    try:
        # Most answers contain nothing that `to_storable_json` changes: skip its copy.
        plain = body.isascii() and b"\\" not in body and b"\0" not in body
        if plain and body.count(b"{") + body.count(b"[") <= _MAX_JSON_DEPTH:
            return _finite_json.decode(body.decode())
        return to_storable_json(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _parse_finite_number(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_finite_json = json.JSONDecoder(parse_float=_parse_finite_number, parse_constant=lambda _: None)


def form_field_name(name: str) -> str:
    """Returns Twilio's name of a parameter: `sip_auth_username` → `SipAuthUsername`. All parameters follow this rule."""
    return "".join(word.capitalize() for word in name.split("_"))


def encode_form(parameters: Mapping[str, Any]) -> bytes:
    """Encodes parameters as a form, as Twilio's SDKs do: booleans as true/false, lists as repeated keys."""
    return "&".join(
        f"{_quote_name(name)}={_quote(item)}"
        for name, value in parameters.items()
        for item in (value if isinstance(value, list) else (value,))
    ).encode()


@dataclass(frozen=True, slots=True)
class Form:
    """The parameters of a request to Twilio. `content` is the request's body, which contains them URL-encoded.

    `secret_names` has the names of the parameters whose values must not be shown, even if Twilio repeats them.
    """

    parameters: Mapping[str, Any] = field(repr=False)
    content: bytes = field(repr=False)
    secret_names: Collection[str] = SECRET_PARAMETERS

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], secret_names: Collection[str] = SECRET_PARAMETERS) -> "Form":
        """Encodes the parameters as the form of a request to Twilio. Raises UnicodeEncodeError for lone surrogates.

        The values of the parameters `secret_names` are removed from the answer to this request.
        """
        return cls(parameters, encode_form(parameters), secret_names)


@lru_cache(maxsize=256)  # a fixed set of names
def _quote_name(name: str) -> str:
    return _quote(form_field_name(name))


def _quote(value: object) -> str:
    """URL-encodes a value as urllib's quote_plus does, but faster. Writes a boolean as `true` or `false`."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.encode().decode("latin-1").translate(_QUOTED_BYTES)


_QUOTED_BYTES = [quote_plus(bytes([byte])) for byte in range(256)]
