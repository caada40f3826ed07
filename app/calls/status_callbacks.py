"""Decides who sends a call's status callbacks to the tenant: Callgate, or Twilio itself. Does no I/O."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urldefrag
from uuid import UUID

from app.calls.callback_urls import CallbackUrls
from app.calls.models import Call
from app.calls.outbox import SETTLED_EVENT
from app.calls.parameter_types import validate_url_for_twilio
from app.calls.parameters import CallRequest, CallUpdate
from app.errors import FieldError, InvalidRequest
from app.tenants.callback_settings import TWILIO_EVENTS
from app.tenants.directory import UsableAccount

# Asks Twilio to repeat a callback up to three times after a 5xx or a timeout. By default Twilio repeats it once, and only if it
# cannot connect.
# https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
CALLBACK_RETRY_FRAGMENT = "#rc=3&rp=5xx,ct,rt"
CALLBACK_COLUMNS = ("status_callback", "status_callback_method", "status_callback_events")
_CALLBACK_PARAMETERS = ("status_callback", "status_callback_event", "status_callback_method")

UrlValidator = Callable[[str], tuple[str, str] | None]
"""A function that returns an error code and a text if the URL may not be called, otherwise None."""


@dataclass(frozen=True, slots=True)
class StatusCallbackSettings:
    """The callback parameters that Twilio gets for a call, and the columns of the record that say what Callgate delivers.

    `parameters_for_twilio` replaces the callback parameters of the request. A parameter whose value is None is not sent. The
    client gets the `warnings`.
    """

    parameters_for_twilio: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(CALLBACK_COLUMNS))
    warnings: tuple[FieldError, ...] = ()
    sent_to_callgate: bool = False
    """Whether Twilio sends the callbacks to Callgate."""


def status_callbacks_for_creation(
    request: CallRequest, account: UsableAccount, call_id: UUID, *, urls: CallbackUrls | None, validate_url: UrlValidator
) -> StatusCallbackSettings:
    """Returns the callback parameters of a new call. Where possible, Twilio sends the callbacks to Callgate.

    Callgate then delivers the events to the request's URL or, without one, to the tenant's default URL. The callbacks also
    reveal a call if Twilio's response to the creation was lost.

    In three cases Twilio gets the request's own parameters: Callgate has no public URL, so no callback would arrive; the
    account has no auth token, so no callback could be verified; or the request has an application_sid, and Twilio ignores the
    parameters. In all cases Callgate itself delivers the event `settled`, which Twilio does not know.

    Raises InvalidRequest if the request's URL is not allowed for the server that would call it: Callgate or Twilio.
    """
    if urls is None or not account.has_auth_token:
        own = _parameters_for_twilio(request)
        _require_valid_url(own.get("status_callback"), validate_url_for_twilio)
        return StatusCallbackSettings(own, _callback_columns_for_settled(request, account, validate_url))
    if request.application_sid:
        text = "Twilio ignores status callbacks when application_sid is given: this record follows the call by polling only"
        warnings = (FieldError("/application_sid", "polling_only", text),)
        columns = _callback_columns_for_settled(request, account, validate_url)
        return StatusCallbackSettings(_parameters_for_twilio(request), columns, warnings)
    for_twilio = {
        "status_callback": urls.callback_url_of_call(call_id, account.account_id) + CALLBACK_RETRY_FRAGMENT,
        "status_callback_event": list(TWILIO_EVENTS),
        "status_callback_method": "POST",
    }
    return StatusCallbackSettings(for_twilio, _callback_columns(request, account, validate_url), sent_to_callgate=True)


def changed_callback_columns(
    recorded: Mapping[str, Any], callbacks: StatusCallbackSettings, *, events_with_delivery: Collection[str]
) -> dict[str, Any]:
    """Returns the callback columns that change when a scheduled call is dialled with the settings `callbacks`.

    The result maps columns to new values. It is empty unless the settings of Callgate or of the tenant have changed, since the
    call was scheduled, in one of two ways:

    - Status callbacks are now sent by Callgate instead of Twilio or the other way round, because Callgate's public URL or the
      account's auth token was added or removed.
    - Callgate was to deliver none of Twilio's events, but the tenant's default events now include some.

    Other differences do not count, because an update or a redial may have set the columns. `recorded` has the columns of the
    call's record. `events_with_delivery` names the events for which a delivery was written.
    """
    if _has_twilio_events(recorded["status_callback_events"]):
        has_sender_changed = not callbacks.sent_to_callgate
    else:
        # Callgate may also have been the sender, if the tenant had no such default events then. Its present defaults apply.
        has_sender_changed = _has_twilio_events(callbacks.columns["status_callback_events"])
    if not has_sender_changed:
        return {}
    columns = callback_columns_for_new_attempt(recorded, callbacks.columns, events_with_delivery=events_with_delivery)
    return {name: value for name, value in columns.items() if recorded[name] != value}


def callback_columns_for_new_attempt(
    recorded: Mapping[str, Any], columns: dict[str, Any], *, events_with_delivery: Collection[str]
) -> dict[str, Any]:
    """Returns the callback columns of a call that is dialled again: `columns`, unless the event `settled` has a delivery.

    `settled` reports whether the call was started. If it has a delivery, the event `corrected` may have to follow. The result
    is then `columns` with the event `settled` added, and with the recorded URL if `columns` has no URL. `recorded` has the
    columns of the call's record. `events_with_delivery` names the events that have a delivery.
    """
    target = columns if columns["status_callback"] else recorded
    if SETTLED_EVENT not in events_with_delivery or target["status_callback"] is None:
        return columns
    events = columns["status_callback_events"] or []
    return {
        "status_callback": target["status_callback"],
        "status_callback_method": target["status_callback_method"],
        "status_callback_events": events if SETTLED_EVENT in events else [SETTLED_EVENT, *events],
    }


def status_callbacks_for_update(
    update: CallUpdate, call: Call, account: UsableAccount, *, urls: CallbackUrls | None, validate_url: UrlValidator
) -> StatusCallbackSettings:
    """Returns the callback parameters of an update. `columns` in the result has only the columns that change.

    If Twilio sends the callbacks to Callgate, Twilio keeps Callgate's URL, and Callgate delivers to the update's URL. If Twilio
    sends the callbacks directly to the tenant, Twilio gets the update's own parameters.
    """
    names = ("status_callback", "status_callback_method")
    own = {name: value for name in names if (value := getattr(update, name)) is not None}
    if not own or urls is None or not account.has_auth_token or "application_sid" in call.parameters:
        _require_valid_url(update.status_callback, validate_url_for_twilio)
        return StatusCallbackSettings(own, {})
    if update.status_callback is None:
        return StatusCallbackSettings({}, {"status_callback_method": update.status_callback_method})
    _require_valid_url(update.status_callback, validate_url)
    for_twilio = {
        "status_callback": urls.callback_url_of_call(call.id, call.account_id) + CALLBACK_RETRY_FRAGMENT,
        "status_callback_method": "POST",
    }
    columns = {
        "status_callback": urldefrag(update.status_callback).url,
        "status_callback_method": update.status_callback_method or "POST",
        "status_callback_events": _events_for_new_url(call),
    }
    return StatusCallbackSettings(for_twilio, columns)


def _events_for_new_url(call: Call) -> list[str]:
    """Returns the events that Callgate delivers to the URL of an update.

    These are the events that the creation named. If the creation named none, they are the recorded events. If no recorded event
    is one of Twilio's, for example because Twilio sent the callbacks directly to the tenant, `completed` is added.
    """
    if named := call.parameters.get("status_callback_event"):
        return list(named)
    events = call.status_callback_events or []
    return list(events) if _has_twilio_events(events) else [*events, "completed"]


def _has_twilio_events(events: Collection[str] | None) -> bool:
    """Returns whether an event in `events` is one that Twilio reports. `settled` is not: it is Callgate's own event."""
    return any(event in TWILIO_EVENTS for event in events or ())


