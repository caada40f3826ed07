"""Builds the HTTP request that delivers an event: in the tenant's format, signed with the tenant's secret.

The format `twilio` is the request that Twilio would have sent to the tenant's URL, so that code written for Twilio works. The
format `json` is Callgate's own format. It contains the call's record, and is signed as https://www.standardwebhooks.com says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic_core import to_json
from standardwebhooks import Webhook

from app.calls.outbox import CORRECTED_EVENT, SETTLED_EVENT
from app.calls.schemas import CallRecord
from app.tenants.callback_settings import CallbackFormat, CallbackMethod
from app.twilio.signature import compute_signature

_WEBHOOK_EVENT_TYPES: Final = {SETTLED_EVENT: "call.settled", CORRECTED_EVENT: "call.corrected"}
_CALLBACK_EVENT_TYPE: Final = "call.callback"
_PORT: Final = re.compile(r":[0-9]*\Z")


@dataclass(frozen=True, slots=True)
class DeliveryContent:
    """The content of a delivery: one event of one call."""

    webhook_id: str
    """The id by which the receiver recognizes the event. It is the same in every attempt."""
    event: str
    call_id: str
    sequence: int | None
    """Twilio's SequenceNumber; None if the callback has none, or if no callback reported the event."""
    fields: Mapping[str, str]
    """All fields of Twilio's callback.

    If no callback reported the event, these are Callgate's own fields, which say whether the call was started.
    """
    record: CallRecord | Mapping[str, Any]
    """The call's current record; empty if the call was deleted. Only the format `json` contains the record."""


class DeliveryRequest(NamedTuple):
    method: CallbackMethod
    url: str
    headers: Mapping[str, str]
    body: bytes


def build_request(
    callback_format: CallbackFormat, content: DeliveryContent, *, method: CallbackMethod, url: str, secret: str, at: datetime
) -> DeliveryRequest:
    """Builds the request of one attempt. The format `json` signs the time `at`, so each attempt needs a new request."""
    if callback_format == "twilio":
        return _twilio_format_request(content, method, url, secret)
    return _json_format_request(content, url, secret, at)


def _twilio_format_request(content: DeliveryContent, method: CallbackMethod, url: str, secret: str) -> DeliveryRequest:
    """Builds a request in the format `twilio`.

    The signature's key is the tenant's whole secret, not an auth token as at Twilio. The secret includes its prefix, such as
    `whsec_`. https://www.twilio.com/docs/usage/security#validating-requests
    """
    url = _url_seen_by_receiver(url)
    headers = {"I-Twilio-Idempotency-Token": content.webhook_id}
    encoded = urlencode(content.fields)
    if method == "GET":
        url += ("&" if urlsplit(url).query else "?") + encoded
        return DeliveryRequest(method, url, headers | {"X-Twilio-Signature": _twilio_signature(url, {}, secret)}, b"")
    headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
    return DeliveryRequest(
        method, url, headers | {"X-Twilio-Signature": _twilio_signature(url, content.fields, secret)}, encoded.encode()
    )


def _twilio_signature(url: str, posted: Mapping[str, str], secret: str) -> str:
    """Returns the value of X-Twilio-Signature. `posted` has the fields of the form in the body; it is empty for GET.

    For https, the URL is signed without its port; for http, with its port. Twilio does the same for voice calls. Twilio's
    validators accept both forms.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.port is not None:
        url = urlunsplit(parts._replace(netloc=parts.netloc.removesuffix(f":{parts.port}")))
    return compute_signature(secret, url, posted)


def _url_seen_by_receiver(url: str) -> str:
    """Returns the URL in the form in which the HTTP client requests it, and in which the receiver checks the signature.

    This form has a path, and neither a fragment nor an empty query. The scheme is in lower case; the port has no leading zeros.
    """
    parts = urlsplit(url)
    host = _PORT.sub("", parts.netloc)
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=parts.path or "/", fragment=""))


def _json_format_request(content: DeliveryContent, url: str, secret: str, at: datetime) -> DeliveryRequest:
    """Builds a request in the format `json`, signed as Standard Webhooks requires."""
    at = at.astimezone(UTC)  # the library ignores the time zone
    data = {"call_id": content.call_id, "sequence": content.sequence, "fields": content.fields, "call": content.record}
    type_ = _WEBHOOK_EVENT_TYPES.get(content.event, _CALLBACK_EVENT_TYPE)
    payload = {"type": type_, "timestamp": at.isoformat(timespec="seconds"), "data": data}
    body = to_json(payload, by_alias=True).decode()
    headers = {
        "Content-Type": "application/json",
        "webhook-id": content.webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(content.webhook_id, at, body),
    }
    return DeliveryRequest("POST", _url_seen_by_receiver(url), headers, body.encode())
