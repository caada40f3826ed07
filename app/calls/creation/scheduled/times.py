"""Decides whether a call can be scheduled as requested, and when it is due. Does no I/O.

When a redial is due is decided by the function `callgate_redial` in Postgres, which revision 0038 of the migrations defines.
"""

from datetime import datetime, timedelta
from uuid import UUID

from app.calls.parameters import CallRequest
from app.errors import FieldError, InvalidRequest
from app.scheduling.hours import callee_time_zones, is_time_zone, next_time_within_hours
from app.scheduling.schedule import PRIORITIES, CallSchedule, effective_dial_window
from app.scheduling.store import QueueDialSettings


def make_schedule(request: CallRequest, queue: QueueDialSettings, caller_id: UUID, *, now: datetime) -> CallSchedule:
    """Returns the times between which the call may ring, and the values that decide its order among other calls.

    `caller_id` is the id of the API key or workload that requests the call. `now` is the time by Postgres's clock. Raises
    InvalidRequest for an unknown time zone, for impossible times, and if calling hours leave no time before `ring_by`.
    """
    if request.time_zone is not None and not is_time_zone(request.time_zone):
        text = "must be a zone of the IANA database, such as Europe/Berlin"
        raise InvalidRequest(field_errors=(FieldError("/time_zone", "unknown_time_zone", text),))
    ring_within = timedelta(seconds=queue.ring_within_s) if queue.ring_within_s else None
    not_before, ring_by = effective_dial_window(request.not_before, request.ring_by, now=now, ring_within=ring_within)
    due_at = not_before
    if queue.hours is not None:
        zones = callee_time_zones(request.to, request.time_zone, queue.hours)
        opening = next_time_within_hours(queue.hours, not_before, zones, ring_by)
        if opening is None:
            where = ", ".join(zones[:3])
            text = f"leaves no time within the hours: they are closed until `ring_by` in {where}; give a later `ring_by`"
            raise InvalidRequest(field_errors=(FieldError("/ring_by", "outside_hours", text),))
        due_at = opening
    return CallSchedule(
        queue_id=queue.id,
        caller_id=caller_id,
        priority=PRIORITIES.index(request.priority or "normal"),
        not_before=not_before,
        ring_by=ring_by,
        due_at=due_at,
        time_zone=request.time_zone,
        hours_json=queue.hours_json,
    )
