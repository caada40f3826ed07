"""A record as Twilio's Call resource: the 26 documented fields and no other, dates RFC 2822, numbers as strings.

What Twilio said is told in its words; what the record knows better (by a callback, say) comes from the record.
"""

from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.twilio.subresources import SUBRESOURCES

API_VERSION = "2010-04-01"
FIELDS = (
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
ATTRIBUTES = ("resource", *("from_" if name == "from" else name for name in FIELDS))
"""Of a Call: what its resource is made of."""
_BELOW = tuple((one.key, one.segment) for one in SUBRESOURCES)
# A word of callbacks alone; the resource says `queued` until it rings.
_STATUS = {"initiated": "queued"}


def resource_of(call: Call | NewCall) -> dict[str, Any]:
    """Of a started call."""
    uri = f"/{API_VERSION}/Accounts/{call.account_sid}/Calls/{call.sid}"
    assumed = {
        "account_sid": call.account_sid,
        "api_version": API_VERSION,
        "from": call.from_,
        "subresource_uris": {key: f"{uri}/{segment}.json" for key, segment in _BELOW},
        "to": call.to,
        "uri": f"{uri}.json",
    }
    said = {name: value for name, value in (call.resource or {}).items() if value is not None}
    known = {name: _written(name, value) for name in FIELDS if (value := _column(call, name)) is not None}
    return dict.fromkeys(FIELDS) | assumed | {name: said[name] for name in FIELDS if name in said} | known


def _column(call: Call | NewCall, name: str) -> Any:
    """`to` and `from` are columns of what was asked for; Twilio may show them otherwise."""
    return None if name in ("to", "from") else getattr(call, name)


def _written(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return format_datetime(value.astimezone(UTC))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int):
        return str(value)
    return _STATUS.get(value, value) if name == "status" else value
