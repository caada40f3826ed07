"""Selects the ids of started calls for lists like Twilio's call list, by tenant and account. Never commits."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.ids import lowest_call_id_at
from app.calls.models import Call
from app.scheduling.schedule import MAX_DIAL_DELAY
from app.twilio.schemas import MAX_CALL_TIME, MAX_QUEUE_TIME

# The largest expected difference between Twilio's clock and Postgres's clock, whose time is in the ids of calls. A large value
# does no harm: it only widens the range of ids that is read, and the exact times are compared too.
_MAX_CLOCK_SKEW = timedelta(hours=1)
# The longest time between the creation of a record, which is in its id, and the start of the call: Callgate dials a scheduled
# call later, and Twilio queues it. (A call that is tried again under its idempotency key keeps its id: see ADR 15.)
_MAX_START_DELAY = MAX_DIAL_DELAY + MAX_QUEUE_TIME


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open range of time: `since` is included, `until` is not. None means no limit."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class StartedCallFilter:
    """The filters of a list of one account's started calls. A filter that is None is not applied."""

    account_sid: str
    statuses: Collection[str] | None = None
    to: Collection[str] | None = None
    from_: Collection[str] | None = None
    parent_call_sid: str | None = None
    started: TimeRange = TimeRange()
    ended: TimeRange = TimeRange()


@dataclass(frozen=True, slots=True)
class PageCursor:
    """A position in a list of calls: the page begins next to the call `call_id` and continues with older or newer calls."""

    direction: Literal["older", "newer"]
    call_id: UUID


async def list_started_call_ids(
    session: AsyncSession, *, tenant_id: str, filters: StartedCallFilter, cursor: PageCursor | None, limit: int
) -> Sequence[UUID]:
    """Returns up to `limit` ids of started calls. Leaves out calls that were deleted at Twilio.

    Without a cursor, begins with the newest call. With a cursor, begins with the call next to `cursor.call_id`, and continues
    with older or newer calls, as `cursor.direction` says.
    """
    conditions: list[ColumnElement[bool]] = [
        Call.tenant_id == tenant_id,
        Call.account_sid == filters.account_sid,
        Call.execution == "started",
        Call.deleted_at.is_(None),
        *_time_range_conditions(Call.start_time, filters.started, max_delay=_MAX_START_DELAY),
        *_time_range_conditions(Call.end_time, filters.ended, max_delay=_MAX_START_DELAY + MAX_CALL_TIME),
    ]
    if filters.parent_call_sid is not None:
        conditions.append(Call.parent_call_sid == filters.parent_call_sid)
    columns = {Call.to: filters.to, Call.from_: filters.from_, Call.status: filters.statuses}
    conditions += [_matches_any(column, values) for column, values in columns.items() if values is not None]
    newer = cursor is not None and cursor.direction == "newer"
    if cursor is not None:
        conditions.append(Call.id > cursor.call_id if newer else Call.id < cursor.call_id)
    statement = select(Call.id).where(*conditions).order_by(Call.id if newer else Call.id.desc()).limit(limit)
    return (await session.scalars(statement)).all()


def _matches_any(column: Any, values: Collection[str]) -> ColumnElement[bool]:
    """Returns `column IN (…)`. For a single value returns `column = value`, so that Postgres can use the order of an index."""
    condition: ColumnElement[bool] = column == next(iter(values)) if len(values) == 1 else column.in_(values)
    return condition


def _time_range_conditions(column: Any, span: TimeRange, *, max_delay: timedelta) -> Iterator[ColumnElement[bool]]:
    """Yields conditions that limit the column to `span`, and conditions on the id, because the id has an index.

    An id contains the time at which the call's record was created. `max_delay` is the longest time between that time and the
    time in the column.
    """
    if span.since is not None:
        yield column >= span.since
        yield Call.id >= lowest_call_id_at(span.since - max_delay - _MAX_CLOCK_SKEW)
    if span.until is not None:
        yield column < span.until
        yield Call.id < lowest_call_id_at(span.until + _MAX_CLOCK_SKEW)
