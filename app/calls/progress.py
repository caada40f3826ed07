"""How a record follows Twilio's resource: forward only, whatever the order in which news arrives.

Twilio's resource is eventually consistent, so a later look may show an earlier state.
"""

from typing import Any

from app.calls.models import Call
from app.twilio.schemas import TERMINAL_STATUSES, CallResource

_RANK = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3}
_TERMINAL_RANK = 4
_CHANGES_WITH_STATUS = frozenset({"status", "duration", "start_time", "end_time", "price", "date_updated", "answered_by"})


def resource_columns(resource: CallResource) -> dict[str, Any]:
    """Twilio's resource as columns of `call`; `sid` apart, because it is bound once and never changed."""
    columns = {name: value for name, value in resource if name not in ("sid", "raw")}
    return columns | {"resource": resource.raw or None}


def take_resource(call: Call, resource: CallResource, *, late: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Bring the record up to date and return the events to be written. A status that Twilio has left never returns.

    `late`: known to be older than what the record shows.
    """
    stale = late or is_stale(call, resource)
    before = call.status, call.price
    for name, value in resource_columns(resource).items():
        known = getattr(call, name) is not None
        # What was once known is not unlearnt from an answer that lacks it; an old answer only fills in what never changes.
        if value is not None and not (stale and (known or name in _CHANGES_WITH_STATUS)):
            setattr(call, name, value)
    events: list[tuple[str, dict[str, Any]]] = []
    if call.status != before[0]:
        events.append(("call.status", {"status": call.status, "previous": before[0]}))
    if call.price != before[1]:
        events.append(("call.priced", {"price": f"{call.price:f}", "price_unit": call.price_unit}))
    return events


def is_complete(call: Call) -> bool:
    """Nothing more is to be learnt from Twilio."""
    return call.status in TERMINAL_STATUSES and call.price is not None


def is_stale(call: Call, resource: CallResource) -> bool:
    """Whether this shows a state that the call has left."""
    if call.status is None or resource.status is None:
        return False
    if call.status in TERMINAL_STATUSES:
        return call.status != resource.status
    return _rank(resource.status) < _rank(call.status)


def _rank(status: str) -> int:
    """A status that Twilio adds one day counts as progress."""
    return _TERMINAL_RANK if status in TERMINAL_STATUSES else _RANK.get(status, _RANK["in-progress"])