def _parameters_for_twilio(request: CallRequest) -> dict[str, Any]:
    """Returns the request's callback parameters without the event `settled`, which Twilio does not know.

    If the request has no event other than `settled`, all parameters are None, so that Twilio sends no callbacks.
    """
    own = {name: value for name in _CALLBACK_PARAMETERS if (value := getattr(request, name)) is not None}
    events = own.get("status_callback_event", ())
    if SETTLED_EVENT not in events:
        return own
    others = [event for event in events if event != SETTLED_EVENT]
    # Without events, Twilio would send `completed`.
    return own | {"status_callback_event": others} if others else dict.fromkeys(own)


def _callback_columns_for_settled(request: CallRequest, account: UsableAccount, validate_url: UrlValidator) -> dict[str, Any]:
    """Returns the callback columns of a call for which Callgate delivers only the event `settled`.

    All columns are None if `settled` was not requested. If neither the request nor the tenant has a URL, no event is delivered.
    """
    if SETTLED_EVENT not in (_requested_events(request, account) or ()):
        return dict.fromkeys(CALLBACK_COLUMNS)
    columns = _callback_columns(request, account, validate_url)
    return columns | {"status_callback_events": [SETTLED_EVENT] if columns["status_callback"] else None}


def _requested_events(request: CallRequest, account: UsableAccount) -> list[str] | None:
    """Returns the events of the request, or the tenant's default events if the request names neither events nor a URL.

    Returns None if there are no events.
    """
    events = request.status_callback_event or (None if request.status_callback else account.callbacks.events)
    return list(events) if events else None


def _require_valid_url(url: str | None, validate_url: UrlValidator) -> None:
    """Raises InvalidRequest if `validate_url` refuses the URL. None is valid."""
    if url and (refused := validate_url(url)):
        code, text = refused
        raise InvalidRequest(field_errors=(FieldError("/status_callback", code, text),))


def _callback_columns(request: CallRequest, account: UsableAccount, validate_url: UrlValidator) -> dict[str, Any]:
    """Returns the columns with the URL, the method and the events of the deliveries. All are None if there is no URL.

    A value that the request lacks comes from the tenant's defaults. But if the request has its own URL, the defaults are POST
    and `completed`. Raises InvalidRequest if the request's URL is not allowed.
    """
    named, default = request.status_callback, account.callbacks
    _require_valid_url(named, validate_url)
    url = named or default.url
    if url is None:
        return dict.fromkeys(CALLBACK_COLUMNS)
    return {
        # The fragment is only for Twilio, whose retries it sets.
        "status_callback": urldefrag(url).url,
        "status_callback_method": request.status_callback_method or (None if named else default.method) or "POST",
        "status_callback_events": _requested_events(request, account) or ["completed"],
    }
