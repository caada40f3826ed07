"""Counts and times over the calls of all tenants, for gauges, `callgate secrets` and `callgate doctor`. Only reads."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import LargeBinary, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.models import Call
from app.security.keyring import HASHED_KEY_ID_POSITION
from app.twilio.schemas import TERMINAL_STATUSES

MAX_FOLLOWED_CALLS = 10_000


@dataclass(frozen=True, slots=True)
class FollowedCalls:
    """Counts of the calls that the worker refreshes: `active` have not ended, `unpriced` have ended without a price.

    At most MAX_FOLLOWED_CALLS calls are counted, those whose refresh is due first. `most_overdue` is the earliest due time.
    """

    most_overdue: datetime | None
    active: int
    unpriced: int


async def oldest_unsettled(session: AsyncSession) -> dict[str, datetime | None]:
    """Returns, by execution (`pending` and `unknown`), the time since which the oldest such call waits; None: no such call.

    Reads one index entry for each of the two.
    """
    statement = select(
        *(
            select(func.min(Call.pending_since)).where(Call.execution == execution).scalar_subquery().label(execution)
            for execution in ("pending", "unknown")
        )
    )
    return dict((await session.execute(statement)).one()._mapping)


async def count_followed_calls(session: AsyncSession) -> FollowedCalls:
    """Counts the calls that the worker refreshes."""
    due = (
        select(Call.refresh_at, Call.status)
        .where(Call.refresh_at.is_not(None))
        .order_by(Call.refresh_at)
        .limit(MAX_FOLLOWED_CALLS)
        .subquery()
    )
    ended = due.c.status.in_(TERMINAL_STATUSES)
    statement = select(func.min(due.c.refresh_at), func.count().filter(ended), func.count()).select_from(due)
    most_overdue, unpriced, all_ = (await session.execute(statement)).one()
    return FollowedCalls(most_overdue, all_ - unpriced, unpriced)


async def count_fingerprints(session: AsyncSession, *, after: UUID | None, limit: int) -> tuple[dict[bytes, int], UUID | None]:
    """Counts request fingerprints by the id of the secret key that hashed them, in the next `limit` calls after the id `after`.

    Only calls with an idempotency key count. Also returns the last id that was read; None if there are no more calls.
    """
    page = select(Call.id, Call.fingerprint, Call.idempotency_key).order_by(Call.id).limit(limit)
    page_of = (page if after is None else page.where(Call.id > after)).subquery()
    key_id = func.substring(page_of.c.fingerprint, *HASHED_KEY_ID_POSITION, type_=LargeBinary)
    statement = select(
        key_id,
        func.count(page_of.c.idempotency_key),
        func.max(cast(page_of.c.id, Text)),  # Postgres 14 knows no max(uuid)
    ).group_by(key_id)
    found = (await session.execute(statement)).all()
    last = max((id_ for _, _, id_ in found), default=None)
    return {key: number for key, number, _ in found if number}, None if last is None else UUID(last)
