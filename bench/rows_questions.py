"""What is asked of a database with many calls: the application's own statements, with parameters drawn at random."""

import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
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
from app.calls.settlement import SearchPlan, Settlement
from app.compat import repository as started_repository
from app.compat.repository import Edge, StartedFilter, TimeRange
from app.database.engine import Database
from app.deliveries import repository as deliveries
from app.jobs import deliver, refresh, resolve, retain
from app.jobs import repository as retention
from app.observability import Metrics
from app.twilio.addresses import address_key
from app.twilio.schemas import CallResource

MADE = "bench-"
"""What the keys of the calls begin with that are created here."""
_PAGE = 51  # fifty, and one more that tells whether there is another page
_DAY = timedelta(days=1)
_LEASE = timedelta(minutes=5)
# What a worker comes to with the calls that it has claimed: their time is moved, and their leases go.
_LOOKED_AFTER = """
    WITH claimed AS (DELETE FROM lease RETURNING call_id, due_at)
    UPDATE call SET {0} = now() + interval '5 min' FROM claimed WHERE id = call_id AND {0} = due_at
"""
_SETTLEMENT = Settlement(Metrics(), timedelta(seconds=2), SearchPlan(5, timedelta(minutes=15)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A call that is there, whose values are asked for."""

    id: UUID
    sid: str
    tenant_id: str
    account_id: UUID
    account_sid: str
    to: str
    from_: str
    status: str
    created_at: datetime
    idempotency_key: str | None
    a_parent: str
    a_rare_to: str


Ask = Callable[[AsyncSession, Drawn], Awaitable[object]]


class Taken(Exception):
    """A statement that would be sent, and is not."""

    def __init__(self, statement: str, parameters: Sequence[Any]) -> None:
        super().__init__("not sent")
        self.statement = statement
        self.parameters = parameters


class _Nowhere(Database):
    def __init__(self) -> None:
        """Connects to nothing."""

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        raise Taken(statement, arguments)


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    ask: Ask
    # What it does is done for good, so that it can be asked only so often.
    writes: bool = False
    # What follows in service, and is not measured.
    then: str | None = None


def questions() -> list[Question]:
    return [
        *(Question(f"GET /v1/calls, {name}", _list(filters)) for name, filters in _FILTERS.items()),
        *(Question(f"GET …/Calls.json, {name}", _list_started(filters)) for name, filters in _STARTED_FILTERS.items()),
        Question("fetch by id", lambda session, call: repository.get_call(session, call.id, tenant_id=call.tenant_id)),
        Question("fetch by sid", lambda session, call: repository.get_call_by_sid(session, call.sid, tenant_id=call.tenant_id)),
        Question("look up an idempotency key", _by_key),
        Question("claim refreshes", _claim_refreshes, writes=True, then=_LOOKED_AFTER.format("refresh_at")),
        Question("claim abandoned", _claim_abandoned),
        Question("claim searches", _claim_searches, writes=True, then=_LOOKED_AFTER.format("search_at")),
        Question("claim deliveries", _claim_deliveries, writes=True),
        Question(
            "claim wishes to end calls", lambda session, _: control.claim_pending_updates(session, lease=_LEASE, limit=20)
        ),
        Question("rivals of a search", _rivals),
        Question("gauges: oldest unsettled", lambda session, _: measuring.oldest_unsettled(session)),
        Question("gauges: followed calls", lambda session, _: measuring.followed(session)),
        Question(f"find {retain.BATCH} expired calls", _expired),
    ]


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

_STARTED_FILTERS: dict[str, Callable[[Drawn], tuple[StartedFilter, Edge | None]]] = {
    "first page": lambda call: (StartedFilter(call.account_sid), None),
    "deep page": lambda call: (StartedFilter(call.account_sid), Edge("older", call.id)),
    "deep page, back": lambda call: (StartedFilter(call.account_sid), Edge("newer", call.id)),
    "Status": lambda call: (StartedFilter(call.account_sid, statuses=(call.status,)), None),
    "Status=ringing (few)": lambda call: (StartedFilter(call.account_sid, statuses=("ringing", "initiated")), None),
    "To": lambda call: (StartedFilter(call.account_sid, to=(call.to,)), None),
    "From": lambda call: (StartedFilter(call.account_sid, from_=(call.from_,)), None),
    "ParentCallSid": lambda call: (StartedFilter(call.account_sid, parent_call_sid=call.a_parent), None),
    "StartTime (a day)": lambda call: (StartedFilter(call.account_sid, started=_day_of(call)), None),
    "StartTime<": lambda call: (StartedFilter(call.account_sid, started=TimeRange(until=_day_of(call).since)), None),
    "StartTime>": lambda call: (StartedFilter(call.account_sid, started=TimeRange(since=_day_of(call).since)), None),
    "EndTime (a day)": lambda call: (StartedFilter(call.account_sid, ended=_day_of(call)), None),
    "StartTime (a day), Status": lambda call: (
        StartedFilter(call.account_sid, statuses=(call.status,), started=_day_of(call)),
        None,
    ),
}


def _list(filters: Callable[[Drawn], CallFilter]) -> Ask:
    return lambda session, call: repository.list_call_ids(session, tenant_id=call.tenant_id, filters=filters(call), limit=_PAGE)


def _list_started(filters: Callable[[Drawn], tuple[StartedFilter, Edge | None]]) -> Ask:
    async def ask(session: AsyncSession, call: Drawn) -> object:
        filter_, edge = filters(call)
        return await started_repository.list_started_ids(
            session, tenant_id=call.tenant_id, filters=filter_, edge=edge, limit=_PAGE
        )

    return ask


def _day_of(call: Drawn) -> TimeRange:
    day = call.created_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return TimeRange(day, day + _DAY)


async def _by_key(session: AsyncSession, call: Drawn) -> object:
    return await repository.get_call_by_key(session, call.idempotency_key or "order-1", tenant_id=call.tenant_id)


async def _claim_refreshes(session: AsyncSession, _: Drawn) -> object:
    return await leases.claim_refreshes(session, lease=_LEASE, limit=refresh.BATCH)


async def _claim_abandoned(session: AsyncSession, _: Drawn) -> object:
    return await repository.claim_abandoned(session, older_than=timedelta(seconds=105), limit=resolve.BATCH)


async def _claim_searches(session: AsyncSession, _: Drawn) -> object:
    return await leases.claim_searches(session, lease=_LEASE, limit=resolve.BATCH)


async def _claim_deliveries(session: AsyncSession, _: Drawn) -> object:
    """The worker goes on where its last claim ended, which may be anywhere."""
    after = f"tenant-{random.randrange(100):02}"
    return await deliveries.claim(
        session, lease=deliver.LEASE, limit=deliver.MAX_CONCURRENT, per_tenant=deliver.CLAIM_PER_TENANT, busy=(), after=after
    )


async def _expired(session: AsyncSession, call: Drawn) -> object:
    before = datetime.now(UTC) - _DAY
    return await retention.lock_expired_calls(session, after=call.id, before=before, limit=retain.BATCH)


async def _rivals(session: AsyncSession, drawn: Drawn) -> object:
    call = Call(id=drawn.id, account_sid=drawn.account_sid, to=drawn.to, pending_since=datetime.now(UTC))
    return await repository.count_rivals(session, call, span=timedelta(minutes=4))


def intents(calls: Sequence[NewCall]) -> Question:
    async def ask(_: AsyncSession, __: Drawn) -> object:
        return await insert_intents(_Nowhere(), calls)

    return Question(f"create: intents, {len(calls)} together", ask, writes=True)


def outcomes(calls: Sequence[NewCall]) -> Question:
    """What became of those intents: they have started."""

    async def ask(_: AsyncSession, __: Drawn) -> object:
        return await write_outcomes(_Nowhere(), [started(call) for call in calls])

    return Question(f"create: outcomes, {len(calls)} together", ask, writes=True)


def intent(like: Drawn) -> NewCall:
    """A new call of the tenant's to the same address."""
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
    """The outcome of a call that Twilio has created, as it is written."""
    sid = f"CA{secrets.token_hex(16)}"
    path = f"/2010-04-01/Accounts/{call.account_sid}/Calls/{sid}"
    resource = CallResource.read(
        {
            "sid": sid,
            "status": "queued",
            "direction": "outbound-api",
            "account_sid": call.account_sid,
            "to": call.to,
            "to_formatted": call.to,
            "from": call.from_,
            "from_formatted": call.from_,
            "date_created": format_datetime(datetime.now(UTC)),
            "price_unit": "USD",
            "api_version": "2010-04-01",
            "uri": f"{path}.json",
            "subresource_uris": {"recordings": f"{path}/Recordings.json"},
        }
    )
    assert resource
    change = _SETTLEMENT.change_to_started(resource, data={"attempts": [{"answer": 201, "ms": 180}]})
    return SettledCall(call.id, call.attempt, change)
