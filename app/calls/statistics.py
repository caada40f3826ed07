"""Counts calls and finds the oldest ones, over all tenants, for the metrics, `callgate secrets` and `callgate doctor`."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import LargeBinary, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.models import Call
from app.security.keyring import KEY_ID_SUBSTRING_IN_HASH
from app.twilio.schemas import TERMINAL_STATUSES

MAX_COUNTED_CALLS_TO_REFRESH = 10_000


@dataclass(frozen=True, slots=True)
class CallsToRefreshCounts:
    """The numbers of calls whose records the worker still refreshes from Twilio.

    `active` calls have not ended. `unpriced` calls have ended but have no price yet. `most_overdue` is the earliest refresh
    time, or None if no call is to be refreshed. Only the MAX_COUNTED_CALLS_TO_REFRESH calls with the earliest refresh times are
    counted.
    """

    most_overdue: datetime | None
    active: int
    unpriced: int


async def oldest_open_call_times(session: AsyncSession) -> dict[str, datetime | None]:
    """Returns when the oldest `pending` call and the oldest call with `execution` `unknown` began (`pending_since`).

    The keys of the result are `pending` and `unknown`. A value is None if there is no such call. Leaves out `unknown` calls
    that are no longer searched for, because they may stay `unknown` for ever. Reads only a few index entries.
    """
    oldest = select(func.min(Call.pending_since))
    statement = select(
        oldest.where(Call.execution == "pending").scalar_subquery().label("pending"),
        oldest.where(Call.execution == "unknown", Call.search_at.is_not(None)).scalar_subquery().label("unknown"),
    )
    return dict((await session.execute(statement)).one()._mapping)


async def count_calls_to_refresh(session: AsyncSession) -> CallsToRefreshCounts:
    """Counts the calls whose records the worker still refreshes from Twilio, up to MAX_COUNTED_CALLS_TO_REFRESH."""
    due = (
        select(Call.refresh_at, Call.status)
        .where(Call.refresh_at.is_not(None))
        .order_by(Call.refresh_at)
        .limit(MAX_COUNTED_CALLS_TO_REFRESH)
        .subquery()
    )
    ended = due.c.status.in_(TERMINAL_STATUSES)
    statement = select(func.min(due.c.refresh_at), func.count().filter(ended), func.count()).select_from(due)
    most_overdue, unpriced, all_ = (await session.execute(statement)).one()
    return CallsToRefreshCounts(most_overdue, all_ - unpriced, unpriced)


async def count_fingerprints_by_key_id(
    session: AsyncSession, *, after: UUID | None, limit: int
) -> tuple[dict[bytes, int], UUID | None]:
    """Counts the fingerprints (keyed hashes of requests) in a page of calls, by the id of the secret key that made the hash.

    The page has the `limit` calls that follow the id `after`. Only calls with an idempotency key are counted. Also returns the
    last id of the page, or None if the page is empty.
    """
    page = select(Call.id, Call.fingerprint, Call.idempotency_key).order_by(Call.id).limit(limit)
    page_of = (page if after is None else page.where(Call.id > after)).subquery()
    key_id = func.substring(page_of.c.fingerprint, *KEY_ID_SUBSTRING_IN_HASH, type_=LargeBinary)
    statement = select(
        key_id,
        func.count(page_of.c.idempotency_key),
        func.max(cast(page_of.c.id, Text)),  # Postgres 14 knows no max(uuid)
    ).group_by(key_id)
    found = (await session.execute(statement)).all()
    last = max((id_ for _, _, id_ in found), default=None)
    return {key: number for key, number, _ in found if number}, None if last is None else UUID(last)
