"""Every statement on calls and their events. Never commits; every read for a tenant is filtered by it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Text, TextClause, func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from uuid_utils.compat import uuid7

from app.calls.ids import first_id_at
from app.calls.models import ADDRESS, MAYBE_CALLED, Call, CallEvent
from app.twilio.schemas import TERMINAL_STATUSES

FOLLOWED_LIMIT = 10_000

# Twilio keeps a call queued for a day at most, and ends it after another; with an hour to spare.
_LONGEST_QUEUE = timedelta(hours=25)
_LONGEST_CALL = timedelta(hours=25)
# Between our clock, by which intents are dated, and Twilio's.
_CLOCKS_APART = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CallFilter:
    """What a list shows. Time bounds are on our ids: a UUIDv7 begins with its creation time."""

    status: str | None = None
    execution: str | None = None
    to: str | None = None
    from_: str | None = None
    since: UUID | None = None
    until: UUID | None = None
    before: UUID | None = None


@dataclass(frozen=True, slots=True)
class Followed:
    """Of the calls that the worker refreshes, the most overdue first; at most FOLLOWED_LIMIT are looked at."""

    most_overdue: datetime | None
    active: int
    unpriced: int


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
    to: str | None = None
    from_: str | None = None
    parent_call_sid: str | None = None
    started: Span = Span()
    ended: Span = Span()


@dataclass(frozen=True, slots=True)
class Edge:
    """Between two pages: after this call, towards the older ones or the newer."""

    towards: Literal["older", "newer"]
    call_id: UUID


async def reopen(session: AsyncSession, call: Call, intended: Call) -> Call | None:
    """Make a `not_started` call pending for another attempt; None when somebody else was quicker."""
    statement = (
        update(Call)
        .where(Call.id == call.id, Call.execution == "not_started", Call.attempt == call.attempt)
        .values(
            account_id=intended.account_id,
            account_sid=intended.account_sid,
            fingerprint=intended.fingerprint,
            parameters=intended.parameters,
            warnings=intended.warnings,
            to=intended.to,
            from_=intended.from_,
            traceparent=intended.traceparent,
            status_callback=intended.status_callback,
            status_callback_method=intended.status_callback_method,
            status_callback_events=intended.status_callback_events,
            execution="pending",
            pending_since=func.now(),
            attempt=Call.attempt + 1,
            problem=None,
            settled_by=None,
            settled_at=None,
            clean_searches=0,
        )
        .returning(Call)
    )
    return (await session.scalars(statement)).one_or_none()


async def now(session: AsyncSession) -> datetime:
    """Postgres's clock: the one by which all records are dated, whoever writes them."""
    moment: datetime = (await session.execute(select(func.now()))).scalar_one()
    return moment


async def get_call(session: AsyncSession, call_id: UUID, *, tenant_id: str) -> Call | None:
    statement = select(Call).where(Call.id == call_id, Call.tenant_id == tenant_id)
    return (await session.scalars(statement)).one_or_none()


async def get_any_call(session: AsyncSession, call_id: UUID) -> Call | None:
    """Whoever's it is: for the worker, which serves all tenants. Never for a caller."""
    return await session.get(Call, call_id)


async def get_any_calls(session: AsyncSession, call_ids: Collection[UUID]) -> dict[UUID, Call]:
    """Whoever's they are: for Twilio's callbacks, which know no tenant. Never for a caller."""
    found = await session.scalars(select(Call).where(Call.id.in_(call_ids)))
    return {call.id: call for call in found}


async def get_call_by_sid(session: AsyncSession, sid: str, *, tenant_id: str) -> Call | None:
    statement = select(Call).where(Call.sid == sid, Call.tenant_id == tenant_id)
    return (await session.scalars(statement)).one_or_none()


async def get_call_by_key(session: AsyncSession, idempotency_key: str, *, tenant_id: str) -> Call | None:
    statement = select(Call).where(Call.idempotency_key == idempotency_key, Call.tenant_id == tenant_id)
    return (await session.scalars(statement)).one_or_none()


async def list_calls(session: AsyncSession, *, tenant_id: str, wanted: CallFilter, limit: int) -> Sequence[Call]:
    """Newest first. A keyset page: its cost does not depend on how deep it lies."""
    columns = {
        Call.status: wanted.status,
        Call.execution: wanted.execution,
        Call.to: wanted.to,
        Call.from_: wanted.from_,
    }
    conditions = [column == value for column, value in columns.items() if value is not None]
    if wanted.since is not None:
        conditions.append(Call.id >= wanted.since)
    if wanted.until is not None:
        conditions.append(Call.id < wanted.until)
    if wanted.before is not None:
        conditions.append(Call.id < wanted.before)
    statement = select(Call).where(Call.tenant_id == tenant_id, *conditions).order_by(Call.id.desc()).limit(limit)
    return (await session.scalars(statement)).all()


async def list_started(
    session: AsyncSession, *, tenant_id: str, wanted: StartedFilter, edge: Edge | None, limit: int
) -> Sequence[Call]:
    """Nearest to the edge first: newest first, or, towards newer ones, oldest first. Not those that were deleted at Twilio."""
    conditions: list[ColumnElement[bool]] = [
        Call.tenant_id == tenant_id,
        Call.account_sid == wanted.account_sid,
        Call.execution == "started",
        Call.deleted_at.is_(None),
        *_within(Call.start_time, wanted.started, longest_wait=_LONGEST_QUEUE),
        *_within(Call.end_time, wanted.ended, longest_wait=_LONGEST_QUEUE + _LONGEST_CALL),
    ]
    columns = {Call.to: wanted.to, Call.from_: wanted.from_, Call.parent_call_sid: wanted.parent_call_sid}
    conditions += [column == value for column, value in columns.items() if value is not None]
    if wanted.statuses is not None:
        conditions.append(Call.status.in_(wanted.statuses))
    newer = edge is not None and edge.towards == "newer"
    if edge is not None:
        conditions.append(Call.id > edge.call_id if newer else Call.id < edge.call_id)
    statement = select(Call).where(*conditions).order_by(Call.id if newer else Call.id.desc()).limit(limit)
    return (await session.scalars(statement)).all()


