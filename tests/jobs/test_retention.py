"""Tests how the worker deletes old data. Young calls and calls with work left stay, and rows that are locked are skipped."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.calls.ids import lowest_call_id_at
from app.database.partitions import create_missing_partitions
from app.jobs.deliver import DeliverySender
from app.jobs.partitions import AUDIT_TABLES
from app.jobs.retain import BATCH_SIZE, RetentionEnforcer
from app.jobs.worker import make_jobs
from app.observability import Metrics
from app.services import open_services
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.postgres_clock import url_with_other_clock
from tests.support.upstream import Upstream, created, running_upstream

KEEP = timedelta(days=90)
OLD = KEEP + timedelta(days=1)


@pytest.fixture
def retention(gateway: Gateway) -> RetentionEnforcer:
    return RetentionEnforcer(gateway.database, Metrics(), KEEP)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream(*[created()] * 20) as running:
        yield running


async def _run(gateway: Gateway, statement: str, **values: Any) -> list[Any]:
    async with gateway.database.begin() as session:
        result = await session.execute(text(statement), values)
        return list(result.scalars()) if result.returns_rows else []  # type: ignore[attr-defined]


async def _call(
    gateway: Gateway,
    tenant: Tenant,
    *,
    age: timedelta = OLD,
    number: int = 1,
    change_sql: str = "",
    key: str | None = None,
    to: str | None = None,
) -> UUID:
    """Creates a completed call of this age that waits for no refresh, and runs `change_sql` on it. Returns its id."""
    placed = (await tenant.create(key, **({"to": to} if to else {}))).json()["id"]
    moment = datetime.now(UTC) - age
    call_id = UUID(int=lowest_call_id_at(moment).int + number)
    change = """UPDATE call SET id = :old, created_at = :at, pending_since = :at, settled_at = :at, status = 'completed',
        refresh_at = NULL"""
    await _run(gateway, f"{change} WHERE id = :id", id=placed, old=call_id, at=moment)
    if change_sql:
        await _run(gateway, change_sql, id=call_id)
    return call_id


async def _expire_all(retention: RetentionEnforcer) -> None:
    while await retention.expire_calls():
        pass


async def _remaining(gateway: Gateway, tenant: Tenant) -> list[UUID]:
    return await _run(gateway, "SELECT id FROM call WHERE tenant_id = :tenant ORDER BY id", tenant=tenant.id)


def _deleted(retention: RetentionEnforcer, what: str) -> float:
    return retention.metrics.registry.get_sample_value("callgate_expired_total", {"what": what}) or 0


_DELIVERY = """
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields, state, next_attempt_at)
    SELECT gen_random_uuid(), id, created_at, tenant_id, 'completed', 3, 'w', 'http://h.example', 'POST', '{}', state, next
    FROM call, (VALUES %s) AS given (state, next) WHERE id = :id
"""
PENDING_DELIVERY, FINISHED_DELIVERY = _DELIVERY % "('pending', now())", _DELIVERY % "('delivered', NULL::timestamptz)"
# The delivery has no fields of its own, and the clock of the process that wrote it was a minute slow.
EVENT_WITH_PENDING_DELIVERY = """
    WITH event AS (
        INSERT INTO call_event (id, call_id, at, type, data)
        SELECT gen_random_uuid(), id, created_at, 'call.callback', '{}' FROM call WHERE id = :id RETURNING id, call_id, at
    )
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position)
    SELECT event.id, call_id, event.at - interval '1 minute', tenant_id, 'completed', 3
    FROM event JOIN call ON call.id = call_id
"""
OPEN_CALLS = {
    "pending": "UPDATE call SET execution = 'pending', sid = NULL WHERE id = :id",
    "unknown": "UPDATE call SET execution = 'unknown', sid = NULL WHERE id = :id",
    "refreshed": "UPDATE call SET refresh_at = now() WHERE id = :id",
    "searched for": "UPDATE call SET execution = 'not_started', sid = NULL, search_at = now() WHERE id = :id",
    "to be ended": "INSERT INTO wanted_update (call_id, attempt, status, due_at) VALUES (:id, 1, 'completed', now())",
    "with a delivery under way": PENDING_DELIVERY,
    "dialled again lately": "UPDATE call SET pending_since = now() WHERE id = :id",
    "canceled lately": "UPDATE call SET execution = 'not_started', sid = NULL, settled_at = now() WHERE id = :id",
}


async def test_old_calls_are_deleted_and_young_ones_stay(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream
) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    await _call(gateway, tenant)
    await _call(gateway, tenant, number=2, change_sql=FINISHED_DELIVERY)
    await _call(gateway, tenant, number=3, change_sql="UPDATE call SET execution = 'not_started', sid = NULL WHERE id = :id")
    young = await _call(gateway, tenant, age=KEEP - timedelta(minutes=1))
    await _expire_all(retention)
    assert await _remaining(gateway, tenant) == [young]
    assert _deleted(retention, "call") == 3


@pytest.mark.parametrize("open_call", OPEN_CALLS.values(), ids=OPEN_CALLS.keys())
async def test_an_old_call_with_work_left_stays(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream, open_call: str
) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    kept = await _call(gateway, tenant, change_sql=open_call)
    await _call(gateway, tenant, number=2, to="sip:other@example.com")
    await _expire_all(retention)
    assert await _remaining(gateway, tenant) == [kept]


async def test_the_age_of_a_call_is_counted_by_the_clock_of_postgres(gateway: Gateway, upstream: Upstream) -> None:
    """The clock of the worker's machine is 40 days ahead of that of Postgres."""
    tenant = await gateway.add_tenant(upstream.url)
    young, old = await _call(gateway, tenant), await _call(gateway, tenant, age=OLD + timedelta(days=40))
    url = await url_with_other_clock(gateway.database, gateway.settings.require_database_url(), offset="-40 days")
    async with running_gateway(settings_for(url)) as behind:
        await _expire_all(RetentionEnforcer(behind.database, Metrics(), KEEP))
    assert await _remaining(gateway, tenant) == [young]
    assert old != young


