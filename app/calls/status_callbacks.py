"""Who tells the tenant of a call's progress: we do, from what Twilio tells us, or Twilio itself. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urldefrag
from uuid import UUID

from app.calls.callback_urls import CallbackUrls
from app.calls.models import Call
from app.calls.parameters import CallRequest, CallUpdate, refused_by_twilio
from app.errors import FieldError, InvalidRequest
from app.tenants.directory import CallableAccount

# By default Twilio repeats a callback only when it cannot connect, and once.
# https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
CALLBACK_RETRIES = "#rc=3&rp=5xx,ct,rt"
_COLUMNS = ("status_callback", "status_callback_method", "status_callback_events")
_PARAMETERS = ("status_callback", "status_callback_event", "status_callback_method")
_ALL_EVENTS = ["initiated", "ringing", "answered", "completed"]

UrlValidator = Callable[[str], tuple[str, str] | None]
"""Why a URL cannot be called: a stable code and what to do; None when it can."""


@dataclass(frozen=True, slots=True)
class StatusCallbacks:
    """`for_twilio` stands in place of the request's own parameters, `columns` on the call."""

    for_twilio: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(_COLUMNS))
    warnings: tuple[FieldError, ...] = ()


def status_callbacks(
    request: CallRequest, account: CallableAccount, call_id: UUID, *, urls: CallbackUrls | None, judge: UrlValidator
) -> StatusCallbacks:
    """Our own status callback, with the call's id and tag, goes to Twilio wherever that can work: by it a call whose answer was
    lost announces itself. Then the tenant's own is ours to deliver, or its default; InvalidRequest when we may not dial it.

    Without a public URL nothing reaches us, and without an auth token nobody could tell what is genuine: the request's own
    parameters are passed on, or InvalidRequest when Twilio would refuse them. With an application_sid Twilio heeds neither.
    """
    own = {name: value for name in _PARAMETERS if (value := getattr(request, name)) is not None}
    if urls is None or not account.has_auth_token:
        _require(request.status_callback, refused_by_twilio)
        return StatusCallbacks(own)
    if request.application_sid:
        text = "Twilio ignores status callbacks when application_sid is given: this record follows the call by polling only"
        return StatusCallbacks(own, warnings=(FieldError("/application_sid", "polling_only", text),))
    ours = {
        "status_callback": urls.url_of(call_id, account.account_id) + CALLBACK_RETRIES,
        "status_callback_event": _ALL_EVENTS,
        "status_callback_method": "POST",
    }
    return StatusCallbacks(ours, _columns(request, account, judge))


def changed_callbacks(
    update: CallUpdate, call: Call, account: CallableAccount, *, urls: CallbackUrls | None, judge: UrlValidator
) -> StatusCallbacks:
    """The same for a change to a call: ours stays, or comes, where Twilio has it; the tenant's new one is ours to deliver.

    `columns` holds only what changes.
    """
    names = ("status_callback", "status_callback_method")
    own = {name: value for name in names if (value := getattr(update, name)) is not None}
    if not own or urls is None or not account.has_auth_token or "application_sid" in call.parameters:
        _require(update.status_callback, refused_by_twilio)
        return StatusCallbacks(own, {})
    if update.status_callback is None:
        return StatusCallbacks({}, {"status_callback_method": update.status_callback_method})
    _require(update.status_callback, judge)
    ours = {"status_callback": urls.url_of(call.id, call.account_id) + CALLBACK_RETRIES, "status_callback_method": "POST"}
    columns = {
        "status_callback": urldefrag(update.status_callback).url,
        "status_callback_method": update.status_callback_method or "POST",
        "status_callback_events": call.status_callback_events or ["completed"],
    }
    return StatusCallbacks(ours, columns)


def _require(url: str | None, judge: UrlValidator) -> None:
    if url and (refused := judge(url)):
        code, text = refused
        raise InvalidRequest(field_errors=(FieldError("/status_callback", code, text),))


def _columns(request: CallRequest, account: CallableAccount, judge: UrlValidator) -> dict[str, Any]:
    """A request that names no URL takes the tenant's default, with what it says itself of method and events."""
    named, default = request.status_callback, account.callbacks
    _require(named, judge)
    url = named or default.url
    if url is None:
        return dict.fromkeys(_COLUMNS)
    return {
        # The fragment is for Twilio's own retries.
        "status_callback": urldefrag(url).url,
        "status_callback_method": request.status_callback_method or (None if named else default.method) or "POST",
        "status_callback_events": request.status_callback_event or (None if named else default.events) or ["completed"],
    }
