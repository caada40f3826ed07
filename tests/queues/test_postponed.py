"""Tests that new calling hours, a pause and a suspension take effect at once, also for calls that were postponed.

The change waits for grants that have read the old settings.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import yaml

from app.apply.changes import DeclaredChange
from app.apply.document import read_document
from app.apply.service import DeclarationService
from app.apply.validation import validate_declaration
from app.audit.events import command_actor
from app.calls.creation.grants.store import lock_account_pace
from app.database.connection import Connection
from app.database.engine import Database
from app.deliveries.addresses import AllowList
from app.errors import DatabaseUnavailable
from app.security.keyring import Keyring
from app.tenants.administration_store import TenantSettings
from app.tenants.postponed_calls import StoredSettingsChange, apply_settings_to_waiting_calls, make_postponed_calls_due
from tests.queues.conftest import QueuedCalls
from tests.queues.test_queues import HOURS
from tests.support.gateway import Gateway
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL

_WAITING_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
OTHER_HOURS = HOURS | {"to": "21:00"}


@pytest.fixture
async def calls(gateway: Gateway) -> QueuedCalls:
    made = QueuedCalls(gateway, await gateway.add_tenant(), "reminders")
    await put(made)
    return made


async def put(calls: QueuedCalls, **settings: Any) -> None:
    (await calls.tenant.http.put(f"/v1/queues/{calls.name}", json=settings)).raise_for_status()


async def apply_other_hours(calls: QueuedCalls) -> Sequence[DeclaredChange]:
    return await apply_settings(calls, hours=OTHER_HOURS)


async def apply_settings(calls: QueuedCalls, **settings: Any) -> Sequence[DeclaredChange]:
    """Applies a file with these settings of the tenant, as `callgate apply` does. Returns the changes."""
    tenant = {"id": calls.tenant.id, "name": "Acme"} | settings
    document = read_document(yaml.safe_dump({"tenants": [tenant]}).encode())
    keyring = Keyring(calls.gateway.settings.require_secret_keys())
    service = DeclarationService(calls.gateway.database, keyring, command_actor("apply"))
    return (
        await service.apply_declaration(validate_declaration(document, allowed=AllowList.parse(""), workload_issuer=None), {})
    ).changes


@asynccontextmanager
async def granting(calls: QueuedCalls, *, is_first: bool = False) -> AsyncIterator[None]:
    """Locks the account's pace in another session until the block ends, as a grant does. The first grant inserts it."""
    if not is_first:
        await calls.set_pace(await calls.account_id())
    database = Database(calls.gateway.settings.require_database_url(), pool_size=1)
    try:
        async with database.transaction() as connection:
            assert await lock_account_pace(connection, await calls.account_id())
            yield
    finally:
        await database.close()


async def test_other_hours_of_the_tenant_make_its_postponed_calls_due(calls: QueuedCalls, gateway: Gateway) -> None:
    other = QueuedCalls(gateway, await gateway.add_tenant(), "reminders")
    await put(other)
    postponed, others = await calls.waiting(due_s=3600, ring_by_s=7200), await other.waiting(due_s=3600, ring_by_s=7200)
    early = await calls.waiting(not_before_s=1800, due_s=3600, ring_by_s=7200)
    await gateway.tenants.update_tenant(calls.tenant.id, TenantSettings(name="another"))
    assert await calls.due_in(postponed) > 3500
    await gateway.tenants.update_tenant(calls.tenant.id, TenantSettings(hours=OTHER_HOURS))
    assert await calls.due_in(postponed) <= 0
    assert 1700 < await calls.due_in(early) <= 1800
    assert await other.due_in(others) > 3500


