"""The times, the priority and the queue of a scheduled call. No I/O.

The SQL function `callgate_redial` (revision 0038 of the migrations) schedules redials; it does not use this module.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args
from uuid import UUID

from typing_extensions import TypeAliasType

from app.errors import FieldError, InvalidRequest

PriorityName = Literal["urgent", "normal", "bulk"]
Priority = TypeAliasType("Priority", PriorityName)
PRIORITIES: Final[tuple[PriorityName, ...]] = get_args(PriorityName)
"""The priorities of scheduled calls. The first one is dialled first. Tables store a priority as its index in this tuple."""

DEFAULT_RING_WITHIN = timedelta(minutes=15)
MAX_RING_BY_AHEAD = timedelta(days=7)
MAX_REDIAL_PAUSE = timedelta(days=1)
"""The longest pause between the end of a call and the `not_before` of its redial."""
MAX_DIAL_DELAY = MAX_REDIAL_PAUSE + MAX_RING_BY_AHEAD
"""The longest time between the creation of a scheduled call's record and its dial. Only a redial can wait as long."""


@dataclass(frozen=True, slots=True)
class CallSchedule:
    """The columns of `scheduled_dial` (the table of waiting calls) that follow from a request: queue, priority, times."""

    queue_id: UUID
    caller_id: UUID
    priority: int
    not_before: datetime
    ring_by: datetime
    due_at: datetime
    """The first time, not before `not_before`, at which the hours of the queue or tenant allow the call to ring."""
    time_zone: str | None
    hours_json: str | None = None
    """The JSON of the calling hours that decided `due_at`; None: there are none. Not a column.

    If other hours are stored when the row is inserted, the call is due at `not_before`. A worker then applies the new hours.
    """

    def scheduled_dial_columns(self) -> dict[str, Any]:
        # `asdict` would copy each value.
        return {name: getattr(self, name) for name in self.__slots__ if name != "hours_json"}

    def call_record_members(self, queue: str | None) -> dict[str, Any]:
        """Returns the JSON members of the call's record that describe its schedule, with defaults filled in.

        These are the times (RFC 3339) and the priority, and also the queue and the time zone if the call has them. `queue` is
        the name of the queue.
        """
        members = {
            "not_before": _format_rfc_3339(self.not_before),
            "ring_by": _format_rfc_3339(self.ring_by),
            "priority": PRIORITIES[self.priority],
            "queue": queue,
            "time_zone": self.time_zone,
        }
        return {name: value for name, value in members.items() if value is not None}


def _format_rfc_3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def effective_dial_window(
    not_before: datetime | None, ring_by: datetime | None, *, now: datetime, ring_within: timedelta | None
) -> tuple[datetime, datetime]:
    """Returns the `not_before` and `ring_by` of a call, with defaults for None. A `not_before` in the past becomes `now`.

    The default of `ring_by` is `ring_within` (the queue's setting; None: 15 minutes) after `not_before`. Raises InvalidRequest
    if `ring_by` is not after both `now` and `not_before`, or is more than 7 days ahead.
    """
    begin = max(now, not_before or now)
    # Adding to the latest possible `not_before` would overflow.
    end = ring_by or min(begin, now + MAX_RING_BY_AHEAD) + (ring_within or DEFAULT_RING_WITHIN)
    errors = []
    if end - now > MAX_RING_BY_AHEAD:
        pointer = "/ring_by" if ring_by else "/not_before"
        ahead = f"at most {MAX_RING_BY_AHEAD.days} days ahead"
        detail = f"must be {ahead}" if ring_by else f"must be early enough for a `ring_by` {ahead}"
        errors.append(FieldError(pointer, "too_far_ahead", detail))
    if end <= now:
        errors.append(FieldError("/ring_by", "in_the_past", "must be in the future"))
    elif ring_by and end <= begin:
        errors.append(FieldError("/ring_by", "before_not_before", "must be later than `not_before`"))
    if errors:
        raise InvalidRequest(field_errors=tuple(errors))
    return begin, end