def _within(column: Any, span: Span, *, longest_wait: timedelta) -> Iterator[ColumnElement[bool]]:
    """The span, and what it says of our ids, which carry the time of the intent: so the list's own index serves it.

    A call is dialled after its intent, and within the day for which Twilio keeps it queued.
    """
    if span.since is not None:
        yield column >= span.since
        yield Call.id >= first_id_at(span.since - longest_wait)
    if span.until is not None:
        yield column < span.until
        yield Call.id < first_id_at(span.until + _CLOCKS_APART)


async def add_event(session: AsyncSession, call_id: UUID, type_: str, data: dict[str, Any]) -> None:
    """`clock_timestamp()`, so that the events of one transaction keep their order."""
    await session.execute(
        insert(CallEvent).values(id=uuid7(), call_id=call_id, at=func.clock_timestamp(), type=type_, data=data)
    )


async def list_events(session: AsyncSession, call_id: UUID) -> Sequence[CallEvent]:
    statement = select(CallEvent).where(CallEvent.call_id == call_id).order_by(CallEvent.at, CallEvent.id)
    return (await session.scalars(statement)).all()


async def claim_abandoned(session: AsyncSession, *, older_than: timedelta, limit: int) -> Sequence[Call]:
    """Calls whose process died between the two commits; locked until the transaction ends."""
    statement = (
        select(Call)
        .where(Call.execution == "pending", Call.pending_since < func.now() - older_than)
        .order_by(Call.pending_since)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(statement)).all()


async def claim_refreshes(session: AsyncSession, *, lease: timedelta, limit: int) -> Sequence[Call]:
    """Calls that it is time to look at again."""
    return await _claim(session, Call.refresh_at, lease=lease, limit=limit)


async def claim_searches(session: AsyncSession, *, lease: timedelta, limit: int) -> Sequence[Call]:
    """Calls that it is time to search for."""
    return await _claim(session, Call.search_at, lease=lease, limit=limit)


async def _claim(
    session: AsyncSession, due_at: InstrumentedAttribute[datetime | None], *, lease: timedelta, limit: int
) -> Sequence[Call]:
    """Due calls, leased by moving their time forward: if the worker dies, they are due again when the lease ends."""
    due = select(Call.id).where(due_at <= func.now()).order_by(due_at).limit(limit).with_for_update(skip_locked=True).cte("due")
    statement = update(Call).where(Call.id.in_(select(due.c.id))).values({due_at: func.now() + lease}).returning(Call)
    return (await session.scalars(statement)).all()


async def oldest_unsettled(session: AsyncSession) -> dict[str, datetime | None]:
    """Since when the oldest pending and the oldest unknown call wait: one index entry each."""
    statement = select(
        *(
            select(func.min(Call.pending_since)).where(Call.execution == execution).scalar_subquery().label(execution)
            for execution in ("pending", "unknown")
        )
    )
    return dict((await session.execute(statement)).one()._mapping)


async def followed(session: AsyncSession) -> Followed:
    due = (
        select(Call.refresh_at, Call.status)
        .where(Call.refresh_at.is_not(None))
        .order_by(Call.refresh_at)
        .limit(FOLLOWED_LIMIT)
        .subquery()
    )
    ended = due.c.status.in_(TERMINAL_STATUSES)
    statement = select(func.min(due.c.refresh_at), func.count().filter(ended), func.count()).select_from(due)
    most_overdue, unpriced, all_ = (await session.execute(statement)).one()
    return Followed(most_overdue, all_ - unpriced, unpriced)


async def lock_call(session: AsyncSession, call_id: UUID) -> Call | None:
    """The row, locked until the transaction ends, for a change that depends on what it holds."""
    statement = select(Call).where(Call.id == call_id).with_for_update().execution_options(populate_existing=True)
    return (await session.scalars(statement)).one_or_none()


async def lock_calls(session: AsyncSession, call_ids: Collection[UUID]) -> dict[UUID, Call]:
    """As `lock_call`, in the one order in which all who lock several calls do it."""
    statement = (
        select(Call).where(Call.id.in_(call_ids)).order_by(Call.id).with_for_update().execution_options(populate_existing=True)
    )
    return {call.id: call for call in await session.scalars(statement)}


async def bound_sids(session: AsyncSession, sids: Collection[str]) -> set[str]:
    """Those of the sids that are some call's already, whoever's."""
    return set(await session.scalars(select(Call.sid).where(Call.sid.in_(sids))))


async def count_rivals(session: AsyncSession, call: Call, *, span: timedelta | None) -> int:
    """Other intents to which a call of this account to this address may belong: open ones, and those given up as none found.

    Of any tenant, for two may share an account. The address without its headers, for Twilio may not show those. `span` is how
    far apart in time; None: any time.
    """
    conditions: list[ColumnElement[bool] | TextClause] = [
        Call.account_sid == call.account_sid,
        literal_column(ADDRESS.text, Text) == call.to.partition("?")[0],
        Call.id != call.id,
        MAYBE_CALLED,
    ]
    if span is not None:
        conditions.append(Call.pending_since.between(call.pending_since - span, call.pending_since + span))
    return (await session.scalar(select(func.count()).where(*conditions))) or 0