_NONE_FOUND = "UPDATE call SET execution = 'not_started', sid = NULL, settled_by = 'none_found', search_at = {} WHERE id = :id"


@pytest.mark.parametrize(
    ("other", "minutes", "to", "stays"),
    [
        (OPEN_CALLS["pending"], 1, None, True),
        (OPEN_CALLS["unknown"], -1, None, True),
        (_NONE_FOUND.format("now()"), 1, None, True),
        (_NONE_FOUND.format("NULL"), 1, None, False),
        (OPEN_CALLS["unknown"], 60, None, False),
        (OPEN_CALLS["unknown"], 1, "sip:other@example.com", False),
    ],
)
async def test_a_call_stays_while_a_search_may_take_it_for_that_of_another_record(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream, other: str, minutes: int, to: str | None, stays: bool
) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    call = await _call(gateway, tenant)
    searched = await _call(gateway, tenant, age=OLD + timedelta(minutes=minutes), change_sql=other, to=to)
    await _expire_all(retention)
    left = await _remaining(gateway, tenant)
    assert (call in left) is stays
    if stays:
        await _run(gateway, "DELETE FROM call WHERE id = :id", id=searched)
        await _expire_all(retention)
        assert await _remaining(gateway, tenant) == []


async def test_a_key_identifies_one_creation_for_as_long_as_its_record_is_kept(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream
) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    await _call(gateway, tenant, key="k")
    assert (await tenant.create("k")).status_code == 200
    await _expire_all(retention)
    assert (await tenant.create("k")).status_code == 201
    assert len(upstream.posts) == 2


async def test_several_workers_delete_each_call_once_and_skip_locked_calls(gateway: Gateway, upstream: Upstream) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    pattern, locked = await _call(gateway, tenant), await _call(gateway, tenant, number=2)
    await _run(
        gateway,
        """
        INSERT INTO call (id, sid, tenant_id, account_id, account_sid, created_at, pending_since, execution, fingerprint,
                          parameters, "to", "from")
        SELECT (left(id::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, 'CA' || n, tenant_id, account_id, account_sid,
               created_at, pending_since, execution, fingerprint, parameters, "to", "from"
        FROM call, generate_series(3, :number + 2) AS n WHERE id = :id
        """,
        number=3 * BATCH_SIZE,
        id=pattern,
    )
    metrics = Metrics()
    async with gateway.database.begin() as session:
        await session.execute(text("SELECT FROM call WHERE id = :id FOR UPDATE"), {"id": locked})
        await asyncio.gather(*(_expire_all(RetentionEnforcer(gateway.database, metrics, KEEP)) for _ in range(4)))
    assert await _remaining(gateway, tenant) == [locked]
    assert metrics.registry.get_sample_value("callgate_expired_total", {"what": "call"}) == 3 * BATCH_SIZE + 1


