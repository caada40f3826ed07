"""The statement that lists started calls as Twilio would. Never commits; filtered by tenant and account."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.ids import first_id_at
from app.calls.models import Call
from app.twilio.schemas import MAX_CALL_TIME, MAX_QUEUE_TIME

# The tolerated difference between Postgres's clock, which dates intents, and Twilio's.
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` on, and before `until`."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class StartedFilter:
    """What a list of one account's started calls shows."""

    account_sid: str
    statuses: Collection[str] | None = None
    to: Collection[str] | None = None
    from_: Collection[str] | None = None
    parent_call_sid: str | None = None
    started: Span = Span()
    ended: Span = Span()


@dataclass(frozen=True, slots=True)
class Edge:
    """Between two pages: after this call, towards the older ones or the newer."""

    towards: Literal["older", "newer"]
    call_id: UUID


async def list_started_ids(
    session: AsyncSession, *, tenant_id: str, wanted: StartedFilter, edge: Edge | None, limit: int
) -> Sequence[UUID]:
    """Nearest to the edge first: newest first, or, towards newer ones, oldest first. Not those that were deleted at Twilio."""
    conditions: list[ColumnElement[bool]] = [
        Call.tenant_id == tenant_id,
        Call.account_sid == wanted.account_sid,
        Call.execution == "started",
        Call.deleted_at.is_(None),
        *_within(Call.start_time, wanted.started, longest_wait=MAX_QUEUE_TIME),
        *_within(Call.end_time, wanted.ended, longest_wait=MAX_QUEUE_TIME + MAX_CALL_TIME),
    ]
    if wanted.parent_call_sid is not None:
        conditions.append(Call.parent_call_sid == wanted.parent_call_sid)
    columns = {Call.to: wanted.to, Call.from_: wanted.from_, Call.status: wanted.statuses}
    conditions += [_one_of(column, values) for column, values in columns.items() if values is not None]
    newer = edge is not None and edge.towards == "newer"
    if edge is not None:
        conditions.append(Call.id > edge.call_id if newer else Call.id < edge.call_id)
    statement = select(Call.id).where(*conditions).order_by(Call.id if newer else Call.id.desc()).limit(limit)
    return (await session.scalars(statement)).all()


def _one_of(column: Any, values: Collection[str]) -> ColumnElement[bool]:
    """Equality where there is one value: an index then serves the order as well."""
    condition: ColumnElement[bool] = column == next(iter(values)) if len(values) == 1 else column.in_(values)
    return condition


def _within(column: Any, span: Span, *, longest_wait: timedelta) -> Iterator[ColumnElement[bool]]:
    """The span, and what it says of our ids, which carry the time of the intent: so the list's own index serves it.

    A call is dialled after its intent, and within the day for which Twilio keeps it queued.
    """
    if span.since is not None:
        yield column >= span.since
        yield Call.id >= first_id_at(span.since - longest_wait - _CLOCK_SKEW)
    if span.until is not None:
        yield column < span.until
        yield Call.id < first_id_at(span.until + _CLOCK_SKEW)
