"""A 503 that says "repeat with the same key" stays true, even if Postgres commits the call's record after the response."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text
from uuid_utils.compat import uuid7

from app.calls.creation.grants.service import grant_calls
from app.calls.creation.grants.store import DialGrant
from app.calls.creation.scheduled.service import ScheduledIntentWriter
from app.calls.creation.scheduled.store import ScheduledCall
from app.calls.creation.store import NewCall
from app.calls.creation.undialled_calls import UndialledCallRecorder
from app.calls.models import Call
from app.calls.repository import add_event
from app.database.engine import Database
from app.errors import DatabaseUnavailable
from app.observability import Metrics
from app.scheduling.models import NO_QUEUE
from app.scheduling.schedule import CallSchedule
from app.services import Services, open_services
from tests.support.gateway import BASIC_CALL, LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import dial_all, make_dialer, running_dialer, running_resolver
from tests.support.tcp import HoldingProxy, running_proxy
from tests.support.upstream import created, created_after_release, error, running_upstream

TIMEOUT_S = 30
OWN: dict[str, Any] = {"status_callback": "https://own.example.com/", "status_callback_event": ["settled"]}


class _RecordingDatabase(Database):
    """A database that keeps the first argument of each statement in `sent`."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        super().__init__(url, pool_size=pool_size)
        self.sent: list[Any] = []

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        self.sent.append(arguments[0])
        return await super().fetch(statement, *arguments)


@asynccontextmanager
async def proxy_of(database_url: str) -> AsyncIterator[tuple[str, HoldingProxy]]:
    """Runs a proxy in front of Postgres. Yields the URL of the database behind the proxy, and the proxy."""
    url = make_url(database_url)
    async with running_proxy(url.host or "", url.port or 5432) as proxy:
        yield url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False), proxy


@asynccontextmanager
async def gateway_behind_proxy(database_url: str, **settings: float) -> AsyncIterator[tuple[Gateway, HoldingProxy]]:
    """Runs a gateway and a proxy between it and Postgres."""
    async with proxy_of(database_url) as (url, proxy), running_gateway(settings_for(url, **settings)) as gateway:
        yield gateway, proxy


@asynccontextmanager
async def worker_behind_proxy(database_url: str) -> AsyncIterator[tuple[Services, HoldingProxy]]:
    """Yields the services of a worker, and a proxy between them and Postgres."""
    async with proxy_of(database_url) as (url, proxy), open_services(settings_for(url), Metrics()) as worker:
        yield worker, proxy


async def _records(tenant: Tenant) -> list[tuple[str, str]]:
    calls = (await tenant.http.get("/v1/calls")).raise_for_status().json()["calls"]
    return [(call["execution"], call["to"]) for call in calls]


async def _until_recorded(tenant: Tenant, execution: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while [known for known, _ in await _records(tenant)] != [execution]:
            await asyncio.sleep(0.05)


async def test_an_intent_that_is_committed_late_conflicts_with_its_withdrawal(database_url: str) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy), running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        proxy.hold(b"lands-late")
        refused = await tenant.create("lands-late")
        assert (refused.status_code, refused.json()["execution"]) == (503, "not_started")
        assert refused.json()["retry"]["same_key"] is True
        await _until_recorded(tenant, "not_started")
        assert proxy.has_held_data
        await proxy.deliver_held()
        assert [execution for execution, _ in await _records(tenant)] == ["not_started"]
        again = await tenant.create("lands-late")
        assert (again.status_code, again.json()["execution"]) == (201, "started")
        assert [event["type"] for event in await tenant.events(again.json()["id"])] == [
            "call.not_started",
            "call.pending",
            "call.started",
        ]
        assert len(upstream.posts) == 1


async def test_an_intent_without_a_key_that_is_committed_late_conflicts_too(database_url: str) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy), running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        proxy.hold(b"sip:keyless@example.com")
        assert (await tenant.create(to="sip:keyless@example.com")).status_code == 503
        await _until_recorded(tenant, "not_started")
        await proxy.deliver_held()
        assert await _records(tenant) == [("not_started", "sip:keyless@example.com")]
        assert upstream.posts == []


async def test_an_intent_that_is_committed_before_its_withdrawal_is_settled_by_it(database_url: str) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy), running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        proxy.hold(b"lands-first")
        assert (await tenant.create("lands-first")).status_code == 503
        await proxy.deliver_held()
        await _until_recorded(tenant, "not_started")
        assert (await tenant.create("lands-first")).status_code == 201
        assert len(upstream.posts) == 1


