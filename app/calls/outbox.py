"""Decides which deliveries (status callbacks to the tenant) a change of a call needs. Does not write them.

Each event of a call has at most one delivery, even if Twilio reports the event several times. Write a delivery in the same
transaction as its event, so that neither exists without the other.
"""

from collections.abc import Collection, Mapping
from email.utils import format_datetime
from typing import Any, Final, Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls import ids
from app.calls.store import AnyCall
from app.twilio.schemas import TERMINAL_STATUSES

NewDelivery = dict[str, Any]
"""A delivery to insert: maps column names of the table `delivery` to values."""

SETTLED_EVENT: Final = "settled"
CORRECTED_EVENT: Final = "corrected"
# The events in the order in which they happen. Deliveries store these numbers.
_POSITION_OF_EVENT = {SETTLED_EVENT: -2, CORRECTED_EVENT: -1, "initiated": 0, "ringing": 1, "answered": 2, "completed": 3}
_EVENT_OF_STATUS = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"} | dict.fromkeys(
    TERMINAL_STATUSES, "completed"
)


class CallForDelivery(Protocol):
    """A call's record, such as `Call` or `NewCall`, with the attributes that `delivery_for_outcome` reads."""

    @property
    def id(self) -> UUID: ...
    @property
    def tenant_id(self) -> str: ...
    @property
    def account_sid(self) -> str: ...
    @property
    def to(self) -> str: ...
    @property
    def from_(self) -> str: ...
    @property
    def status_callback_events(self) -> list[str] | None: ...


def delivery_for_outcome(
    call: CallForDelivery, settlement: Mapping[str, Any], *, events_with_delivery: Collection[str] = ()
) -> NewDelivery | None:
    """Returns the delivery (a status callback) with the outcome of a creation. Returns None if no delivery is needed.

    The delivery says whether the call was started. No delivery is needed if it is not certain yet whether the call was started,
    if the tenant has not requested the event `settled`, or if an earlier delivery has reported the same outcome. The event is
    `settled`. It is `corrected` if an earlier `settled` reported `not_started`, but the call has started after all.

    `settlement` has the columns that record the outcome. `events_with_delivery` names the events that already have a delivery.
    The caller must add the event of the returned delivery to the call's `deliveries_written`.
    """
    execution = settlement["execution"]
    if SETTLED_EVENT not in (call.status_callback_events or ()) or execution not in ("started", "not_started"):
        return None
    event = SETTLED_EVENT
    if SETTLED_EVENT in events_with_delivery:
        if execution != "started" or CORRECTED_EVENT in events_with_delivery:
            return None
        event = CORRECTED_EVENT
    candidates = {
        "CallSid": settlement.get("sid"),
        "AccountSid": call.account_sid,
        "From": call.from_,
        "To": call.to,
        "CallgateEvent": event,
        "CallgateCallId": str(call.id),
        "CallgateExecution": execution,
        "CallgateSettledBy": settlement["settled_by"],
        "CallgateProblem": (settlement.get("problem") or {}).get("slug"),
    }
    delivery = _new_delivery(call, event, _without_none(candidates), sequence=None)
    delivery["fields"]["Timestamp"] = format_datetime(delivery["at"])
    return delivery


def delivery_for_status(call: AnyCall, *, status: str | None, sequence: int | None) -> NewDelivery | None:
    """Returns the delivery (a status callback to the tenant) that passes on Twilio's callback with this status.

    Returns None if the tenant did not request the status's event (such as `answered`), or if this event already has a
    delivery. Otherwise adds the event to the call's `deliveries_written`. `sequence` is Twilio's SequenceNumber. The column
    `fields` of the delivery is None: its fields are read from the event `call.callback`, which must have the delivery's id.
    """
    event = _EVENT_OF_STATUS.get(status or "")
    return (
        _mark_and_make_delivery(call, event, None, sequence=sequence)
        if event is not None and _needs_delivery(call, event)
        else None
    )


def needs_final_delivery(call: AnyCall) -> bool:
    """Returns whether the call has ended, but the status callback `completed` that the tenant requested is not written yet."""
    return call.status in TERMINAL_STATUSES and _needs_delivery(call, "completed")


def final_delivery(call: AnyCall) -> NewDelivery:
    """Returns the status callback `completed` to the tenant, for a call whose last callback from Twilio did not arrive.

    Adds the event to the call's `deliveries_written`. The fields are filled from the call's record. Fields for which the record
    has no value are left out.
    """
    resource = call.resource or {}
    to, from_ = str(resource.get("to") or call.to), str(resource.get("from") or call.from_)
    candidates = {
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
    return _mark_and_make_delivery(call, "completed", _without_none(candidates), sequence=None)


def _needs_delivery(call: AnyCall, event: str) -> bool:
    return event in (call.status_callback_events or ()) and event not in call.deliveries_written


def _mark_and_make_delivery(call: AnyCall, event: str, fields: dict[str, str] | None, *, sequence: int | None) -> NewDelivery:
    """Adds the event to the call's `deliveries_written`, in memory. Returns the delivery's columns for the caller to insert."""
    call.deliveries_written = [*call.deliveries_written, event]
    return _new_delivery(call, event, fields, sequence=sequence)


def _new_delivery(call: CallForDelivery, event: str, fields: dict[str, str] | None, *, sequence: int | None) -> NewDelivery:
    delivery_id = uuid7()
    return {
        "id": delivery_id,
        "at": ids.creation_time_of_id(delivery_id),
        "call_id": call.id,
        "tenant_id": call.tenant_id,
        "event": event,
        "position": _POSITION_OF_EVENT[event],
        "sequence": sequence,
        "fields": fields,
    }


def _without_none(fields: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}
