"""The application's own SQL statements, to be measured with random parameters from a database with many calls."""

import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from app.calls import leases, repository, statistics
from app.calls.control import repository as control
from app.calls.creation.store import AttemptOutcome, NewCall, insert_intents, write_outcomes
from app.calls.ids import creation_time_of_id, lowest_call_id_at
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.calls.search_plan import SearchPlan
from app.calls.settlement import Settlement
from app.compat.repository import PageCursor, StartedCallFilter, TimeRange, list_started_call_ids
from app.console.calls.search import CallListFilters, CallSearch
from app.console.calls.store import list_calls_sql
from app.database.connection import STATEMENT_POOL_SETTINGS
from app.database.engine import Database
from app.deliveries import store as deliveries
from app.jobs import deliver, refresh, resolve, retain
from app.jobs.repository import lock_calls_to_delete
from app.observability import Metrics
from app.twilio.schemas import CallResource
from bench.nginx import creation_answer

_PAGE_LIMIT = 51  # fifty, and one more that shows whether there is another page
_DAY = timedelta(days=1)
_LEASE = timedelta(minutes=5)
_SETTLEMENT = Settlement(Metrics(), timedelta(seconds=2), SearchPlan(5, timedelta(minutes=15)))
# Calls of the ten largest tenants in turn, whose lists fill a page at any size. Calls of the first 36 hours and of the last
# 36 hours are left out, so that the database has all calls of the days around a drawn call.
_DRAW_SQL = text("""
    SELECT drawn.* FROM (
        SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY random()) AS turn FROM call TABLESAMPLE SYSTEM (:percent)
        WHERE sid IS NOT NULL AND idempotency_key IS NOT NULL AND tenant_id < 'tenant-10' AND "to" LIKE 'sip:desk-%'
            AND status IN ('completed', 'busy', 'no-answer')
            AND created_at < now() - interval '36 h'
            AND created_at > (SELECT created_at + interval '36 h' FROM call ORDER BY id LIMIT 1)
    ) AS drawn
    ORDER BY turn, tenant_id LIMIT :number
""")

Question = Callable[[AsyncSession, Call], Awaitable[object]]
"""A function that runs the measured statements in a session. The values of the call are their parameters."""


async def draw_calls(session: AsyncSession, rows: int, number: int) -> Sequence[Call]:
    values = {"percent": min(100.0, 6e6 / rows), "number": number}
    return (await session.scalars(select(Call).from_statement(_DRAW_SQL), values)).all()


class _HotPathDatabase(Database):
    """A database whose `fetch` runs the statement in the transaction of a given session, and returns no rows.

    The statement runs with the Postgres settings that the application uses for its most frequent statements (the hot path).
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        connection = await self._session.connection()
        for name, value in STATEMENT_POOL_SETTINGS.items():
            await connection.exec_driver_sql(f"SET LOCAL {name} = '{value}'")
        await connection.exec_driver_sql(statement, arguments)
        return []


def _day(call: Call) -> TimeRange:
    day = call.created_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return TimeRange(day, day + _DAY)


def _list_calls(session: AsyncSession, call: Call, **filters: Any) -> Awaitable[object]:
    return repository.list_call_ids(session, tenant_id=call.tenant_id, filters=CallFilter(**filters), limit=_PAGE_LIMIT)


def _list_calls_of_all_tenants(session: AsyncSession, **filters: Any) -> Awaitable[object]:
    """Reads one page of the console's list of calls, over all tenants, as an operator sees it."""
    statement, values = list_calls_sql(CallListFilters(**filters), None, limit=_PAGE_LIMIT)
    return _HotPathDatabase(session).fetch(statement, *values)


def _list_started_calls(
    session: AsyncSession, call: Call, *, cursor: PageCursor | None = None, **filters: Any
) -> Awaitable[object]:
    wanted = StartedCallFilter(call.account_sid, **filters)
    return list_started_call_ids(session, tenant_id=call.tenant_id, filters=wanted, cursor=cursor, limit=_PAGE_LIMIT)