async def test_an_immediate_repetition_succeeds_and_is_not_disturbed_by_the_late_intent(database_url: str) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy), running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        proxy.hold(b"at-once")
        assert (await tenant.create("at-once")).status_code == 503
        again = await tenant.create("at-once")
        assert again.status_code == 201
        await proxy.deliver_held()
        await asyncio.sleep(1)  # enough time for the withdrawal
        assert [execution for execution, _ in await _records(tenant)] == ["started"]
        assert (await tenant.create("at-once")).json()["id"] == again.json()["id"]
        assert len(upstream.posts) == 1


@pytest.mark.parametrize("lands", [True, False])
async def test_the_end_of_a_withdrawn_intent_is_delivered(database_url: str, lands: bool) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy), running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        proxy.hold(b"sip:withdrawn@example.com")
        assert (await tenant.create(to="sip:withdrawn@example.com", **OWN)).status_code == 503
        if lands:
            await proxy.deliver_held()
        await _until_recorded(tenant, "not_started")
        await proxy.deliver_held()
        (call,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        (delivery,) = (await tenant.http.get(f"/v1/calls/{call['id']}/deliveries")).json()["deliveries"]
    reported = delivery["event"], delivery["fields"]["CallgateExecution"], delivery["fields"]["CallgateProblem"]
    assert reported == ("settled", "not_started", "database-unavailable")


@pytest.mark.parametrize("lands", [True, False])
async def test_a_reopening_with_an_unknown_commit_leaves_its_key_usable(database_url: str, lands: bool) -> None:
    async with (
        gateway_behind_proxy(database_url) as (gateway, proxy),
        running_upstream(error(401, 20003), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("reopened")).json()["call_id"]
        proxy.hold(b"COMMIT", passing=1)  # the first commit is that of the search for the key
        assert (await tenant.create("reopened")).json()["type"] == "urn:callgate:problem:database-unavailable"
        assert proxy.has_held_data
        if lands:
            await proxy.deliver_held()
        else:
            await proxy.drop_held()
        await _until_recorded(tenant, "not_started")
        again = await tenant.create("reopened")
        assert (again.status_code, again.json()["id"]) == (201, call_id)
        assert len(upstream.posts) == 2


async def test_a_reopening_with_an_unknown_commit_does_not_withdraw_the_next_attempt(database_url: str) -> None:
    """Covers two requests that both make the second attempt with the same key. Only the committed attempt counts."""
    async with (
        running_upstream(error(401, 20003), created_after_release()) as upstream,
        gateway_behind_proxy(database_url, **LONG_TIMEOUTS) as (gateway, proxy),
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["call_id"]
        proxy.hold(b"COMMIT", passing=1)
        assert (await tenant.create("k")).status_code == 503
        await proxy.drop_held()
        creating = asyncio.create_task(tenant.create("k"))
        async with asyncio.timeout(TIMEOUT_S):
            while len(upstream.posts) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1)  # enough time for the withdrawal
        assert (await tenant.create("k")).status_code == 409, "the call is being dialled"
        upstream.released.set()
        response = await creating
        assert (response.status_code, response.json()["id"]) == (201, call_id)
        assert len(upstream.posts) == 2


@asynccontextmanager
async def _read_only(database_url: str) -> AsyncIterator[None]:
    """Makes the database read-only until the block ends, like a standby after a failover: reads succeed, writes are refused."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    name = make_url(database_url).database
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    try:
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.fetch(cut, name)
        yield
    finally:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await connection.fetch(cut, name)
        await connection.close()


async def _until_refused(tenant: Tenant) -> None:
    """Waits until a creation gets a 503, because the gateway uses a new session, which is read-only."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await tenant.create()).status_code != 503:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)


def _database_error_count(capsys: pytest.CaptureFixture[str]) -> int:
    return capsys.readouterr().out.count("database_unavailable")


async def test_creations_refused_by_a_read_only_postgres_are_not_retried(
    gateway: Gateway, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create("warm")).status_code == 201
        async with _read_only(database_url):
            await _until_refused(tenant)
            _database_error_count(capsys)
            refused = [await tenant.create(f"refused-{number}") for number in range(10)]
            assert {answer.status_code for answer in refused} == {503}
            assert _database_error_count(capsys) >= 10
            await asyncio.sleep(2)
            assert _database_error_count(capsys) < 5, "refused creations are not retried"
        async with asyncio.timeout(TIMEOUT_S):
            while (await tenant.create("refused-0")).status_code != 201:
                await asyncio.sleep(0.1)
        assert len(upstream.posts) == 2


async def test_outcomes_that_wait_for_postgres_are_retried_together_with_growing_delays(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(database_url, **LONG_TIMEOUTS)
    async with running_gateway(settings) as gateway, running_upstream(created_after_release()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        creating = [asyncio.create_task(tenant.create()) for _ in range(12)]
        async with asyncio.timeout(TIMEOUT_S):
            while len(upstream.posts) < 12:
                await asyncio.sleep(0.01)
        async with _read_only(database_url):
            upstream.released.set()
            responses = await asyncio.gather(*creating)
            assert {answer.status_code for answer in responses} == {202}
            _database_error_count(capsys)
            await asyncio.sleep(5)
            assert 0 < _database_error_count(capsys) < 7, "one task retries all of them"
        async with asyncio.timeout(TIMEOUT_S):
            while {execution for execution, _ in await _records(tenant)} != {"started"}:
                await asyncio.sleep(0.1)
        assert len(upstream.posts) == 12


# ---- records that a worker has marked as `unknown`, because they were pending for too long


async def _abandon(gateway: Gateway, call_id: str, *, attempt: int = 1) -> None:
    """Makes the record look as if its process had lost Postgres after the intent's commit, and lets a worker find it."""
    statement = """UPDATE call SET execution = 'pending', settled_by = NULL, settled_at = NULL, problem = NULL,
        attempt = :attempt, pending_since = now() - interval '1 h' WHERE id = :id"""
    async with gateway.database.begin() as session:
        await session.execute(text(statement), {"id": call_id, "attempt": attempt})
    async with running_resolver(gateway, searches=1) as resolver:
        assert await resolver.mark_abandoned_calls()


async def _outcome(tenant: Tenant, call_id: str) -> tuple[str, str | None]:
    record = (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()
    return record["execution"], (record["problem"] or {}).get("slug")


async def _intent(gateway: Gateway, call_id: str) -> NewCall:
    async with gateway.database.begin() as session:
        call = await session.get(Call, UUID(call_id))
    return NewCall(**{each.name: getattr(call, each.name) for each in fields(NewCall)})


async def test_an_intent_that_is_unknown_to_a_worker_is_withdrawn(gateway: Gateway) -> None:
    async with (
        running_upstream(error(401, 20003), created()) as upstream,
        open_services(gateway.settings, Metrics()) as state,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["call_id"]
        intent = await _intent(gateway, call_id)
        withdrawals = UndialledCallRecorder(state["database"], state["settlement"])
        await _abandon(gateway, call_id)
        assert await _outcome(tenant, call_id) == ("unknown", None)
        withdrawals.mark_call_not_started(intent)
        await withdrawals.close()
        assert await _outcome(tenant, call_id) == ("not_started", "database-unavailable")
        again = await tenant.create("k")
        assert (again.status_code, again.json()["id"]) == (201, call_id)
        assert len(upstream.posts) == 2


async def test_an_attempt_that_is_not_the_withdrawn_one_stays_unknown(gateway: Gateway) -> None:
    async with (
        running_upstream(error(401, 20003)) as upstream,
        open_services(gateway.settings, Metrics()) as state,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["call_id"]
        intent = await _intent(gateway, call_id)
        withdrawals = UndialledCallRecorder(state["database"], state["settlement"])
        await _abandon(gateway, call_id, attempt=2)
        withdrawals.mark_call_not_started(intent)
        withdrawals.mark_attempt_not_started(UUID(call_id), 1, event_id=uuid7())
        withdrawals.mark_attempt_not_started(UUID(call_id), 2, event_id=uuid7())
        await withdrawals.close()
        assert await _outcome(tenant, call_id) == ("unknown", None)


async def test_a_reopening_that_is_unknown_to_a_worker_is_withdrawn(gateway: Gateway) -> None:
    async with (
        running_upstream(error(401, 20003)) as upstream,
        open_services(gateway.settings, Metrics()) as state,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["call_id"]
        event_id = uuid7()
        async with gateway.database.begin() as session:
            await add_event(session, UUID(call_id), "call.pending", {"attempt": 2}, event_id=event_id)
        withdrawals = UndialledCallRecorder(state["database"], state["settlement"])
        await _abandon(gateway, call_id, attempt=2)
        withdrawals.mark_attempt_not_started(UUID(call_id), 2, event_id=event_id)
        await withdrawals.close()
        assert await _outcome(tenant, call_id) == ("not_started", "database-unavailable")


# ---- scheduled calls, which are not withdrawn


@pytest.mark.parametrize("lands", [True, False])
async def test_a_call_whose_grant_has_an_unknown_commit_waits_again_and_rings_once(
    gateway: Gateway, database_url: str, lands: bool
) -> None:
    async with running_upstream(created()) as upstream, worker_behind_proxy(database_url) as (worker, proxy):
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create(priority="normal")).json()["id"]
        dialer = make_dialer(worker)
        proxy.hold(b"COMMIT")
        with pytest.raises(DatabaseUnavailable):
            await dialer.step()
        assert proxy.has_held_data
        await (proxy.deliver_held() if lands else proxy.drop_held())
        async with asyncio.timeout(TIMEOUT_S):
            while await _records(tenant) != [("started", BASIC_CALL["to"])]:
                await dialer.step()
                await dialer.drain()
                await asyncio.sleep(0.05)
        types = [event["type"] for event in await tenant.events(call_id)]
        assert types == ["call.scheduled", "call.pending"] * (1 + lands) + ["call.started"]
        assert len(upstream.posts) == 1


async def _grant(gateway: Gateway, account_id: UUID) -> DialGrant:
    """Grants a call as another worker does. Waits until no other transaction has locked the account."""
    async with asyncio.timeout(TIMEOUT_S):
        while not (granted := await grant_calls(gateway.database, account_id, limit=1)).grants:
            await asyncio.sleep(0.05)
    return granted.grants[0]


async def test_a_grant_with_an_unknown_commit_does_not_put_back_the_grant_of_another_worker(
    gateway: Gateway, database_url: str
) -> None:
    """The first grant is rolled back. So the second grant is for the same attempt, and its worker may be dialling the call."""
    async with worker_behind_proxy(database_url) as (worker, proxy):
        tenant = await gateway.add_tenant()
        assert (await tenant.create(priority="normal")).status_code == 202
        account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
        assert account_id
        in_doubt: list[DialGrant] = []
        proxy.hold(b"COMMIT")
        with pytest.raises(DatabaseUnavailable):
            await grant_calls(worker["database"], account_id, limit=1, make_call_wait_again=in_doubt.append)
        await proxy.drop_held()
        (first,), second = in_doubt, await _grant(gateway, account_id)
        assert (first.call.id, first.call.attempt) == (second.call.id, second.call.attempt)
        for grant, before, after in [(first, "pending", "pending"), (second, "unknown", "scheduled")]:
            await gateway.database.fetch("UPDATE call SET execution = $2 WHERE id = $1", grant.call.id, before)
            worker["granted_call_dialer"].requeue_undialled_call(grant)
            await worker["granted_call_dialer"].placer.undialled_calls.close()
            assert [execution for execution, _ in await _records(tenant)] == [after]


async def _queue_ids(gateway: Gateway, tenant: Tenant) -> list[tuple[UUID, UUID]]:
    """Returns, for each call of the tenant, the id of its queue, and of the queue in which it waits."""
    statement = (
        "SELECT call.queue_id, dial.queue_id FROM call JOIN scheduled_dial AS dial ON call_id = id WHERE call.tenant_id = $1"
    )
    return [tuple(row) for row in await gateway.database.fetch(statement, tenant.id)]


@pytest.mark.parametrize("key", ["scheduled-in-doubt", None])
@pytest.mark.parametrize("lands", ["at once", "late", "never"])
async def test_a_scheduled_intent_with_an_unknown_commit_is_written_and_dialled_once(
    database_url: str, lands: str, key: str | None
) -> None:
    to = "sip:scheduled-in-doubt@example.com"
    async with (
        running_upstream(created()) as upstream,
        gateway_behind_proxy(database_url) as (gateway, proxy),
        running_dialer(gateway, database_url=SecretStr(database_url), **LONG_TIMEOUTS) as dialer,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
        proxy.hold(to.encode())
        response = await tenant.create(key, to=to, queue="reminders")
        assert (response.status_code, response.json()["execution"]) == (202, "unknown")
        if lands == "at once":
            await proxy.deliver_held()
        elif lands == "never":
            await proxy.drop_held()
        await _until_recorded(tenant, "scheduled")
        await proxy.deliver_held()
        ((queue_id, waiting_in),) = await _queue_ids(gateway, tenant)
        assert queue_id == waiting_in
        if key:
            again = await tenant.create(key, to=to, queue="reminders")
            assert (again.status_code, again.json()["execution"]) == (200, "scheduled")
        await dial_all(dialer)
        record = (await tenant.http.get(f"/v1/calls/{response.json()['id']}")).raise_for_status().json()
        assert record["execution"] == "started"
        assert await _records(tenant) == [("started", to)]
        assert len(upstream.posts) == 1


async def test_a_scheduled_intent_that_is_written_again_while_it_is_dialled_rings_once(database_url: str) -> None:
    async with (
        running_upstream(created_after_release()) as upstream,
        gateway_behind_proxy(database_url) as (gateway, proxy),
        running_dialer(gateway, database_url=SecretStr(database_url), **LONG_TIMEOUTS) as dialer,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        proxy.hold(b"dialled-in-doubt")
        assert (await tenant.create("dialled-in-doubt", priority="normal")).json()["execution"] == "unknown"
        await proxy.deliver_held()
        await dialer.step()
        await upstream.wait_for_post()
        await asyncio.sleep(1)  # enough time for the repetition
        assert await _records(tenant) == [("pending", BASIC_CALL["to"])]
        upstream.released.set()
        await dial_all(dialer)
        assert await _records(tenant) == [("started", BASIC_CALL["to"])]
        assert len(upstream.posts) == 1


async def _new_intent(gateway: Gateway, tenant: Tenant, key: str, *, not_before_in: timedelta = timedelta(0)) -> ScheduledCall:
    """Returns the intent of a scheduled call of the tenant that is not inserted yet."""
    call_id = (await tenant.create(priority="normal")).json()["id"]
    call = replace(await _intent(gateway, call_id), id=uuid7(), idempotency_key=key)
    not_before = datetime.now(UTC) + not_before_in
    return ScheduledCall(
        call, CallSchedule(NO_QUEUE, uuid7(), 1, not_before, not_before + timedelta(hours=1), not_before, None)
    )


async def test_a_scheduled_intent_whose_request_is_canceled_is_written(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    intent = await _new_intent(gateway, tenant, "canceled")
    intents = ScheduledIntentWriter(gateway.database)
    committing = asyncio.create_task(intents.commit_intent(intent))
    await asyncio.sleep(0)  # The task now waits for its commit.
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    await intents.close()
    assert len(intents) == 0
    assert await _outcome(tenant, str(intent.call.id)) == ("scheduled", None)


@pytest.mark.parametrize(("insert_again_for_s", "records"), [(60, 2), (0, 1)])
async def test_a_scheduled_intent_with_an_unknown_commit_is_not_inserted_late(
    gateway: Gateway, database_url: str, insert_again_for_s: float, records: int
) -> None:
    """An insert is repeated for a limited time. A data folder that is restored later has the identity of its original."""
    tenant = await gateway.add_tenant()
    intent = await _new_intent(gateway, tenant, "late-in-doubt")
    async with worker_behind_proxy(database_url) as (worker, proxy):
        intents = ScheduledIntentWriter(worker["database"], insert_again_for_s=insert_again_for_s)
        proxy.hold(b"late-in-doubt")
        assert await intents.commit_intent(intent)
        assert intent.call.execution == "unknown"
        await proxy.drop_held()
        async with asyncio.timeout(TIMEOUT_S):
            while len(intents):
                await intents.close()
    assert len(await _records(tenant)) == records


@pytest.mark.parametrize(
    ("not_before_in", "execution", "waiting", "slots"),
    [(timedelta(0), "pending", 0, 1), (timedelta(hours=1), "scheduled", 1, 0)],
)
async def test_a_scheduled_intent_with_an_unknown_commit_is_not_dialled_after_a_failover_if_it_was_due(
    gateway: Gateway, database_url: str, not_before_in: timedelta, execution: str, waiting: int, slots: int
) -> None:
    """The old server may have dialled the call, and the new one may have lost its record. So Twilio's list must be searched."""
    tenant = await gateway.add_tenant()
    intent = await _new_intent(gateway, tenant, "failed-over", not_before_in=not_before_in)
    intent.call.created_at -= timedelta(minutes=20)  # this machine's clock is late
    ((server,),) = await gateway.database.fetch("SELECT pg_get_functiondef('callgate_server'::regproc)")
    async with worker_behind_proxy(database_url) as (worker, proxy):
        intents = ScheduledIntentWriter(worker["database"])
        proxy.hold(b"failed-over")
        assert await intents.commit_intent(intent)
        try:
            await gateway.database.fetch(
                "CREATE OR REPLACE FUNCTION callgate_server() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'another' $$"
            )
            await proxy.drop_held()
            async with asyncio.timeout(TIMEOUT_S):
                while len(intents):
                    await intents.close()
        finally:
            await gateway.database.fetch(server)
    assert await _outcome(tenant, str(intent.call.id)) == (execution, None)
    assert len(await gateway.database.fetch("SELECT FROM scheduled_dial WHERE call_id = $1", intent.call.id)) == waiting
    pending_since = "SELECT FROM call WHERE id = $1 AND execution = 'pending' AND pending_since = $2"
    assert len(await gateway.database.fetch(pending_since, intent.call.id, intent.schedule.not_before)) == slots
    # The search may find the call while Twilio still queues it.
    slot = "SELECT FROM dial_slot WHERE call_id = $1 AND ring_by = $2 AND until > $2"
    assert len(await gateway.database.fetch(slot, intent.call.id, intent.schedule.ring_by)) == slots


async def test_the_first_scheduled_intents_ask_once_for_the_server(gateway: Gateway, database_url: str) -> None:
    tenant = await gateway.add_tenant()
    first = await _new_intent(gateway, tenant, "first")
    calls = [replace(first.call, id=uuid7(), idempotency_key=f"first-{number}") for number in range(20)]
    database = _RecordingDatabase(database_url, pool_size=1)
    try:
        intents = ScheduledIntentWriter(database)
        assert all(await asyncio.gather(*(intents.commit_intent(ScheduledCall(each, first.schedule)) for each in calls)))
    finally:
        await database.close()
    assert [len(json.loads(rows)) for rows in database.sent].count(0) == 1
    assert len(await _records(tenant)) == 21


async def test_lines_with_an_unknown_commit_are_written_and_can_be_sent_again(database_url: str) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy):
        tenant = await gateway.add_tenant()
        (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
        keys = [f"line-{number}" for number in range(50)]
        content = "\n".join(json.dumps({"key": key} | BASIC_CALL) for key in keys)

        async def add() -> list[dict[str, Any]]:
            headers = {"Content-Type": "application/x-ndjson"}
            answer = await tenant.http.post("/v1/queues/reminders/calls", content=content, headers=headers)
            return [json.loads(line) for line in answer.raise_for_status().text.splitlines()]

        proxy.hold(b"line-49")
        first = await add()
        assert {line["status"] for line in first} == {202}
        assert first[-1]["execution"] == "unknown"
        await proxy.drop_held()
        async with asyncio.timeout(TIMEOUT_S):
            while len(await _queue_ids(gateway, tenant)) < len(keys):
                await asyncio.sleep(0.05)
        again = await add()
        assert {(line["status"], line["execution"]) for line in again} == {(200, "scheduled")}
        assert [line["id"] for line in again] == [line["id"] for line in first]
        assert all(queue_id == waiting_in for queue_id, waiting_in in await _queue_ids(gateway, tenant))


async def test_a_scheduled_call_that_was_withdrawn_is_in_its_queue_when_it_is_repeated(gateway: Gateway) -> None:
    """Covers the records of a version that withdrew scheduled calls."""
    tenant = await gateway.add_tenant()
    (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
    call_id = (await tenant.create("withdrawn", queue="reminders")).json()["id"]
    ended = """UPDATE call SET execution = 'not_started', settled_by = 'response', queue_id = NULL,
        problem = '{"slug": "database-unavailable", "detail": "", "after_s": null}' WHERE id = :id"""
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM scheduled_dial WHERE call_id = :id"), {"id": call_id})
        await session.execute(text(ended), {"id": call_id})
    again = await tenant.create("withdrawn", queue="reminders")
    assert (again.status_code, again.json()["id"], again.json()["execution"]) == (202, call_id, "scheduled")
    ((queue_id, waiting_in),) = await _queue_ids(gateway, tenant)
    assert queue_id == waiting_in
