"""What a tenant is told of one event, in the form that it chose, signed with its own secret. Pure.

`twilio` is the request that Twilio would have sent to the tenant's URL, so that code written for Twilio works unchanged;
`json` is ours, with the record: https://www.standardwebhooks.com.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urldefrag, urlencode, urlsplit, urlunsplit

from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator

EVENT_TYPE: Final = "call.callback"

Form = Literal["twilio", "json"]
Method = Literal["GET", "POST"]


@dataclass(frozen=True, slots=True)
class Told:
    """One event of one call, as it is to be told."""

    webhook_id: str
    """The same each time that this event is told to this URL."""
    call_id: str
    sequence: int | None
    """Twilio's SequenceNumber, where it gave one."""
    fields: Mapping[str, str]
    """What Twilio said, and all that it said."""
    record: Mapping[str, Any]
    """The call as it is now, ready for JSON."""


class Message(NamedTuple):
    method: Method
    url: str
    headers: Mapping[str, str]
    body: bytes


def message(form: Form, told: Told, *, method: Method, url: str, secret: str, at: datetime) -> Message:
    """To be made anew for each attempt, because `json` carries the time `at` which it is sent. `url` has been judged."""
    if form == "twilio":
        return _as_twilio(told, method, url, secret)
    return _as_json(told, url, secret, at)


def _as_twilio(told: Told, method: Method, url: str, secret: str) -> Message:
    """https://www.twilio.com/docs/usage/security#validating-requests; the secret, prefix and all, is the auth token."""
    url = _as_requested(url)
    headers = {"I-Twilio-Idempotency-Token": told.webhook_id}
    encoded = urlencode(told.fields)
    if method == "GET":
        url += ("&" if urlsplit(url).query else "?") + encoded
        return Message(method, url, headers | {"X-Twilio-Signature": _sign(url, {}, secret)}, b"")
    headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
    return Message(method, url, headers | {"X-Twilio-Signature": _sign(url, told.fields, secret)}, encoded.encode())


def _sign(url: str, posted: Mapping[str, str], secret: str) -> str:
    """Voice leaves the port of an https URL out of what it signs and keeps that of an http one; validators try both."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.port is not None:
        url = urlunsplit(parts._replace(netloc=parts.netloc.removesuffix(f":{parts.port}")))
    signature: str = RequestValidator(secret).compute_signature(url, posted)
    return signature


def _as_requested(url: str) -> str:
    """As the receiver will see it, and so what it will check: no fragment, and a path."""
    url, _ = urldefrag(url)
    parts = urlsplit(url)
    return url if parts.path else urlunsplit(parts._replace(path="/"))


def _as_json(told: Told, url: str, secret: str, at: datetime) -> Message:
    at = at.astimezone(UTC)  # the library takes the hour as it stands, whatever the zone
    data = {"call_id": told.call_id, "sequence": told.sequence, "fields": told.fields, "call": told.record}
    content = {"type": EVENT_TYPE, "timestamp": at.isoformat(timespec="seconds"), "data": data}
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": told.webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(told.webhook_id, at, body),
    }
    return Message("POST", _as_requested(url), headers, body.encode())
