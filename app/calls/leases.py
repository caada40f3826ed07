"""SQL for leases on calls. A lease reserves one call for one worker for a limited time.

A worker leases calls that are due for a refresh (a new read from Twilio) or for a search in Twilio's list of calls. A lease is
valid for one due time of the call: it ends when the due time changes, or at the time `until`. Leases are separate, short rows,
because changing the due time in the long row of a call rewrites entries in eight indexes. The functions never commit.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    PrimaryKeyConstraint,
    Uuid,
    all_,
    delete,
    exists,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from app.calls.models import Call
from app.database.base import Base


class CallLease(Base):
    """The right of one worker to refresh a call, or to search for it at Twilio. The work was due at `due_at`.

    Other workers skip the call before the time `until`.
    """

    __tablename__ = "lease"
    __table_args__ = (PrimaryKeyConstraint("call_id", "due_at"),)

    call_id: Mapped[UUID] = mapped_column(Uuid)
    due_at: Mapped[datetime]
    until: Mapped[datetime]


class CallDueForRefresh(NamedTuple):
    """A started call that is due for a refresh: it must be read from Twilio again."""

    id: UUID
    sid: str
    account_id: UUID
    pending_since: datetime
    refresh_at: datetime
    traceparent: str | None


async def claim_calls_to_refresh(
    session: AsyncSession, *, lease: timedelta, limit: int, busy_accounts: Collection[UUID]
) -> Sequence[CallDueForRefresh]:
    """Claims started calls that are due for a refresh (a new read from Twilio), and returns them.

    Leaves out calls of `busy_accounts`, whose earlier calls this worker has not finished. Other workers skip the claimed
    calls until `lease` has passed.
    """
    claimed = _claimed_calls_cte(Call.refresh_at, lease=lease, limit=limit, busy_accounts=busy_accounts)
    columns = [getattr(Call, name) for name in CallDueForRefresh._fields]
    rows = await session.execute(select(*columns).join(claimed, Call.id == claimed.c.call_id))
    return [CallDueForRefresh(*row) for row in rows]


async def claim_calls_to_search(
    session: AsyncSession, *, lease: timedelta, limit: int, busy_accounts: Collection[UUID]
) -> Sequence[Call]:
    """Claims calls that are due for a search in Twilio's list of calls, and returns them.

    The search is to show whether Twilio has started the call. Leaves out calls of `busy_accounts`, whose earlier calls
    this worker has not finished. Other workers skip the claimed calls until `lease` has passed.
    """
    claimed = _claimed_calls_cte(Call.search_at, lease=lease, limit=limit, busy_accounts=busy_accounts)
    return (await session.scalars(select(Call).join(claimed, Call.id == claimed.c.call_id))).all()


async def renew_search_leases(session: AsyncSession, claimed: Sequence[Call], *, lease: timedelta) -> None:
    """Extends the search leases of claimed calls. Each lease then ends when `lease` has passed, counted from now."""
    leased = tuple_(CallLease.call_id, CallLease.due_at).in_([(call.id, call.search_at) for call in claimed])
    statement = update(CallLease).where(leased).values(until=func.now() + lease)
    await session.execute(statement.execution_options(synchronize_session=False))


async def delete_done_refresh_leases(session: AsyncSession, claimed: Sequence[CallDueForRefresh]) -> None:
    """Deletes the leases of those claimed calls whose `refresh_at` has changed.

    `refresh_at` changes when the result of a refresh is recorded, even if the refresh failed, and when a callback is recorded.
    The lease of any other claimed call stays, and delays the next refresh of the call.
    """
    await _delete_leases_of_handled_calls(session, Call.refresh_at, [(call.id, call.refresh_at) for call in claimed])


async def delete_done_search_leases(session: AsyncSession, claimed: Sequence[Call]) -> None:
    """Deletes the leases of those claimed calls whose `search_at` has changed.

    `search_at` changes when the result of a search is recorded, even if the search failed, and when another event, such as a
    callback, shows that the call was started. The lease of any other claimed call stays, and delays the next search for it.
    """
    await _delete_leases_of_handled_calls(session, Call.search_at, [(call.id, call.search_at) for call in claimed])


def account_id_not_in(account_id: InstrumentedAttribute[UUID], accounts: Collection[UUID]) -> ColumnElement[bool]:
    """Returns the SQL condition that `account_id` is not in `accounts`."""
    return account_id != all_(literal(list(accounts), ARRAY(Uuid)))


def _claimed_calls_cte(
    due_at: InstrumentedAttribute[datetime | None], *, lease: timedelta, limit: int, busy_accounts: Collection[UUID]
) -> CTE:
    """Returns a CTE that leases up to `limit` due calls and yields their ids as `call_id`.

    `due_at` is the column with the due time. Skips calls that another worker has leased, and calls of `busy_accounts`. If two
    workers find the same call, only one of them gets the lease.
    """
    leased = exists().where(CallLease.call_id == Call.id, CallLease.due_at == due_at, CallLease.until > func.now())
    due = (
        select(Call.id, due_at.label("due_at"))
        .where(due_at <= func.now(), ~leased, account_id_not_in(Call.account_id, busy_accounts))
        .order_by(due_at)
        .limit(limit)
        .with_for_update(of=Call, skip_locked=True)
        .cte("due")
    )
    new_leases = insert(CallLease).from_select(
        ["call_id", "due_at", "until"], select(due.c.id, due.c.due_at, func.now() + lease)
    )
    claimed = new_leases.on_conflict_do_update(
        index_elements=[CallLease.call_id, CallLease.due_at],
        set_={"until": new_leases.excluded.until},
        where=CallLease.until <= func.now(),
    )
    return claimed.returning(CallLease.call_id).cte("taken")


async def _delete_leases_of_handled_calls(
    session: AsyncSession, due_at: InstrumentedAttribute[datetime | None], claimed: Sequence[tuple[UUID, datetime | None]]
) -> None:
    """Deletes the leases of those claimed calls whose due time has changed since they were claimed.

    `claimed` has the id of each call and its due time when it was claimed. `due_at` is the column with the present due time.
    The lease of any other claimed call stays, and delays the next refresh of the call or the next search for it.
    """
    still_due = exists().where(Call.id == CallLease.call_id, due_at == CallLease.due_at)
    statement = delete(CallLease).where(tuple_(CallLease.call_id, CallLease.due_at).in_(claimed), ~still_due)
    await session.execute(statement.execution_options(synchronize_session=False))


async def delete_expired_leases(session: AsyncSession) -> None:
    """Deletes leases that ended more than a day ago.

    Such a lease is left over if its worker died, or if the due time of the call changed after the work on the call had failed.
    """
    await session.execute(delete(CallLease).where(CallLease.until < func.now() - timedelta(days=1)))
