"""SQL that deletes old data. Never commits.

A call is never deleted if its outcome is not final, or if a job still has work to do for it. An event is never deleted while
its delivery is pending, because the delivery takes its fields from the event. Locked rows are skipped, because another
transaction works on them.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, exists, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.audit.models import AuditEvent
from app.calls.ids import lowest_call_id_at
from app.calls.models import MAY_HAVE_STARTED_SQL, Call, CallEvent, PendingUpdate
from app.database.partitions import Partition
from app.deliveries.models import Delivery

_SETTLED_EXECUTIONS = ("started", "not_started")
# SQL conditions, by table: whether a row of the table's default partition may be deleted.
_IS_DELETABLE_SQL = {
    AuditEvent.__tablename__: "true",
    # An event and its delivery have the same id.
    CallEvent.__tablename__: """NOT EXISTS (
        SELECT FROM delivery WHERE delivery.next_attempt_at IS NOT NULL
        AND delivery.call_id = call_event_default.call_id AND delivery.id = call_event_default.id
    )""",
    Delivery.__tablename__: "next_attempt_at IS NULL",
}
# The `at` of an event is a time by Postgres's clock. The `at` of its delivery is by the clock of the process that wrote both.
_MAX_CLOCK_DIFFERENCE = timedelta(days=1)


async def lock_calls_to_delete(
    session: AsyncSession, *, after: UUID, before: datetime, max_time_between_requests: timedelta, limit: int
) -> Sequence[UUID]:
    """Locks calls whose last dial and final outcome were before `before`. Returns their ids, at most `limit`.

    Begins with the oldest call after the id `after`. Leaves out calls whose record may still change: the worker will fetch them
    from Twilio again, or search Twilio's list for them. Also leaves out a started call with a rival: another record to the same
    address that may still be searched for, and was dialled at most `max_time_between_requests` earlier or later. If the started
    call were deleted, the search could bind its call at Twilio to the rival.
    """
    rival = aliased(Call)
    rival_may_be_searched_for = exists().where(
        rival.account_sid == Call.account_sid,
        rival.address_key == Call.address_key,
        rival.pending_since.between(
            Call.pending_since - max_time_between_requests, Call.pending_since + max_time_between_requests
        ),
        MAY_HAVE_STARTED_SQL,
        or_(rival.execution != "not_started", rival.search_at.is_not(None)),
    )
    statement = (
        select(Call.id)
        .where(Call.id > after, Call.id < lowest_call_id_at(before))
        # A scheduled call may wait for days and end without a dial. `greatest` ignores null.
        .where(func.greatest(Call.pending_since, Call.settled_at) < before)
        .where(Call.execution.in_(_SETTLED_EXECUTIONS), Call.refresh_at.is_(None), Call.search_at.is_(None))
        .where(or_(Call.execution != "started", ~rival_may_be_searched_for))
        .order_by(Call.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(statement)).all()


async def delete_calls(session: AsyncSession, call_ids: Collection[UUID]) -> int:
    """Deletes the calls, except those with a pending delivery or request to end the call. Returns how many were deleted."""
    statement = (
        delete(Call)
        .where(Call.id.in_(call_ids))
        .where(~exists().where(PendingUpdate.call_id == Call.id))
        .where(~exists().where(Delivery.call_id == Call.id, Delivery.next_attempt_at.is_not(None)))
        .returning(Call.id)
        .execution_options(synchronize_session=False)
    )
    return len((await session.scalars(statement)).all())


async def delete_from_default_partition(session: AsyncSession, table: str, *, before: datetime, limit: int) -> int:
    """Deletes rows older than `before` from the table's default partition. Returns how many were deleted, at most `limit`.

    Keeps pending deliveries and their events. A default partition itself is never dropped.
    """
    statement = text(f"""
        DELETE FROM {table}_default WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table}_default WHERE at < :before AND {_IS_DELETABLE_SQL[table]} LIMIT :limit FOR UPDATE SKIP
            LOCKED
        )) RETURNING 1
    """)  # noqa: S608  # our own names
    return len((await session.execute(statement, {"before": before, "limit": limit})).all())


async def has_no_pending_deliveries(session: AsyncSession, partition: Partition) -> bool:
    """Returns whether no delivery of the partition's month is pending. Audit events have no deliveries: for them it is true."""
    if partition.table == AuditEvent.__tablename__:
        return True
    pending = exists().where(
        Delivery.next_attempt_at.is_not(None),
        Delivery.at >= partition.start - _MAX_CLOCK_DIFFERENCE,
        Delivery.at < partition.end + _MAX_CLOCK_DIFFERENCE,
    )
    return bool(await session.scalar(select(~pending)))
