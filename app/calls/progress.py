"""How a record follows Twilio's resource: forward only, whatever the order in which news arrives.

Twilio's resource is eventually consistent, so a later look may show an earlier state.
"""

from typing import Any

from app.calls.models import Call
from app.twilio.schemas import TERMINAL_STATUSES, CallResource

_RANK = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3}
_TERMINAL_RANK = 4


def resource_columns(resource: CallResource) -> dict[str, Any]:
    """Twilio's resource as columns of `call`; `sid` apart, because it is bound once and never changed."""
    return {**resource.model_dump(exclude={"sid"}), "resource": resource.raw}


def take_resource(call: Call, resource: CallResource) -> list[tuple[str, dict[str, Any]]]:
    """Bring the record up to date and return the events to be written. A status that Twilio has left never returns."""
    if _is_stale(call, resource):
        return []
    before = call.status, call.price
    for name, value in resource_columns(resource).items():
        # What was once known (a price, a duration) is not unlearnt from an answer that lacks it.
        if value is not None or getattr(call, name) is None:
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


def _is_stale(call: Call, resource: CallResource) -> bool:
    if call.status is None or resource.status is None:
        return False
    if call.status in TERMINAL_STATUSES:
        return call.status != resource.status
    return _rank(resource.status) < _rank(call.status)


def _rank(status: str) -> int:
    """A status that Twilio adds one day counts as progress."""
    return _TERMINAL_RANK if status in TERMINAL_STATUSES else _RANK.get(status, _RANK["in-progress"])