@dataclass
class PostponingDatabase:
    """Postpones the due calls of one tenant after each transaction, as workers do if the calls are outside the new hours."""

    database: Database
    tenant_id: str
    made_due: list[UUID] = field(default_factory=list)
    """The ids of the calls that were due at the end of a transaction."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.database.transaction() as connection:
            yield connection
        postponing = """UPDATE scheduled_dial SET due_at = now() + interval '1 hour'
            WHERE tenant_id = $1 AND due_at <= now() RETURNING call_id"""
        self.made_due += [row["call_id"] for row in await self.database.fetch(postponing, self.tenant_id)]
        assert len(self.made_due) <= 20, "calls that were postponed again are made due again"


async def test_calls_that_are_postponed_again_meanwhile_are_made_due_once(calls: QueuedCalls, gateway: Gateway) -> None:
    postponed = [await calls.waiting(due_s=3600, ring_by_s=7200) for _ in range(7)]
    database = PostponingDatabase(gateway.database, calls.tenant.id)
    await make_postponed_calls_due(database, calls.tenant.id, batch_size=2)
    assert sorted(database.made_due) == sorted(postponed)


@dataclass
class LoggingDatabase:
    """Records the SQL of each statement."""

    database: Database
    queries: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.database.transaction() as connection:
            with connection.query_logger(lambda logged: self.queries.append(logged.query)):
                yield connection


async def test_changes_of_many_tenants_wait_for_inserts_once(calls: QueuedCalls, gateway: Gateway) -> None:
    """A session that keeps the table locked delays `callgate apply` once, and not for each tenant."""
    other = QueuedCalls(gateway, await gateway.add_tenant(), "reminders")
    await put(other)
    postponed = [await calls.waiting(due_s=3600, ring_by_s=7200), await other.waiting(due_s=3600, ring_by_s=7200)]
    database = LoggingDatabase(gateway.database)
    changed = (
        StoredSettingsChange(tenant_id, hours_changed=True, is_stopped=False)
        for tenant_id in (calls.tenant.id, other.tenant.id)
    )
    await apply_settings_to_waiting_calls(database, *changed)
    waits_for_inserts = ["pg_locks" in query for query in database.queries]
    assert waits_for_inserts == sorted(waits_for_inserts, reverse=True)
    assert waits_for_inserts[:1] == [True]
    assert max([await calls.due_in(postponed[0]), await other.due_in(postponed[1])]) <= 0


async def test_applied_hours_make_postponed_calls_due_after_the_commit(calls: QueuedCalls, gateway: Gateway) -> None:
    postponed = await calls.waiting(due_s=3600, ring_by_s=7200)
    await apply_other_hours(calls)
    assert await calls.due_in(postponed) <= 0
    # Grants of the tenant's calls must not wait for the transaction that stores the settings.
    statement = "SELECT tenant.xmin <> dial.xmin FROM tenant, scheduled_dial AS dial WHERE tenant.id = $1 AND call_id = $2"
    assert [bool(row[0]) for row in await gateway.database.fetch(statement, calls.tenant.id, postponed)] == [True]
    # A repetition completes an earlier run that failed after its commit.
    late = await calls.waiting(due_s=3600, ring_by_s=7200)
    assert not await apply_other_hours(calls)
    assert await calls.due_in(late) <= 0


async def test_hours_that_do_not_yet_apply_are_reported(calls: QueuedCalls, gateway: Gateway) -> None:
    async with granting(calls):
        applied = asyncio.create_task(apply_other_hours(calls))
        while not (waiting := await gateway.database.fetch(_WAITING_SESSIONS)):
            await asyncio.sleep(0.01)
        await gateway.database.fetch("SELECT pg_terminate_backend($1)", waiting[0]["pid"])
        with pytest.raises(DatabaseUnavailable) as failed:
            await applied
    assert failed.value.settings_stored
    assert (await gateway.tenants.get_tenant(calls.tenant.id)).hours == OTHER_HOURS


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("settings", [{"paused": True}, {"hours": OTHER_HOURS}])
async def test_a_change_waits_for_grants_that_have_begun(calls: QueuedCalls, settings: dict[str, Any], is_first: bool) -> None:
    async with granting(calls, is_first=is_first):
        change = asyncio.create_task(put(calls, **settings))
        while not change.done() and not (await calls.gateway.database.fetch(SESSION_WAITS_FOR_LOCK_SQL))[0][0]:
            await asyncio.sleep(0.01)
        assert not change.done()
    await change


async def suspend(calls: QueuedCalls) -> None:
    await calls.gateway.tenants.set_tenant_suspended(calls.tenant.id, suspended=True)


async def suspend_with_apply(calls: QueuedCalls) -> None:
    await apply_settings(calls, suspended=True)


@pytest.mark.parametrize("suspending", [suspend, suspend_with_apply])
async def test_a_suspension_waits_for_grants_that_have_begun(
    calls: QueuedCalls, suspending: Callable[[QueuedCalls], Coroutine[Any, Any, None]]
) -> None:
    async with granting(calls):
        change = asyncio.create_task(suspending(calls))
        while not change.done() and not (await calls.gateway.database.fetch(SESSION_WAITS_FOR_LOCK_SQL))[0][0]:
            await asyncio.sleep(0.01)
        assert not change.done()
        assert (await calls.gateway.tenants.get_tenant(calls.tenant.id)).suspended_at, "later grants read the suspension"
    await change


async def test_a_resumed_queue_waits_for_no_grant(calls: QueuedCalls) -> None:
    await put(calls, paused=True)
    async with granting(calls):
        await put(calls, paused=False, ring_within_s=60)


_DELETE_DIAL = "DELETE FROM scheduled_dial WHERE call_id = $1 RETURNING to_jsonb(scheduled_dial) AS row"


class _RolledBack(Exception):
    pass


@pytest.mark.parametrize("is_before_snapshot", [True, False])
@pytest.mark.parametrize("is_retried", [False, True])
async def test_a_call_that_is_created_while_the_hours_change_is_due_by_the_new_hours(
    calls: QueuedCalls, gateway: Gateway, is_retried: bool, is_before_snapshot: bool
) -> None:
    """The insert waits for another session, before it reads the hours or after that."""
    opens = (datetime.now(UTC) + timedelta(hours=6)).hour
    await put(calls, hours={"time_zone": "UTC", "from": f"{opens:02}:00", "to": f"{(opens + 2) % 24:02}:00"})
    ring_by = (datetime.now(UTC) + timedelta(hours=20)).isoformat()

    async def create() -> UUID:
        response = await calls.tenant.create("k", queue=calls.name, ring_by=ring_by)
        assert response.status_code == 202
        return UUID(response.json()["id"])

    call_id = await create()
    assert await calls.due_in(call_id) > 3600
    (dial,) = await gateway.database.fetch(_DELETE_DIAL, call_id)
    if is_retried:
        refused = """UPDATE call SET execution = 'not_started', settled_by = 'response',
            problem = '{"slug": "upstream-unreachable", "detail": "", "after_s": null}' WHERE id = $1"""
        await gateway.database.fetch(refused, call_id)
        conflict = "INSERT INTO scheduled_dial SELECT * FROM jsonb_populate_record(NULL::scheduled_dial, $1)", dial["row"]
    else:
        (call,) = await gateway.database.fetch("DELETE FROM call WHERE id = $1 RETURNING to_jsonb(call) AS row", call_id)
        conflict = "INSERT INTO call SELECT * FROM jsonb_populate_record(NULL::call, $1)", call["row"]
    block = ("LOCK TABLE call_event IN SHARE MODE",) if is_before_snapshot else conflict
    with contextlib.suppress(_RolledBack):
        async with gateway.database.transaction() as connection, asyncio.timeout(30):
            await connection.execute(*block)
            creating = asyncio.create_task(create())
            while not await connection.fetchval(SESSION_WAITS_FOR_LOCK_SQL):
                await asyncio.sleep(0.01)
            changing = asyncio.create_task(put(calls, hours=None))
            while await gateway.database.fetch("SELECT FROM queue WHERE tenant_id = $1 AND hours IS NOT NULL", calls.tenant.id):
                await asyncio.sleep(0.01)
            await asyncio.wait({changing}, timeout=0.5)
            raise _RolledBack
    await changing
    assert await calls.due_in(await creating) <= 0