async def _claim_deliveries(session: AsyncSession, _: Call) -> object:
    """Claims the next deliveries to send, as a worker does, beginning after a random tenant.

    In service, a worker begins after the tenant of its last claim.
    """
    after, months = f"tenant-{random.randrange(100):02}", deliver.recent_delivery_months(datetime.now(UTC))
    return await deliveries.claim_deliveries(
        _HotPathDatabase(session),
        months=months,
        lease=deliver.DELIVERY_LEASE,
        limit=deliver.MAX_CONCURRENT_ATTEMPTS,
        per_tenant=deliver.MAX_CLAIMED_PER_TENANT,
        busy_tenant_ids=(),
        after_tenant_id=after,
    )


async def create_calls(database: Database, like: Call, *, together: int) -> None:
    """Writes `together` new calls with the parameters of `like` in one batch.

    First writes their intents (the records that exist before the request to Twilio), and then their outcomes, as if Twilio had
    created the calls.
    """
    calls = [_new_call(like) for _ in range(together)]
    await insert_intents(database, calls)
    await write_outcomes(database, [_attempt_outcome(call) for call in calls])


def _new_call(like: Call) -> NewCall:
    """Returns a new call with the parameters of `like`, and with an id and an idempotency key of its own."""
    call_id = uuid7()
    own = {
        "id": call_id,
        "created_at": creation_time_of_id(call_id),
        "idempotency_key": secrets.token_hex(12),
        "redial_of": None,
    }
    return NewCall(**{each.name: getattr(like, each.name) for each in fields(NewCall)} | own)


def _attempt_outcome(call: NewCall) -> AttemptOutcome:
    """Returns what is to be written about `call` after Twilio has created it."""
    answer = creation_answer(call.account_sid, f"CA{secrets.token_hex(16)}")
    resource = CallResource.parse_answer(answer | {"to": call.to, "to_formatted": call.to, "from": call.from_})
    assert resource
    change = _SETTLEMENT.change_to_started(resource, data={"attempts": [{"answer": 201, "ms": 180}]})
    return AttemptOutcome.from_change(call, change)


