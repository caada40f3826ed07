"""SQL for calls and their events. The functions never commit. Every read for a tenant filters by `tenant_id`."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import DateTime, Text, Uuid, any_, bindparam, cast, func, insert, or_, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as insert_unless_present
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from app.calls import progress
from app.calls.callback_fields import restore_callback_fields
from app.calls.last_answer import CallRow, attributes_to_select
from app.calls.models import MAY_HAVE_STARTED_SQL, NEVER_DIALLED_SQL, Call, CallEvent, PendingUpdate
from app.calls.outbox import NewDelivery, needs_final_delivery
from app.calls.store import insert_deliveries_sql
from app.scheduling.dial_slots import restore_slots_sql
from app.scheduling.grant_halt_sql import MAY_TAKE_GRANTS_SQL
from app.scheduling.models import DialTurn, ScheduledDial
from app.twilio.addresses import address_key
from app.twilio.schemas import CallResource

_UNLIMITED_SPAN = timedelta(days=36_500)
_MAY_HAVE_LOST_GRANTS = f"({MAY_TAKE_GRANTS_SQL} IS NOT TRUE OR (SELECT released_at >= :since FROM grant_guard WHERE id = 1))"  # noqa: S608
_RESTORE_DIAL_SLOT_SQL = text(restore_slots_sql("ARRAY[:call_id]")).bindparams(bindparam("call_id", type_=Uuid))
_ADD_DELIVERY_SQL = text(insert_deliveries_sql("jsonb_populate_record(NULL::delivery, CAST(:delivery AS jsonb)) AS new"))


@dataclass(frozen=True, slots=True)
class CallFilter:
    """The filters of a list of calls. A filter that is None is not applied.

    A call matches if `since <= id < until`, `id < before`, and its columns equal the other filters. The times of `since` and
    `until` are given as ids, because a UUIDv7 begins with its creation time. `before` is the id in the cursor of a page.
    """

    status: str | None = None
    execution: str | None = None
    to: str | None = None
    from_: str | None = None
    since: UUID | None = None
    until: UUID | None = None
    before: UUID | None = None


class StoredEvent(NamedTuple):
    """An event as it is stored. If the event is a callback, `data` may lack fields; the bits of `data_left_out` say which."""

    id: UUID
    at: datetime
    type: str
    data: Mapping[str, Any]
    data_left_out: int | None

    def with_all_data(self, call: Call) -> Self:
        """Returns the event with all of its data, including the fields that are stored only in the call's record."""
        return self._replace(data=restore_callback_fields(call, self.data, self.data_left_out)) if self.data_left_out else self


async def transaction_start_time(session: AsyncSession) -> datetime:
    """Returns the time at which the transaction started, by Postgres's clock.

    Changes are dated with this clock, because the clocks of the processes may differ.
    """
    moment: datetime = (await session.execute(select(func.now()))).scalar_one()
    return moment


async def postgres_time_now(session: AsyncSession) -> datetime:
    """Returns the time of Postgres's clock at this moment, which may be much later than the `transaction_start_time`."""
    moment: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return moment


async def get_call(session: AsyncSession, call_id: UUID, *, tenant_id: str) -> Call | None:
    statement = select(Call).where(Call.id == call_id, Call.tenant_id == tenant_id)
    return (await session.scalars(statement)).one_or_none()


async def may_repeat_dial_request(session: AsyncSession, call_id: UUID, *, attempt: int, pending_since: datetime) -> bool:
    """Returns whether this attempt to dial may repeat its request: the call is still pending, and no client wants to end it.

    An attempt is identified by its number and by `pending_since`, the time when it began: if Postgres has lost an attempt,
    another one may get the same number.
    """
    is_to_end = (
        select(PendingUpdate.call_id).where(PendingUpdate.call_id == Call.id, PendingUpdate.attempt == Call.attempt).exists()
    )
    is_same = Call.id == call_id, Call.attempt == attempt, Call.pending_since == pending_since, Call.execution == "pending"
    return (await session.scalar(select(Call.id).where(*is_same, ~is_to_end))) is not None


