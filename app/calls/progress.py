"""Updates a call's record from Twilio's resource.

Twilio's resource is eventually consistent, so a later read may show an earlier state. The status in the record therefore never
changes back to an earlier one.
"""

from datetime import datetime
from typing import Any

from app.calls.store import AnyCall, NewEvent
from app.twilio.schemas import TERMINAL_STATUSES, CallResource

_RANK_BY_STATUS = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3}
_TERMINAL_RANK = 4
_ATTRIBUTES_CHANGED_WITH_STATUS = frozenset(
    {"status", "duration", "start_time", "end_time", "price", "date_updated", "answered_by"}
)


def resource_attributes(resource: CallResource) -> dict[str, Any]:
    """Returns Twilio's resource as attributes of a call's record. `sid` is left out, because it is set once and never changed.

    Set the attributes in the order of the result. The last one is `resource`, Twilio's whole answer. Its setter leaves out the
    values that the other attributes already have.
    """
    columns = {name: value for name, value in resource if name not in ("sid", "raw")}
    return columns | {"resource": resource.raw or None}


def apply_resource(call: AnyCall, resource: CallResource, *, is_outdated: bool = False) -> list[NewEvent]:
    """Updates the record from Twilio's resource, and returns the events to write. The status never changes to an earlier one.

    `is_outdated` says that the resource is older than the record. An older resource only fills in missing values that do not
    change during the call.
    """
    stale = is_outdated or is_resource_stale(call, resource)
    before = call.status, call.price
    for name, value in resource_attributes(resource).items():
        # A missing value never clears a known one; a stale resource only fills in columns that do not change.
        if value is None or (known := getattr(call, name)) == value:
            continue
        if not (stale and (name in _ATTRIBUTES_CHANGED_WITH_STATUS or known is not None)):
            setattr(call, name, value)
    events: list[NewEvent] = []
    if call.status not in (before[0], "queued"):  # each call begins as `queued`, so that is no progress
        events.append(("call.status", {"status": call.status, "previous": before[0]}))
    if call.price != before[1]:
        events.append(("call.priced", {"price": f"{call.price:f}", "price_unit": call.price_unit}))
    return events


def apply_deletion(call: AnyCall, *, by: str, now: datetime) -> list[NewEvent]:
    """Records that the call was deleted at Twilio, and ends the refreshes of its record. Returns the events to write.

    `by` names who deleted the call. If the deletion is already recorded, changes nothing and returns an empty list.
    """
    if call.deleted_at is not None:
        return []
    call.deleted_at, call.refresh_at = now, None
    return [("call.deleted", {"by": by})]


def has_ended_with_price(call: AnyCall) -> bool:
    """Returns whether the call has ended and has a price, so that it need not be read from Twilio again."""
    return call.status in TERMINAL_STATUSES and call.price is not None


def is_resource_stale(call: AnyCall, resource: CallResource) -> bool:
    """Returns whether the resource is older than the record, because its status is earlier than the status in the record.

    If the call has ended according to the record, every other status counts as earlier. Returns False if a status is missing.
    """
    if call.status is None or resource.status is None:
        return False
    if call.status in TERMINAL_STATUSES:
        return call.status != resource.status
    return _status_rank(resource.status) < _status_rank(call.status)


def _status_rank(status: str) -> int:
    """Returns the rank of a status in the order in which a call reaches its statuses. All terminal statuses rank last.

    A status that Callgate does not know has the rank of `in-progress`.
    """
    return _TERMINAL_RANK if status in TERMINAL_STATUSES else _RANK_BY_STATUS.get(status, _RANK_BY_STATUS["in-progress"])