# The functions get a session `s` and a call `c`.
QUESTIONS: dict[str, Question] = {
    "GET /v1/calls, first page": _list_calls,
    "GET /v1/calls, deep page": lambda s, c: _list_calls(s, c, before=c.id),
    "GET /v1/calls, status": lambda s, c: _list_calls(s, c, status=c.status),
    "GET /v1/calls, status, deep page": lambda s, c: _list_calls(s, c, status=c.status, before=c.id),
    "GET /v1/calls, status=ringing (few)": lambda s, c: _list_calls(s, c, status="ringing"),
    "GET /v1/calls, execution=started": lambda s, c: _list_calls(s, c, execution="started"),
    "GET /v1/calls, execution=not_started": lambda s, c: _list_calls(s, c, execution="not_started"),
    "GET /v1/calls, execution=unknown (few)": lambda s, c: _list_calls(s, c, execution="unknown"),
    "GET /v1/calls, to": lambda s, c: _list_calls(s, c, to=c.to),
    "GET /v1/calls, to (few calls)": lambda s, c: _list_calls(
        s, c, to=f"sip:user-{c.id.int % 1000}@pbx.{c.tenant_id}.example.com"
    ),
    "GET /v1/calls, to and status": lambda s, c: _list_calls(s, c, to=c.to, status=c.status),
    "GET /v1/calls, from": lambda s, c: _list_calls(s, c, from_=c.from_),
    "GET /v1/calls, created_after": lambda s, c: _list_calls(s, c, since=lowest_call_id_at(c.created_at)),
    "GET /v1/calls, created_before": lambda s, c: _list_calls(s, c, until=lowest_call_id_at(c.created_at)),
    "GET /v1/calls, created on a day, status": lambda s, c: _list_calls(
        s, c, since=lowest_call_id_at(c.created_at - _DAY), until=lowest_call_id_at(c.created_at), status=c.status
    ),
    "GET …/Calls.json, first page": _list_started_calls,
    "GET …/Calls.json, deep page": lambda s, c: _list_started_calls(s, c, cursor=PageCursor("older", c.id)),
    "GET …/Calls.json, deep page, back": lambda s, c: _list_started_calls(s, c, cursor=PageCursor("newer", c.id)),
    "GET …/Calls.json, Status": lambda s, c: _list_started_calls(s, c, statuses=(c.status,)),
    "GET …/Calls.json, Status=ringing (few)": lambda s, c: _list_started_calls(s, c, statuses=("ringing", "initiated")),
    "GET …/Calls.json, To": lambda s, c: _list_started_calls(s, c, to=(c.to,)),
    "GET …/Calls.json, From": lambda s, c: _list_started_calls(s, c, from_=(c.from_,)),
    "GET …/Calls.json, ParentCallSid": lambda s, c: _list_started_calls(s, c, parent_call_sid=f"CA-{c.tenant_id}-0"),
    "GET …/Calls.json, StartTime (a day)": lambda s, c: _list_started_calls(s, c, started=_day(c)),
    "GET …/Calls.json, StartTime<": lambda s, c: _list_started_calls(s, c, started=TimeRange(until=_day(c).since)),
    "GET …/Calls.json, StartTime>": lambda s, c: _list_started_calls(s, c, started=TimeRange(since=_day(c).since)),
    "GET …/Calls.json, EndTime (a day)": lambda s, c: _list_started_calls(s, c, ended=_day(c)),
    "GET …/Calls.json, StartTime (a day), Status": lambda s, c: _list_started_calls(
        s, c, statuses=(c.status,), started=_day(c)
    ),
    "console, first page": lambda s, _: _list_calls_of_all_tenants(s),
    "console, deep page": lambda s, c: _list_calls_of_all_tenants(s, before=c.id),
    "console, number": lambda s, c: _list_calls_of_all_tenants(s, search=CallSearch("number", (c.from_,))),
    "console, number (no call)": lambda s, _: _list_calls_of_all_tenants(s, search=CallSearch("number", ("+4915112345678",))),
    "console, address": lambda s, c: _list_calls_of_all_tenants(s, search=CallSearch("to", (c.to,))),
    "console, idempotency key": lambda s, c: _list_calls_of_all_tenants(
        s, search=CallSearch("key", (c.idempotency_key or "",))
    ),
    "console, status": lambda s, c: _list_calls_of_all_tenants(s, status=c.status),
    "console, execution=not_started": lambda s, _: _list_calls_of_all_tenants(s, execution="not_started"),
    "console, problem of the last week": lambda s, _: _list_calls_of_all_tenants(
        s, problem="none-found", since=datetime.now(UTC) - timedelta(days=7)
    ),
    "fetch by id": lambda s, c: repository.get_call(s, c.id, tenant_id=c.tenant_id),
    "fetch by sid": lambda s, c: repository.get_call_by_sid(s, c.sid or "", tenant_id=c.tenant_id),
    "fetch by idempotency key": lambda s, c: repository.find_calls_by_idempotency_key(
        s, [(c.tenant_id, c.idempotency_key or "")]
    ),
    "claim refreshes": lambda s, _: leases.claim_calls_to_refresh(s, lease=_LEASE, limit=refresh.BATCH_SIZE, busy_accounts=()),
    "claim abandoned": lambda s, _: repository.lock_abandoned_calls(s, older_than=_LEASE, limit=resolve.ABANDONED_BATCH_SIZE),
    "claim searches": lambda s, _: leases.claim_calls_to_search(
        s, lease=_LEASE, limit=resolve.SEARCH_BATCH_SIZE, busy_accounts=()
    ),
    "claim deliveries": _claim_deliveries,
    "claim requests to end calls": lambda s, _: control.claim_pending_updates(s, lease=_LEASE, limit=20, busy_accounts=()),
    "rivals of a search": lambda s, c: repository.count_rival_creations(
        s, Call(id=c.id, account_sid=c.account_sid, to=c.to, pending_since=datetime.now(UTC)), span=timedelta(minutes=4)
    ),
    "gauges: oldest unsettled": lambda s, _: statistics.oldest_open_call_times(s),
    "gauges: calls to refresh": lambda s, _: statistics.count_calls_to_refresh(s),
    "find expired calls": lambda s, c: lock_calls_to_delete(
        s, after=c.id, before=c.created_at + _DAY, max_time_between_requests=timedelta(minutes=20), limit=retain.BATCH_SIZE
    ),
    "create 1": lambda s, c: create_calls(_HotPathDatabase(s), c, together=1),
    "create 32 together": lambda s, c: create_calls(_HotPathDatabase(s), c, together=32),
}
