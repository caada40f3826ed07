"""The application's own statements, with parameters drawn at random from a database with many calls."""

import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from app.calls import ids, leases, repository, statistics
from app.calls.control import repository as control
from app.calls.creation.store import NewCall, SettledCall, insert_intents, write_outcomes
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.calls.search_plan import SearchPlan
from app.calls.settlement import Settlement
from app.compat.repository import Edge, StartedFilter, TimeRange, list_started_ids
from app.database.engine import Database
from app.deliveries import store as deliveries
from app.jobs import deliver, refresh, resolve, retain
from app.jobs.repository import lock_expired_calls
from app.observability import Metrics
from app.twilio.schemas import CallResource
from bench.nginx import creation_answer

# Marks a statement that the application sends through its own pool, whose connections have other settings.
HOT = "hot"
_PAGE = 51  # fifty, and one more that shows whether there is another page
_DAY = timedelta(days=1)
_LEASE = timedelta(minutes=5)
_SETTLEMENT = Settlement(Metrics(), timedelta(seconds=2), SearchPlan(5, timedelta(minutes=15)))
# Calls of the ten largest tenants in turn, whose pages are full at any size. Not from the first and the last day, so that the
# days around are whole.
_DRAW = text("""
    SELECT drawn.* FROM (
        SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY random()) AS turn FROM call TABLESAMPLE SYSTEM (:percent)
        WHERE sid IS NOT NULL AND idempotency_key IS NOT NULL AND tenant_id < 'tenant-10' AND "to" LIKE 'sip:desk-%'
            AND status IN ('completed', 'busy', 'no-answer')
            AND created_at < now() - interval '36 h'
            AND created_at > (SELECT created_at + interval '36 h' FROM call ORDER BY id LIMIT 1)
    ) AS drawn
    ORDER BY turn, tenant_id LIMIT :number
""")

# Runs a statement about a call.
Question = Callable[[AsyncSession, Call], Awaitable[object]]


async def draw_calls(session: AsyncSession, rows: int, number: int) -> Sequence[Call]:
    values = {"percent": min(100.0, 6e6 / rows), "number": number}
    return (await session.scalars(select(Call).from_statement(_DRAW), values)).all()


