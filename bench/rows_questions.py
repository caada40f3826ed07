"""The application's own statements, with parameters drawn at random from a database with many calls."""

import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from app.calls import ids, leases, repository
from app.calls import statistics as measuring
from app.calls.control import repository as control
from app.calls.creation.store import NewCall, SettledCall, insert_intents, write_outcomes
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.calls.search_plan import SearchPlan
from app.calls.settlement import Settlement
from app.compat import repository as started_calls
from app.compat.repository import Edge, StartedFilter, TimeRange
from app.database.engine import Database
from app.deliveries import store as deliveries
from app.jobs import deliver, refresh, resolve, retain
from app.jobs import repository as retention
from app.observability import Metrics
from app.twilio.addresses import address_key
from app.twilio.schemas import CallResource
from bench.nginx import creation_answer

MADE = "bench-"
"""The idempotency keys of calls that are created here begin with it."""
_PAGE = 51  # fifty, and one more that shows whether there is another page
_DAY = timedelta(days=1)
_LEASE = timedelta(minutes=5)
# A worker moves the due time of the calls that it has claimed and deletes their leases.
_RELEASE = """
    WITH claimed AS (DELETE FROM lease RETURNING call_id, due_at)
    UPDATE call SET {0} = now() + interval '5 min' FROM claimed WHERE id = call_id AND {0} = due_at
"""
_SETTLEMENT = Settlement(Metrics(), timedelta(seconds=2), SearchPlan(5, timedelta(minutes=15)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A stored call, whose values become parameters."""

    id: UUID
    sid: str
    tenant_id: str
    account_id: UUID
    account_sid: str
    to: str
    from_: str
    status: str
    created_at: datetime
    idempotency_key: str
    a_parent: str
    a_rare_to: str

    @property
    def day(self) -> TimeRange:
        day = self.created_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return TimeRange(day, day + _DAY)


Ask = Callable[[AsyncSession, Drawn], Awaitable[object]]


class Captured(Exception):
    """A statement that the application was about to send. It is not sent."""

    def __init__(self, statement: str, parameters: Sequence[Any]) -> None:
        super().__init__("not sent")
        self.statement = statement
        self.parameters = parameters


class _SessionDatabase(Database):
    """Sends the statements of a store through the session, and returns no rows."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        await (await self._session.connection()).exec_driver_sql(statement, arguments)
        return []


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    ask: Ask
    # Its effect stays, so it is asked once each time.
    writes: bool = False
    # A statement that follows in service and is not measured.
    then: str | None = None


_FILTERS: dict[str, Callable[[Drawn], CallFilter]] = {
    "first page": lambda _: CallFilter(),
    "deep page": lambda call: CallFilter(before=call.id),
    "status": lambda call: CallFilter(status=call.status),
    "status, deep page": lambda call: CallFilter(status=call.status, before=call.id),
    "status=ringing (few)": lambda _: CallFilter(status="ringing"),
    "execution=started": lambda _: CallFilter(execution="started"),
    "execution=not_started": lambda _: CallFilter(execution="not_started"),
    "execution=unknown (few)": lambda _: CallFilter(execution="unknown"),
    "to": lambda call: CallFilter(to=call.to),
    "to (few calls)": lambda call: CallFilter(to=call.a_rare_to),
    "to and status": lambda call: CallFilter(to=call.to, status=call.status),
    "from": lambda call: CallFilter(from_=call.from_),
    "created_after": lambda call: CallFilter(since=ids.first_id_at(call.created_at)),
    "created_before": lambda call: CallFilter(until=ids.first_id_at(call.created_at)),
    "created on a day, status": lambda call: CallFilter(
        since=ids.first_id_at(call.created_at - _DAY), until=ids.first_id_at(call.created_at), status=call.status
    ),
}

_STARTED_FILTERS: dict[str, Callable[[Drawn], dict[str, Any]]] = {
    "first page": lambda _: {},
    "deep page": lambda call: {"edge": Edge("older", call.id)},
    "deep page, back": lambda call: {"edge": Edge("newer", call.id)},
    "Status": lambda call: {"statuses": (call.status,)},
    "Status=ringing (few)": lambda _: {"statuses": ("ringing", "initiated")},
    "To": lambda call: {"to": (call.to,)},
    "From": lambda call: {"from_": (call.from_,)},
    "ParentCallSid": lambda call: {"parent_call_sid": call.a_parent},
    "StartTime (a day)": lambda call: {"started": call.day},
    "StartTime<": lambda call: {"started": TimeRange(until=call.day.since)},
    "StartTime>": lambda call: {"started": TimeRange(since=call.day.since)},
    "EndTime (a day)": lambda call: {"ended": call.day},
    "StartTime (a day), Status": lambda call: {"statuses": (call.status,), "started": call.day},
}


def questions() -> list[Question]:
    return [
        *(Question(f"GET /v1/calls, {name}", _list(filters)) for name, filters in _FILTERS.items()),
        *(Question(f"GET …/Calls.json, {name}", _list_started(filters)) for name, filters in _STARTED_FILTERS.items()),
        Question("fetch by id", lambda session, call: repository.get_call(session, call.id, tenant_id=call.tenant_id)),
        Question("fetch by sid", lambda session, call: repository.get_call_by_sid(session, call.sid, tenant_id=call.tenant_id)),
        Question(
            "look up an idempotency key",
            lambda session, call: repository.get_call_by_key(session, call.idempotency_key, tenant_id=call.tenant_id),
        ),
        Question(
            "claim refreshes",
            lambda session, _: leases.claim_refreshes(session, lease=_LEASE, limit=refresh.BATCH),
            writes=True,
            then=_RELEASE.format("refresh_at"),
        ),
        Question(
            "claim abandoned",
            lambda session, _: repository.claim_abandoned(session, older_than=timedelta(seconds=105), limit=resolve.BATCH),
        ),
        Question(
            "claim searches",
            lambda session, _: leases.claim_searches(session, lease=_LEASE, limit=resolve.BATCH),
            writes=True,
            then=_RELEASE.format("search_at"),
        ),
        Question("claim deliveries", _claim_deliveries, writes=True),
        Question(
            "claim wishes to end calls", lambda session, _: control.claim_pending_updates(session, lease=_LEASE, limit=20)
        ),
        Question("rivals of a search", _rivals),
        Question("gauges: oldest unsettled", lambda session, _: measuring.oldest_unsettled(session)),
        Question("gauges: followed calls", lambda session, _: measuring.followed(session)),
        Question(
            f"find {retain.BATCH} expired calls",
            lambda session, call: retention.lock_expired_calls(
                session, after=call.id, before=datetime.now(UTC) - _DAY, limit=retain.BATCH
            ),
        ),
    ]


def _list(filters: Callable[[Drawn], CallFilter]) -> Ask:
    return lambda session, call: repository.list_call_ids(session, tenant_id=call.tenant_id, filters=filters(call), limit=_PAGE)


def _list_started(filters: Callable[[Drawn], dict[str, Any]]) -> Ask:
    async def ask(session: AsyncSession, call: Drawn) -> object:
        values = filters(call)
        edge, wanted = values.pop("edge", None), StartedFilter(call.account_sid, **values)
        return await started_calls.list_started_ids(session, tenant_id=call.tenant_id, filters=wanted, edge=edge, limit=_PAGE)

    return ask


async def _claim_deliveries(session: AsyncSession, _: Drawn) -> object:
    """Claims as a worker does, which continues after the tenant of its last claim: that may be any."""
    after = f"tenant-{random.randrange(100):02}"
    limits = {"limit": deliver.MAX_CONCURRENT, "per_tenant": deliver.CLAIM_PER_TENANT}
    return await deliveries.claim(_SessionDatabase(session), lease=deliver.LEASE, busy=(), after=after, **limits)


async def _rivals(session: AsyncSession, drawn: Drawn) -> object:
    call = Call(id=drawn.id, account_sid=drawn.account_sid, to=drawn.to, pending_since=datetime.now(UTC))
    return await repository.count_rivals(session, call, span=timedelta(minutes=4))


def creations(size: int) -> tuple[Question, Question]:
    """Returns the intents of `size` calls together, and the outcomes of the intents that were asked for first."""
    made: deque[list[NewCall]] = deque()

    async def intents(session: AsyncSession, like: Drawn) -> object:
        made.append([intent(like) for _ in range(size)])
        return await insert_intents(_SessionDatabase(session), made[-1])

    async def outcomes(session: AsyncSession, _: Drawn) -> object:
        return await write_outcomes(_SessionDatabase(session), [started(call) for call in made.popleft()])

    return (
        Question(f"create: intents, {size} together", intents, writes=True),
        Question(f"create: outcomes, {size} together", outcomes, writes=True),
    )


def intent(like: Drawn) -> NewCall:
    """Returns a new call of the same tenant to the same address."""
    call_id = uuid7()
    return NewCall(
        id=call_id,
        tenant_id=like.tenant_id,
        account_id=like.account_id,
        account_sid=like.account_sid,
        created_at=ids.created_at(call_id),
        idempotency_key=f"{MADE}{secrets.token_hex(12)}",
        fingerprint=random.randbytes(32),
        parameters={"to": like.to, "from": like.from_, "url": "https://voice.example.com/flows/1", "timeout": 30},
        warnings=[],
        to=like.to,
        from_=like.from_,
        address_key=address_key(like.to),
        traceparent=None,
        status_callback=None,
        status_callback_method=None,
        status_callback_events=None,
    )


def started(call: NewCall) -> SettledCall:
    """Returns the outcome of a call that Twilio has created."""
    answer = creation_answer(call.account_sid, f"CA{secrets.token_hex(16)}")
    resource = CallResource.read(answer | {"to": call.to, "to_formatted": call.to, "from": call.from_})
    assert resource
    change = _SETTLEMENT.change_to_started(resource, data={"attempts": [{"answer": 201, "ms": 180}]})
    return SettledCall.of(call, change)