async def _month_of_data(gateway: Gateway, table: str) -> str:
    """Creates a monthly partition of the table that is two months older than the retention period. Returns its name."""
    first = (datetime.now(UTC) - KEEP - timedelta(days=62)).date().replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    name = f"{table}_{first:%Y_%m}"
    await _run(gateway, f"DROP TABLE IF EXISTS {name}")
    await _run(gateway, f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ('{first}') TO ('{following}')")
    return name


async def _partitions(gateway: Gateway, table: str) -> set[str]:
    names = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(:table)"
    return set(await _run(gateway, names, table=table))


async def test_only_partitions_that_are_completely_too_old_are_dropped(gateway: Gateway, retention: RetentionEnforcer) -> None:
    for table in ("call_event", "delivery"):
        async with gateway.database.begin() as session:
            await create_missing_partitions(session, table, months_ahead=1)
        young = await _partitions(gateway, table)
        await _month_of_data(gateway, table)
        await asyncio.gather(
            retention.drop_partitions(), RetentionEnforcer(gateway.database, Metrics(), KEEP).drop_partitions()
        )
        assert await _partitions(gateway, table) == young


async def test_a_partition_with_a_pending_delivery_or_in_use_stays(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream
) -> None:
    tenant, month = await gateway.add_tenant(upstream.url), await _month_of_data(gateway, "delivery")
    first = datetime.strptime(month, "delivery_%Y_%m").replace(tzinfo=UTC)
    await _call(gateway, tenant, age=datetime.now(UTC) - first - timedelta(days=1), change_sql=PENDING_DELIVERY)
    await retention.drop_partitions()
    assert month in await _partitions(gateway, "delivery")
    await _run(gateway, "UPDATE delivery SET state = 'delivered', next_attempt_at = NULL")
    async with gateway.database.begin() as session:
        await session.execute(text(f"SELECT FROM {month}"))
        await retention.drop_partitions()
        assert month in await _partitions(gateway, "delivery")
    await retention.drop_partitions()
    assert month not in await _partitions(gateway, "delivery")


async def test_a_month_of_events_stays_until_their_deliveries_have_ended(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream
) -> None:
    tenant, month = await gateway.add_tenant(upstream.url), await _month_of_data(gateway, "call_event")
    first = datetime.strptime(month, "call_event_%Y_%m").replace(tzinfo=UTC)
    await _call(gateway, tenant, age=datetime.now(UTC) - first, change_sql=EVENT_WITH_PENDING_DELIVERY)
    await retention.drop_partitions()
    assert month in await _partitions(gateway, "call_event")
    await _run(gateway, "UPDATE delivery SET state = 'delivered', next_attempt_at = NULL")
    await retention.drop_partitions()
    assert month not in await _partitions(gateway, "call_event")


async def test_old_rows_of_the_default_partition_are_deleted_too(
    gateway: Gateway, retention: RetentionEnforcer, upstream: Upstream
) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    pending = await _call(gateway, tenant, change_sql=EVENT_WITH_PENDING_DELIVERY)
    finished = await _call(gateway, tenant, number=2, change_sql=FINISHED_DELIVERY)
    event = """
        INSERT INTO call_event (id, call_id, at, type, data)
        SELECT gen_random_uuid(), id, created_at, 'call.status', '{}' FROM call WHERE id = :id
    """
    await _run(gateway, event, id=finished)
    while await retention.expire_default_partitions():
        pass
    left = "SELECT call_id FROM {}_default WHERE call_id IN (:pending, :finished)"
    assert await _run(gateway, left.format("delivery"), pending=pending, finished=finished) == [pending]
    assert await _run(gateway, left.format("call_event"), pending=pending, finished=finished) == [pending]
    await _run(gateway, "UPDATE delivery SET state = 'delivered', next_attempt_at = NULL")
    while await retention.expire_default_partitions():
        pass
    for table in ("delivery", "call_event"):
        assert await _run(gateway, left.format(table), pending=pending, finished=finished) == []


async def test_audit_events_have_a_retention_period_of_their_own(gateway: Gateway) -> None:
    month = await _month_of_data(gateway, "audit_event")
    audit = RetentionEnforcer(gateway.database, Metrics(), KEEP, AUDIT_TABLES)
    tenant = await gateway.add_tenant()
    await _run(gateway, "UPDATE audit_event SET at = :at WHERE action = 'tenant.create'", at=datetime.now(UTC) - OLD)
    await RetentionEnforcer(gateway.database, Metrics(), KEEP).drop_partitions()
    assert month in await _partitions(gateway, "audit_event")
    while await audit.expire_default_partitions():
        pass
    await audit.drop_partitions()
    assert month not in await _partitions(gateway, "audit_event")
    kept = await _run(gateway, "SELECT action FROM audit_event WHERE tenant_id = :tenant ORDER BY id", tenant=tenant.id)
    assert kept == ["account.create", "credential.add", "key.create"]


@pytest.mark.parametrize(("days", "expiring"), [(None, False), (30, True)])
async def test_nothing_is_deleted_without_a_retention_period(gateway: Gateway, days: int | None, expiring: bool) -> None:
    settings = settings_for(gateway.settings.require_database_url(), retention_days=days)
    async with open_services(settings, Metrics()) as state:
        deliverer = DeliverySender(state["database"], state["delivery_signing"], None, Metrics())  # type: ignore[arg-type]  # unused
        names = {job.name for job in make_jobs(settings, state, Metrics(), deliverer)}
    assert ({"expire_calls", "expire_default_partitions", "drop_partitions"} <= names) is expiring
    assert {"expire_audit_default_partition", "drop_audit_partitions"} <= names