async def account_ids_by_call_id(session: AsyncSession, call_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """Returns the account ids of calls of any tenant, by call id. Use it only for Twilio's callbacks, never for a tenant."""
    found = await session.execute(select(Call.id, Call.account_id).where(Call.id.in_(call_ids)))
    return dict(found.all())


async def get_call_by_sid(session: AsyncSession, sid: str, *, tenant_id: str) -> Call | None:
    statement = select(Call).where(Call.sid == sid, Call.tenant_id == tenant_id)
    return (await session.scalars(statement)).one_or_none()


async def find_calls_by_idempotency_key(
    session: AsyncSession, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Call]:
    """Returns the existing calls for pairs of tenant id and idempotency key. A pair without a call is not in the result."""
    keys_of_tenants = defaultdict[str, list[str]](list)
    for tenant_id, key in keys:
        keys_of_tenants[tenant_id].append(key)
    found: dict[tuple[str, str], Call] = {}
    for tenant_id, own_keys in keys_of_tenants.items():
        # `IS NOT NULL` is the condition of the partial index. The comparison with an array does not imply it for Postgres.
        is_known = Call.idempotency_key.is_not(None), Call.idempotency_key == any_(bindparam("keys", own_keys, ARRAY(Text)))
        calls = await session.scalars(select(Call).where(Call.tenant_id == tenant_id, *is_known))
        found |= {(tenant_id, call.idempotency_key or ""): call for call in calls}
    return found


async def list_call_ids(session: AsyncSession, *, tenant_id: str, filters: CallFilter, limit: int) -> Sequence[UUID]:
    """Returns the ids of one page of a tenant's calls, newest first.

    The pages are read by keyset pagination: a late page costs no more than the first one.
    """
    columns = {
        Call.status: filters.status,
        Call.execution: filters.execution,
        Call.to: filters.to,
        Call.from_: filters.from_,
    }
    conditions = [column == value for column, value in columns.items() if value is not None]
    if filters.since is not None:
        conditions.append(Call.id >= filters.since)
    if filters.until is not None:
        conditions.append(Call.id < filters.until)
    if filters.before is not None:
        conditions.append(Call.id < filters.before)
    statement = select(Call.id).where(Call.tenant_id == tenant_id, *conditions).order_by(Call.id.desc()).limit(limit)
    return (await session.scalars(statement)).all()


async def list_call_rows(
    session: AsyncSession, call_ids: Collection[UUID], attributes: Sequence[str], *, tenant_id: str
) -> Iterable[CallRow]:
    """Returns the calls as rows with only these attributes, newest first. Makes no ORM objects, which would be slower."""
    columns = [getattr(Call, name) for name in attributes_to_select(tuple(attributes))]
    any_id = any_(bindparam("call_ids", list(call_ids), ARRAY(Uuid)))
    statement = select(*columns).where(Call.id == any_id, Call.tenant_id == tenant_id).order_by(Call.id.desc())
    # Not `.all()`: rows are converted as they are iterated over, which takes milliseconds.
    return (CallRow(row._asdict()) for row in await session.execute(statement))


async def add_event(
    session: AsyncSession, call_id: UUID, type_: str, data: dict[str, Any], *, event_id: UUID | None = None
) -> None:
    """Writes an event, dated by `clock_timestamp()`, so that the events of one transaction keep their order."""
    await session.execute(
        insert(CallEvent).values(id=event_id or uuid7(), call_id=call_id, at=func.clock_timestamp(), type=type_, data=data)
    )


async def add_delivery(session: AsyncSession, delivery: NewDelivery) -> None:
    """Writes a delivery (a status callback to the tenant), and wakes the workers when the transaction commits."""
    await session.execute(_ADD_DELIVERY_SQL, {"delivery": to_json(delivery).decode()})


async def requeue_call(session: AsyncSession, dial_row: Mapping[str, Any], *, now: datetime) -> None:
    """Makes a call wait again to be dialled: inserts its row of `scheduled_dial`.

    `dial_row` has the columns of the row, but `due_in` (seconds after `now`) instead of `due_at`. Also inserts a row of
    `dial_turn` for the API key or workload that requested the call, unless that row exists. Workers dial a call only if this
    second row exists.
    """
    row = {name: value for name, value in dial_row.items() if name != "due_in"}
    await session.execute(insert(ScheduledDial).values(**row, due_at=now + timedelta(seconds=dial_row["due_in"])))
    turn = {"account_id": dial_row["account_id"], "caller_id": dial_row["caller_id"]}
    await session.execute(insert_unless_present(DialTurn).values(**turn).on_conflict_do_nothing())


async def restore_dial_slot(session: AsyncSession, call_id: UUID) -> None:
    """Adds the dial slot (place among the `max_concurrent` calls) of a scheduled call that was found at Twilio after all."""
    await session.execute(_RESTORE_DIAL_SLOT_SQL, {"call_id": call_id})


async def has_event(session: AsyncSession, call_id: UUID, event_id: UUID) -> bool:
    statement = select(CallEvent.id).where(CallEvent.call_id == call_id, CallEvent.id == event_id)
    return (await session.scalar(statement)) is not None


async def list_events(
    session: AsyncSession, call_id: UUID, *, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[StoredEvent]:
    """Returns the call's events in order, starting after the event with the time and id in `after`.

    If `after` is None, starts with the first event.
    """
    columns = [getattr(CallEvent, name) for name in StoredEvent._fields]
    statement = select(*columns).where(CallEvent.call_id == call_id)
    if after is not None:
        statement = statement.where(tuple_(CallEvent.at, CallEvent.id) > tuple_(*after))
    rows = await session.execute(statement.order_by(CallEvent.at, CallEvent.id).limit(limit))
    return [StoredEvent(*row) for row in rows]


async def lock_abandoned_calls(session: AsyncSession, *, older_than: timedelta, limit: int) -> Sequence[Call]:
    """Locks and returns calls that have been pending for longer than `older_than`. Skips rows that are already locked.

    A call's record is committed before the request to Twilio, and its outcome afterwards. If the process dies in between, the
    call stays pending.
    """
    statement = (
        select(Call)
        .where(Call.execution == "pending", Call.pending_since < func.now() - older_than)
        .order_by(Call.pending_since)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(statement)).all()


async def list_unknown_calls(session: AsyncSession, account_id: UUID, *, limit: int) -> Sequence[Call]:
    """Returns the account's calls whose outcome is unknown (Twilio may have started them), newest first."""
    statement = select(Call).where(Call.execution == "unknown", Call.account_id == account_id)
    return (await session.scalars(statement.order_by(Call.pending_since.desc()).limit(limit))).all()


async def lock_call(session: AsyncSession, call_id: UUID) -> Call | None:
    """Returns the call's current row, locked until the transaction ends; None if the call does not exist."""
    statement = select(Call).where(Call.id == call_id).with_for_update().execution_options(populate_existing=True)
    return (await session.scalars(statement)).one_or_none()


async def mark_deleted(session: AsyncSession, call: Call, *, by: str) -> None:
    """Records that the call was deleted at Twilio. `by` names who deleted it. The record is no longer refreshed from Twilio.

    One more refresh follows if the call has ended, the tenant requested the event `completed`, and it has no delivery yet: this
    refresh writes the delivery. The caller must have locked the call's row.
    """
    now = await transaction_start_time(session)
    events = progress.apply_deletion(call, by=by, now=now)
    if events and needs_final_delivery(call):
        call.refresh_at = now
    for type_, data in events:
        await add_event(session, call.id, type_, data)


async def record_resource(session: AsyncSession, call: Call, resource: CallResource) -> None:
    """Updates the record from Twilio's resource and writes the resulting events. The caller must have locked the call's row."""
    for type_, data in progress.apply_resource(call, resource):
        await add_event(session, call.id, type_, data)


async def find_recorded_sids(session: AsyncSession, sids: Collection[str]) -> set[str]:
    """Returns those of the given sids that already belong to a record of any tenant."""
    return set(await session.scalars(select(Call.sid).where(Call.sid.in_(sids))))


async def count_rival_creations(session: AsyncSession, call: Call, *, span: timedelta | None) -> int:
    """Counts the other creations that may have started a call that was found at Twilio and may belong to `call`.

    These are creations by the same account to the same address that are `pending` or `unknown`, or were recorded as not started
    because no call was found at Twilio. Creations of all tenants count, because two tenants may share an account. With `span`,
    counts only creations that may have been dialled at most `span` before or after `call`.

    Also counts scheduled calls that were not dialled according to their records, while all grants (rights to dial scheduled
    calls) are halted, or if `call` was dialled at most `span` after the end of the last halt (without `span`: at any time).
    Grants are halted after a restore or a failover, because the database may have lost the grants of such calls.
    """
    since, until = call.pending_since - (span or _UNLIMITED_SPAN), call.pending_since + (span or _UNLIMITED_SPAN)
    key = address_key(call.to)
    others = select(func.count()).where(Call.account_sid == call.account_sid, Call.id != call.id)
    dialled = MAY_HAVE_STARTED_SQL, Call.pending_since.between(since, until)
    possibly_dialled = (
        text(_MAY_HAVE_LOST_GRANTS).bindparams(bindparam("since", since, DateTime(timezone=True))),
        NEVER_DIALLED_SQL,
        cast(Call.parameters["not_before"].astext, DateTime(timezone=True)) <= until,
        or_(Call.settled_at.is_(None), Call.settled_at >= since),
    )
    # One statement, because a call may become pending or unknown meanwhile.
    counts = [others.where(Call.address_key == key, *each).scalar_subquery() for each in (dialled, possibly_dialled)]
    keyed = await session.scalar(select(counts[0] + counts[1]))
    # Rows that an older version wrote have no address key. That version had no scheduled calls.
    unkeyed = await session.scalars(
        select(Call.to).where(Call.account_sid == call.account_sid, Call.id != call.id, Call.address_key.is_(None), *dialled)
    )
    return (keyed or 0) + sum(address_key(to) == key for to in unkeyed)