class _SessionDatabase(Database):
    """Sends the statements of a store through the session, and returns no rows."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        connection = await self._session.connection()
        await connection.exec_driver_sql(statement, arguments, execution_options={HOT: True})
        return []


def _day(call: Call) -> TimeRange:
    day = call.created_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return TimeRange(day, day + _DAY)


_FILTERS: dict[str, Callable[[Call], CallFilter]] = {
    "first page": lambda _: CallFilter(),
    "deep page": lambda call: CallFilter(before=call.id),
    "status": lambda call: CallFilter(status=call.status),
    "status, deep page": lambda call: CallFilter(status=call.status, before=call.id),
    "status=ringing (few)": lambda _: CallFilter(status="ringing"),
    "execution=started": lambda _: CallFilter(execution="started"),
    "execution=not_started": lambda _: CallFilter(execution="not_started"),
    "execution=unknown (few)": lambda _: CallFilter(execution="unknown"),
    "to": lambda call: CallFilter(to=call.to),
    "to (few calls)": lambda call: CallFilter(to=f"sip:user-{call.id.int % 1000}@pbx.{call.tenant_id}.example.com"),
    "to and status": lambda call: CallFilter(to=call.to, status=call.status),
    "from": lambda call: CallFilter(from_=call.from_),
    "created_after": lambda call: CallFilter(since=ids.first_id_at(call.created_at)),
    "created_before": lambda call: CallFilter(until=ids.first_id_at(call.created_at)),
    "created on a day, status": lambda call: CallFilter(
        since=ids.first_id_at(call.created_at - _DAY), until=ids.first_id_at(call.created_at), status=call.status
    ),
}

_STARTED_FILTERS: dict[str, Callable[[Call], dict[str, Any]]] = {
    "first page": lambda _: {},
    "deep page": lambda call: {"edge": Edge("older", call.id)},
    "deep page, back": lambda call: {"edge": Edge("newer", call.id)},
    "Status": lambda call: {"statuses": (call.status,)},
    "Status=ringing (few)": lambda _: {"statuses": ("ringing", "initiated")},
    "To": lambda call: {"to": (call.to,)},
    "From": lambda call: {"from_": (call.from_,)},
    "ParentCallSid": lambda call: {"parent_call_sid": f"CA-{call.tenant_id}-0"},
    "StartTime (a day)": lambda call: {"started": _day(call)},
    "StartTime<": lambda call: {"started": TimeRange(until=_day(call).since)},
    "StartTime>": lambda call: {"started": TimeRange(since=_day(call).since)},
    "EndTime (a day)": lambda call: {"ended": _day(call)},
    "StartTime (a day), Status": lambda call: {"statuses": (call.status,), "started": _day(call)},
}


def questions() -> dict[str, Question]:
    return {
        **{f"GET /v1/calls, {name}": _list(filters) for name, filters in _FILTERS.items()},
        **{f"GET …/Calls.json, {name}": _list_started(filters) for name, filters in _STARTED_FILTERS.items()},
        "fetch by id": lambda session, call: repository.get_call(session, call.id, tenant_id=call.tenant_id),
        "fetch by sid": lambda session, call: repository.get_call_by_sid(session, call.sid or "", tenant_id=call.tenant_id),
        "look up an idempotency key": lambda session, call: repository.get_call_by_key(
            session, call.idempotency_key or "", tenant_id=call.tenant_id
        ),
        "claim refreshes": lambda session, _: leases.claim_refreshes(session, lease=_LEASE, limit=refresh.BATCH),
        "claim abandoned": lambda session, _: repository.claim_abandoned(session, older_than=_LEASE, limit=resolve.BATCH),
        "claim searches": lambda session, _: leases.claim_searches(session, lease=_LEASE, limit=resolve.BATCH),
        "claim deliveries": _claim_deliveries,
        "claim wishes to end calls": lambda session, _: control.claim_pending_updates(session, lease=_LEASE, limit=20),
        "rivals of a search": _rivals,
        "gauges: oldest unsettled": lambda session, _: statistics.oldest_unsettled(session),
        "gauges: followed calls": lambda session, _: statistics.followed(session),
        f"find {retain.BATCH} expired calls": lambda session, call: lock_expired_calls(
            session, after=call.id, before=datetime.now(UTC) - _DAY, limit=retain.BATCH
        ),
    }


def _list(filters: Callable[[Call], CallFilter]) -> Question:
    return lambda session, call: repository.list_call_ids(session, tenant_id=call.tenant_id, filters=filters(call), limit=_PAGE)


def _list_started(filters: Callable[[Call], dict[str, Any]]) -> Question:
    def ask(session: AsyncSession, call: Call) -> Awaitable[object]:
        values = {"edge": None} | filters(call)
        edge, wanted = values.pop("edge"), StartedFilter(call.account_sid, **values)
        return list_started_ids(session, tenant_id=call.tenant_id, filters=wanted, edge=edge, limit=_PAGE)

    return ask


def _rivals(session: AsyncSession, like: Call) -> Awaitable[object]:
    call = Call(id=like.id, account_sid=like.account_sid, to=like.to, pending_since=datetime.now(UTC))
    return repository.count_rivals(session, call, span=timedelta(minutes=4))


async def _claim_deliveries(session: AsyncSession, _: Call) -> object:
    """Claims as a worker does, which continues after the tenant of its last claim: that may be any."""
    after = f"tenant-{random.randrange(100):02}"
    limits = {"limit": deliver.MAX_CONCURRENT, "per_tenant": deliver.CLAIM_PER_TENANT}
    return await deliveries.claim(_SessionDatabase(session), lease=deliver.LEASE, busy=(), after=after, **limits)


def creations(size: int) -> dict[str, Question]:
    """Returns the intents of `size` calls together, and the outcomes of the intents that were asked for first."""
    made: deque[list[NewCall]] = deque()

    async def intents(session: AsyncSession, like: Call) -> object:
        made.append([intent(like) for _ in range(size)])
        return await insert_intents(_SessionDatabase(session), made[-1])

    async def outcomes(session: AsyncSession, _: Call) -> object:
        return await write_outcomes(_SessionDatabase(session), [started(call) for call in made.popleft()])

    return {f"create: intents, {size} together": intents, f"create: outcomes, {size} together": outcomes}


def intent(like: Call) -> NewCall:
    """Returns a new call with another's parameters."""
    call_id = uuid7()
    own = {"id": call_id, "created_at": ids.created_at(call_id), "idempotency_key": secrets.token_hex(12)}
    return NewCall(**{each.name: getattr(like, each.name) for each in fields(NewCall)} | own)


def started(call: NewCall) -> SettledCall:
    """Returns the outcome of a call that Twilio has created."""
    answer = creation_answer(call.account_sid, f"CA{secrets.token_hex(16)}")
    resource = CallResource.read(answer | {"to": call.to, "to_formatted": call.to, "from": call.from_})
    assert resource
    change = _SETTLEMENT.change_to_started(resource, data={"attempts": [{"answer": 201, "ms": 180}]})
    return SettledCall.of(call, change)
