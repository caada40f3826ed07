"""Which deliveries a piece of news calls for. Pure: works on a `Call` that the caller has locked.

One delivery per call and event, however often and by whatever way the event becomes known. They are written in the
transaction that writes the event, so that neither is ever there without the other.
"""

from collections.abc import Mapping
from email.utils import format_datetime

from uuid_utils.compat import uuid7

from app.callbacks.models import Delivery
from app.callbacks.progress import Callback
from app.calls import ids
from app.calls.models import Call
from app.twilio.schemas import TERMINAL_STATUSES

# In the order in which they happen.
EVENTS = ("initiated", "ringing", "answered", "completed")
_EVENT_OF_STATUS = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"} | dict.fromkeys(
    TERMINAL_STATUSES, "completed"
)


def owed_for(call: Call, callback: Callback) -> Delivery | None:
    """What the tenant is to be told of this callback: Twilio's own fields."""
    event = _EVENT_OF_STATUS.get(callback.resource.status or "")
    if event is None or call.sid != callback.resource.sid:
        return None
    return _write(call, event, callback.fields, sequence=callback.sequence) if _is_owed(call, event) else None


def owes_the_end(call: Call) -> bool:
    """Whether the call has ended and the tenant, who asked for it, is not going to hear of it yet."""
    return call.status in TERMINAL_STATUSES and _is_owed(call, "completed")


def owed_for_the_end(call: Call) -> Delivery:
    """The end of a call of which no callback has told, in the words in which Twilio would have: as far as the record knows."""
    shown = call.resource or {}
    to, from_ = str(shown.get("to") or call.to), str(shown.get("from") or call.from_)
    known = {
        "CallSid": call.sid,
        "AccountSid": call.account_sid,
        "CallStatus": call.status,
        "ApiVersion": call.api_version,
        "Direction": call.direction,
        "From": from_,
        "Caller": from_,
        "To": to,
        "Called": to,
        "CallDuration": None if call.duration is None else str(call.duration),
        "Timestamp": None if call.end_time is None else format_datetime(call.end_time),
        "CallbackSource": "call-progress-events",
    }
    fields = {name: value for name, value in known.items() if value is not None}
    return _write(call, "completed", fields, sequence=None)


def _is_owed(call: Call, event: str) -> bool:
    return event in (call.status_callback_events or ()) and event not in call.deliveries_written


def _write(call: Call, event: str, fields: Mapping[str, str], *, sequence: int | None) -> Delivery:
    call.deliveries_written = [*call.deliveries_written, event]
    delivery_id = uuid7()
    return Delivery(
        id=delivery_id,
        at=ids.created_at(delivery_id),
        call_id=call.id,
        tenant_id=call.tenant_id,
        event=event,
        position=EVENTS.index(event),
        sequence=sequence,
        webhook_id=f"msg_{call.id.hex}_{event}",
        url=call.status_callback,
        method=call.status_callback_method,
        fields=dict(fields),
    )
