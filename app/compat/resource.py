"""Renders a call's record as Twilio's Call resource: the documented fields and no others.

Dates are in RFC 2822, and numbers are strings. If the record has a value for a field, this value takes precedence over that of
Twilio's last answer, because it may be newer, for example from a callback. The fields `to` and `from` come from the answer.
"""

from typing import Any

from app.calls.creation.store import NewCall
from app.calls.last_answer import CallRow, as_twilio_json
from app.calls.models import Call
from app.setting_values import TWILIO_API_VERSION
from app.twilio.call_uris import call_uri, subresource_uris

RESOURCE_FIELDS = (
    "account_sid",
    "answered_by",
    "api_version",
    "caller_name",
    "date_created",
    "date_updated",
    "direction",
    "duration",
    "end_time",
    "forwarded_from",
    "from",
    "from_formatted",
    "group_sid",
    "parent_call_sid",
    "phone_number_sid",
    "price",
    "price_unit",
    "queue_time",
    "sid",
    "start_time",
    "status",
    "subresource_uris",
    "to",
    "to_formatted",
    "trunk_sid",
    "uri",
)
RECORD_ATTRIBUTES = ("resource", *("from_" if name == "from" else name for name in RESOURCE_FIELDS))
"""The attributes of a Call that `twilio_resource_of` reads."""
# Only callbacks have the status `initiated`; the resource shows `queued` until the phone rings.
_RESOURCE_STATUSES = {"initiated": "queued"}


def twilio_resource_of(call: Call | NewCall | CallRow) -> dict[str, Any]:
    """Returns the Call resource of a started call as a JSON object. A field without a value is None."""
    sid = call.sid or ""
    defaults = {
        "account_sid": call.account_sid,
        "api_version": TWILIO_API_VERSION,
        "from": call.from_,
        "subresource_uris": subresource_uris(call.account_sid, sid),
        "to": call.to,
        "uri": call_uri(call.account_sid, sid),
    }
    from_twilio = {name: value for name, value in (call.resource or {}).items() if value is not None}
    from_record = {
        name: _as_twilio_value(name, value) for name in RESOURCE_FIELDS if (value := _record_value(call, name)) is not None
    }
    return (
        dict.fromkeys(RESOURCE_FIELDS)
        | defaults
        | {name: from_twilio[name] for name in RESOURCE_FIELDS if name in from_twilio}
        | from_record
    )


def _record_value(call: Call | NewCall | CallRow, name: str) -> Any:
    """Returns the value that the call's record has for a field of the resource; None for `to` and `from`.

    The resource takes `to` and `from` from Twilio's answer, which has them in normalized form, and otherwise from the record.
    """
    return None if name in ("to", "from") else getattr(call, name)


def _as_twilio_value(name: str, value: Any) -> Any:
    return _RESOURCE_STATUSES.get(value, value) if name == "status" else as_twilio_json(value)
