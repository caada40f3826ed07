"""Renders calls as Twilio's Call resource: its 26 documented keys, and `annotation`, which real answers have too.

Dates are RFC 2822, numbers are strings, prices are negative decimals with five places.
"""

import json
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

from simulator.destination import formatted_address
from simulator.display_rules import DisplayRules
from simulator.lifecycle import CallProgress, Status
from simulator.store import Call

API_VERSION = "2010-04-01"
MILLISECOND = timedelta(milliseconds=1)
SUBRESOURCE_SEGMENTS = {
    "events": "Events",
    "notifications": "Notifications",
    "payments": "Payments",
    "recordings": "Recordings",
    "siprec": "Siprec",
    "streams": "Streams",
    "transcriptions": "Transcriptions",
    "user_defined_message_subscriptions": "UserDefinedMessageSubscriptions",
    "user_defined_messages": "UserDefinedMessages",
}


def call_resource_at_creation(call: Call) -> dict[str, Any]:
    """Returns the JSON that answers the creation of a call. Nearly all values are null, even `date_created`."""
    path = f"/{API_VERSION}/Accounts/{call.account_sid}/Calls/{call.sid}"
    parameters = call.parameters
    return {
        "account_sid": call.account_sid,
        "annotation": None,
        "answered_by": None,
        "api_version": API_VERSION,
        "caller_name": None,
        "date_created": None,
        "date_updated": None,
        "direction": "outbound-api",
        "duration": None,
        "end_time": None,
        "forwarded_from": None,
        "from": parameters.from_,
        "from_formatted": formatted_address(parameters.from_),
        "group_sid": None,
        "parent_call_sid": None,
        "phone_number_sid": None,
        "price": None,
        "price_unit": "USD",
        "queue_time": str(call.plan.queue_time // MILLISECOND),
        "sid": call.sid,
        "start_time": None,
        "status": Status.QUEUED,
        "subresource_uris": {key: f"{path}/{name}.json" for key, name in SUBRESOURCE_SEGMENTS.items()},
        "to": parameters.to,
        "to_formatted": formatted_address(parameters.to),
        "trunk_sid": None,
        "uri": f"{path}.json",
    }


def current_call_resource(call: Call, progress: CallProgress) -> dict[str, Any]:
    """Returns the resource of a call as later requests show it, before the display rules change addresses and dates.

    Once the call is dialled, `caller_name` and `trunk_sid` are "" instead of null.
    """
    resource = call_resource_at_creation(call) | {
        "status": progress.status,
        "date_created": format_rfc2822(call.plan.created_at),
        "date_updated": format_rfc2822(progress.updated_at),
        "start_time": format_rfc2822(progress.start_time),
        "end_time": format_rfc2822(progress.end_time),
        "duration": None if progress.duration_s is None else str(progress.duration_s),
        "price": None if progress.price is None else f"{progress.price:.5f}",
    }
    if progress.start_time is not None:
        resource |= {"caller_name": "", "trunk_sid": ""}
    if progress.status in (Status.IN_PROGRESS, Status.COMPLETED):
        resource["answered_by"] = call.parameters.answered_by
    return resource


def render_call_resource(call: Call, now: datetime, rules: DisplayRules) -> bytes:
    """Returns the JSON of a call as fetches, updates and lists show it. The display rules change its addresses and dates."""
    stage = call.stage_at(now)
    if stage.rendered is None or stage.rendered[0] is not rules:
        resource = rules.apply_to_resource(current_call_resource(call, stage.progress))
        stage.rendered = rules, json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode()
    return stage.rendered[1]


def format_rfc2822(moment: datetime | None) -> str | None:
    return None if moment is None else format_datetime(moment)
