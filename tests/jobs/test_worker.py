"""Tests the worker over a real Postgres and a real simulator: it updates records, and settles unknown outcomes."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.errors import DatabaseUnavailable
from app.jobs.partitions import PartitionCreator
from app.jobs.refresh import CallRefresher
from app.jobs.resolve import OutcomeResolver
from app.jobs.worker import Job, run_jobs
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.gateway import Gateway, Tenant, running_app, running_gateway, settings_for
from tests.support.jobs import run_step, running_refresher, running_resolver
from tests.support.logs import logging_to
from tests.support.postgres_clock import url_with_other_clock
from tests.support.upstream import Behaviour, answer, call_resource, created, error, hang, proxy_page, reset, running_upstream


class Clock:
    """The simulator's clock, which tests move."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def simulated(gateway: Gateway, clock: Clock) -> AsyncIterator[Tenant]:
    """A tenant whose Twilio is the simulator."""
    async with running_app(create_simulator(SimulatorConfig(open_mode=True, clock=clock))) as url:
        yield await gateway.add_tenant(url)


@pytest.fixture
async def refresher(gateway: Gateway) -> AsyncIterator[CallRefresher]:
    async with running_refresher(gateway, timeout_s=1) as running:
        yield running


@pytest.fixture
async def resolver(gateway: Gateway) -> AsyncIterator[OutcomeResolver]:
    """A resolver that sends no request to Twilio, because no search is due in these tests."""
    async with running_resolver(gateway, searches=5, max_start_delay=timedelta(minutes=2), timeout_s=1) as running:
        yield running


async def _age(gateway: Gateway, call_id: str, *, seconds: int) -> None:
    """Sets the time when the call started to `seconds` seconds ago."""
    async with gateway.database.begin() as session:
        statement = text("UPDATE call SET settled_at = now() - make_interval(secs => :seconds) WHERE id = :id")
        await session.execute(statement, {"id": call_id, "seconds": seconds})


async def _make_due(gateway: Gateway) -> None:
    """Makes all planned refreshes due now."""
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = now() WHERE refresh_at IS NOT NULL"))


async def _stop_all_refreshes(gateway: Gateway) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = NULL"))


async def _refreshed(gateway: Gateway, refresher: CallRefresher, tenant: Tenant, call_id: str) -> dict[str, Any]:
    await _make_due(gateway)
    assert await run_step(refresher)
    record: dict[str, Any] = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
    return record


async def _refresh_at(gateway: Gateway, call_id: str) -> datetime | None:
    async with gateway.database.begin() as session:
        due: datetime | None = await session.scalar(text("SELECT refresh_at FROM call WHERE id = :id"), {"id": call_id})
    return due


async def test_the_record_is_refreshed_until_it_has_a_price(
    gateway: Gateway, simulated: Tenant, refresher: CallRefresher, clock: Clock
) -> None:
    await _stop_all_refreshes(gateway)
    placed = (await simulated.create()).json()
    call_id, seen = placed["id"], [placed["status"]]
    for _ in range(200):
        clock.move(seconds=1)
        record = await _refreshed(gateway, refresher, simulated, call_id)
        if record["status"] not in seen:
            seen.append(record["status"])
        if record["price"]:
            break
    assert seen == ["queued", "ringing", "in-progress", "completed"]
    assert record["price"] == "-0.00750"
    assert record["duration"] > 0
    assert await _refresh_at(gateway, call_id) is None
    events = await simulated.events(call_id)
    statuses = [event["data"]["status"] for event in events if event["type"] == "call.status"]
    assert statuses == ["ringing", "in-progress", "completed"]
    assert events[-1]["type"] == "call.priced"


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed"])
async def test_a_call_that_is_not_answered_has_twilios_final_status(
    gateway: Gateway, simulated: Tenant, refresher: CallRefresher, clock: Clock, status: str
) -> None:
    await _stop_all_refreshes(gateway)
    call_id = (await simulated.create(to=f"sip:{status}@example.com")).json()["id"]
    clock.move(minutes=5)
    record = await _refreshed(gateway, refresher, simulated, call_id)
    assert (record["execution"], record["status"]) == ("started", status)


async def test_an_earlier_state_never_overwrites_a_later_one(gateway: Gateway, refresher: CallRefresher) -> None:
    sid = "CA" + "d" * 31 + "1"
    course = [
        call_resource(sid, status="ringing"),
        call_resource(sid, status="queued"),
        call_resource(sid, status="completed", duration="9", price="-0.02000"),
        call_resource(sid, status="in-progress"),
        call_resource(sid, status="busy"),
        call_resource(sid, status="completed", duration=None, price=None),
    ]
    async with running_upstream(answer(201, call_resource(sid)), *(answer(200, state) for state in course)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        shown = []
        for _ in course:
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = :id"), {"id": call_id})
            await run_step(refresher)
            record = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
            shown.append((record["status"], record["duration"], record["price"]))
    done = ("completed", 9, "-0.02000")
    assert shown == [("ringing", None, None)] * 2 + [done] * 4


async def test_two_workers_refresh_each_call_once(gateway: Gateway, simulated: Tenant, refresher: CallRefresher) -> None:
    await _stop_all_refreshes(gateway)
    for _ in range(30):
        await simulated.create()
    await _make_due(gateway)

    async def work() -> None:
        while await run_step(refresher):
            pass

    await asyncio.gather(work(), work(), work())
    looked = sum(sample.value for metric in refresher.metrics.calls.refreshes.collect() for sample in metric.samples)
    created_samples = [s for m in refresher.metrics.calls.refreshes.collect() for s in m.samples if s.name.endswith("_created")]
    assert looked - sum(sample.value for sample in created_samples) == 30


async def test_a_refresh_that_cannot_reach_twilio_is_repeated_later(gateway: Gateway, refresher: CallRefresher) -> None:
    async with running_upstream(created(), error(500, 20500)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        record = await _refreshed(gateway, refresher, tenant, call_id)
    assert record["status"] == "queued"
    due = await _refresh_at(gateway, call_id)
    assert due is not None
    assert due > datetime.now(UTC)


async def test_an_unanswered_call_is_refreshed_for_its_price_only_for_a_short_time(
    gateway: Gateway, refresher: CallRefresher
) -> None:
    sid = "CA" + "b" * 32
    ended = [
        answer(200, call_resource(sid, status="busy", end_time=format_datetime(datetime.now(UTC) - timedelta(minutes=ago))))
        for ago in (9, 11)
    ]
    async with running_upstream(answer(201, call_resource(sid)), *ended) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        await _refreshed(gateway, refresher, tenant, call_id)
        assert await _refresh_at(gateway, call_id) is not None
        await _refreshed(gateway, refresher, tenant, call_id)
        assert await _refresh_at(gateway, call_id) is None


@pytest.mark.parametrize("way", ["refresh", "compat"])
async def test_a_call_that_was_deleted_at_twilio_is_not_refreshed(gateway: Gateway, refresher: CallRefresher, way: str) -> None:
    ended = call_resource(status="busy")
    missing = error(404, 20404)
    async with running_upstream(answer(201, ended), missing) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call = (await tenant.create()).json()
        fetch = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{ended['sid']}.json"
        await _age(gateway, call["id"], seconds=30)
        assert (await _refreshed(gateway, refresher, tenant, call["id"]))["deleted_at"] is None, "it may not be visible yet"
        await _age(gateway, call["id"], seconds=61)
        if way == "refresh":
            assert (await _refreshed(gateway, refresher, tenant, call["id"]))["deleted_at"] is not None
            assert await _refresh_at(gateway, call["id"]) is None
        asked = len(upstream.received)
        assert (await tenant.http.get(fetch)).status_code == 404
        assert len(upstream.received) - asked == (0 if way == "refresh" else 1)
        asked = len(upstream.received)
        assert (await tenant.http.get(fetch)).status_code == 404
        await _make_due(gateway)
        assert not await run_step(refresher)
        assert len(upstream.received) == asked
    deleted = [event["data"] for event in await tenant.events(call["id"]) if event["type"] == "call.deleted"]
    assert deleted == [{"by": "twilio"}]


async def test_a_proxys_404_deletes_nothing(gateway: Gateway, refresher: CallRefresher) -> None:
    async with running_upstream(answer(201, call_resource(status="busy")), proxy_page(404)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        await _age(gateway, call_id, seconds=61)
        assert (await _refreshed(gateway, refresher, tenant, call_id))["deleted_at"] is None
        assert await _refresh_at(gateway, call_id) is not None


async def test_a_call_that_has_not_ended_counts_as_deleted_after_an_hour_of_404s(
    gateway: Gateway, refresher: CallRefresher
) -> None:
    async with running_upstream(created(), error(404, 20404)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        await _age(gateway, call_id, seconds=3500)
        assert (await _refreshed(gateway, refresher, tenant, call_id))["deleted_at"] is None
        assert await _refresh_at(gateway, call_id) is not None
        await _age(gateway, call_id, seconds=3700)
        assert (await _refreshed(gateway, refresher, tenant, call_id))["deleted_at"] is not None
        assert await _refresh_at(gateway, call_id) is None


async def test_a_404_for_a_new_call_does_not_mean_that_it_was_deleted_if_clocks_differ(gateway: Gateway) -> None:
    """The clock of Callgate's machine is two hours ahead of that of Postgres."""
    url = await url_with_other_clock(gateway.database, gateway.settings.require_database_url(), offset="-2 hours")
    missing = error(404, 20404)
    async with (
        running_upstream(created(), missing) as upstream,
        running_gateway(settings_for(url)) as behind,
        running_refresher(behind, timeout_s=1) as refresher,
    ):
        await _stop_all_refreshes(behind)
        tenant = await behind.add_tenant(upstream.url)
        call = (await tenant.create()).json()
        assert (await _refreshed(behind, refresher, tenant, call["id"]))["deleted_at"] is None
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{call['sid']}.json"
        assert (await tenant.http.get(path)).status_code == 200
        assert (await tenant.http.delete(path)).status_code == 404
        assert (await tenant.http.patch(f"/v1/calls/{call['id']}", json={"status": "canceled"})).status_code == 202
        assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["deleted_at"] is None


async def test_only_a_404_of_twilio_means_that_a_call_is_gone(gateway: Gateway, refresher: CallRefresher) -> None:
    async with running_upstream(created(), proxy_page(404), error(404, 20404)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        await _age(gateway, call_id, seconds=3700)
        assert (await _refreshed(gateway, refresher, tenant, call_id))["deleted_at"] is None
        assert await _refresh_at(gateway, call_id) is not None
        await _age(gateway, call_id, seconds=3700)
        assert (await _refreshed(gateway, refresher, tenant, call_id))["deleted_at"] is not None
        assert await _refresh_at(gateway, call_id) is None


async def test_a_404_of_the_list_deletes_no_call_and_each_call_is_fetched(gateway: Gateway, refresher: CallRefresher) -> None:
    async with running_upstream(created(), created(), created(), error(404, 20404), proxy_page(500)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        placed = [(await tenant.create()).json() for _ in range(3)]
        for record in placed:
            await _age(gateway, record["id"], seconds=3700)
        await _refreshed(gateway, refresher, tenant, placed[0]["id"])
        for record in placed:
            assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["deleted_at"] is None
            assert await _refresh_at(gateway, record["id"]) is not None
        fetched = {request.path.rpartition("/")[2] for request in upstream.received[4:]}
        assert fetched == {f"{record['sid']}.json" for record in placed}


@pytest.mark.parametrize(
    ("behaviour", "is_lasting"),
    [
        (proxy_page(503), False),
        (error(500, 20500), False),
        (error(401, 20003), False),
        (hang, False),
        (reset, False),
        (answer(200, call_resource("CA" + "f" * 32)), False),
        (error(400, 20001), True),
    ],
)
async def test_an_old_call_is_given_up_only_after_an_answer_or_after_a_month_of_errors(
    gateway: Gateway, behaviour: Behaviour, is_lasting: bool
) -> None:
    async with running_upstream(created(), behaviour) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        for days in (29, 31):
            await _age(gateway, call_id, seconds=days * 86400)
            async with running_refresher(gateway, timeout_s=1) as refresher:
                await _make_due(gateway)
                await run_step(refresher)
            due = await _refresh_at(gateway, call_id)
            assert (due is None) == (is_lasting or days == 31)
            # Calls that nobody can refresh any more cost little.
            assert due is None or due > datetime.now(UTC) + timedelta(minutes=50)


@pytest.mark.parametrize("way", ["credential", "connection"])
async def test_an_old_call_whose_account_cannot_be_asked_is_given_up_after_a_month(gateway: Gateway, way: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
    if way == "credential":
        await gateway.database.fetch("UPDATE twilio_credential SET revoked_at = now() WHERE username = $1", tenant.account_sid)
    for days in (29, 31):
        await _age(gateway, call_id, seconds=days * 86400)
        async with running_refresher(gateway, timeout_s=1) as refresher:
            await _make_due(gateway)
            await run_step(refresher)
        assert (await _refresh_at(gateway, call_id) is None) == (days == 31)


async def test_requests_for_an_account_that_does_not_answer_are_paused(gateway: Gateway) -> None:
    """The list and the first fetches time out. The other calls are not fetched, and the next step sends nothing."""
    async with (
        running_upstream(*[created()] * 12, hang) as upstream,
        running_refresher(gateway, timeout_s=2) as refresher,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        ids = [(await tenant.create()).json()["id"] for _ in range(12)]
        await _make_due(gateway)
        assert await run_step(refresher)
        asked = len(upstream.received) - 12
        assert 1 <= asked <= 1 + 5
        for call_id in ids:
            due = await _refresh_at(gateway, call_id)
            assert due is not None
            assert due > datetime.now(UTC) + timedelta(seconds=20)
        await _make_due(gateway)
        assert await run_step(refresher)
        assert len(upstream.received) - 12 == asked


async def test_a_pause_of_refreshes_is_as_long_as_twilio_asks_if_clocks_differ(gateway: Gateway) -> None:
    """Postgres's clock, which decides when a call is due, is two hours behind this machine's clock."""
    url = await url_with_other_clock(gateway.database, gateway.settings.require_database_url(), offset="-2 hours")
    throttled = answer(429, {"code": 20429, "message": "", "status": 429}, headers={"Retry-After": "300"})
    async with (
        running_upstream(created(), throttled) as upstream,
        running_gateway(settings_for(url)) as behind,
        running_refresher(behind, timeout_s=2) as refresher,
    ):
        tenant = await behind.add_tenant(upstream.url)
        await _stop_all_refreshes(behind)
        call_id = (await tenant.create()).raise_for_status().json()["id"]
        await _make_due(behind)
        assert await run_step(refresher)
        (row,) = await behind.database.fetch("SELECT refresh_at - now() AS wait FROM call WHERE id = $1", UUID(call_id))
    assert timedelta(seconds=240) < row["wait"] <= timedelta(seconds=301)


async def test_an_account_that_hangs_or_has_many_due_calls_delays_no_refresh_of_another(gateway: Gateway) -> None:
    good = call_resource(status="ringing")
    async with (
        running_upstream(created(), hang) as hanging,
        running_upstream(answer(201, good), answer(200, good)) as answering,
        running_refresher(gateway, timeout_s=60) as refresher,
    ):
        slow, fast = await gateway.add_tenant(hanging.url), await gateway.add_tenant(answering.url)
        await _stop_all_refreshes(gateway)
        await slow.create()
        await _make_due(gateway)
        assert await refresher.step()
        while len(hanging.received) < 2:
            await asyncio.sleep(0.01)
        fast_id = (await fast.create()).json()["id"]
        # The call of the slow account is due again: its new due time is not leased.
        await _make_due(gateway)
        assert await refresher.step()
        while (await fast.http.get(f"/v1/calls/{fast_id}")).json()["status"] != "ringing":
            await asyncio.sleep(0.05)
        assert len(hanging.received) == 2
        assert await gateway.directory.find_account_id(slow.id, account_sid=slow.account_sid) in refresher.tasks.busy_accounts()
        refresher.tasks.wake.clear()
        hanging.close_connections()
        await refresher.tasks.drain()
        assert refresher.tasks.wake.is_set()


async def test_an_error_with_one_call_does_not_stop_the_others(gateway: Gateway, refresher: CallRefresher) -> None:
    good, bad = call_resource(status="ringing"), call_resource(status="ringing")
    async with running_upstream(answer(201, good), answer(200, good)) as one, running_upstream(answer(201, bad), hang) as other:
        happy, unhappy = await gateway.add_tenant(one.url), await gateway.add_tenant(other.url)
        await _stop_all_refreshes(gateway)
        happy_id = (await happy.create()).json()["id"]
        await unhappy.create()
        assert (await _refreshed(gateway, refresher, happy, happy_id))["status"] == "ringing"


async def test_a_claimed_call_is_leased_longer_than_a_refresh_can_take(gateway: Gateway) -> None:
    async with running_upstream(created(), hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await _stop_all_refreshes(gateway)
        call_id = (await tenant.create()).json()["id"]
        await _make_due(gateway)
        async with running_refresher(gateway, timeout_s=20) as patient, running_refresher(gateway) as another:
            await patient.step()
            while len(upstream.received) < 2:
                await asyncio.sleep(0.01)
            assert await another.step() is False
            async with gateway.database.begin() as session:
                left = await session.scalar(text("SELECT until - now() FROM lease WHERE call_id = :id"), {"id": call_id})
            upstream.close_connections()
            await patient.tasks.drain()
    assert timedelta(0) < left < 10 * timedelta(seconds=20)


async def test_an_abandoned_creation_becomes_unknown_and_is_not_dialled(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with running_upstream(hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["id"]
        async with gateway.database.begin() as session:
            await session.execute(
                text("UPDATE call SET execution = 'pending', pending_since = now() - interval '1 hour' WHERE id = :id"),
                {"id": call_id},
            )
        assert await resolver.mark_abandoned_calls()
        assert await resolver.mark_abandoned_calls() is False
        again = await tenant.create("k")
        assert (again.status_code, again.json()["execution"]) == (200, "unknown")
        assert len(upstream.posts) == 1
    last = (await tenant.events(call_id))[-1]
    assert (last["type"], last["data"]) == ("call.unknown", {"reason": "abandoned"})


async def test_a_young_pending_creation_is_not_changed(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with running_upstream(hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        async with gateway.database.begin() as session:
            await session.execute(
                text("UPDATE call SET execution = 'pending', pending_since = now() WHERE id = :id"), {"id": call_id}
            )
        assert await resolver.mark_abandoned_calls() is False


async def test_several_workers_make_each_partition_of_the_coming_months_once(gateway: Gateway) -> None:
    partitioner = PartitionCreator(gateway.database)
    await asyncio.gather(partitioner.step(), partitioner.step())
    await partitioner.step()
    async with gateway.database.begin() as session:
        found = await session.scalars(
            text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'call_event'::regclass")
        )
    months = {datetime.now(UTC).date().replace(day=1)}
    for _ in range(3):
        months.add((max(months) + timedelta(days=31)).replace(day=1))
    assert set(found) == {"call_event_default"} | {f"call_event_{month:%Y_%m}" for month in months}


async def test_events_are_in_the_partition_of_their_month(gateway: Gateway) -> None:
    await PartitionCreator(gateway.database).step()
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
    assert [event["type"] for event in await tenant.events(call_id)] == ["call.pending", "call.started"]
    async with gateway.database.begin() as session:
        where = await session.scalar(
            text("SELECT tableoid::regclass::text FROM call_event WHERE call_id = :id LIMIT 1"), {"id": call_id}
        )
    assert where == f"call_event_{datetime.now(UTC):%Y_%m}"


async def test_a_job_that_fails_logs_each_cause_and_the_others_go_on() -> None:
    stop, log, others = asyncio.Event(), io.StringIO(), 0

    async def fail() -> bool:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raise(KeyError("planted")))
            group.create_task(_raise(DatabaseUnavailable()))
        return False

    async def go_on() -> bool:
        nonlocal others
        others += 1
        if others == 3:
            stop.set()
        return False

    with logging_to(log, format_="json"):
        await run_jobs([Job("failing", fail, 0.01), Job("other", go_on, 0.01)], stop)
    (line,) = log.getvalue().splitlines()
    result = json.loads(line)
    assert (result["event"], result["job"]) == ("job_failed", "failing")
    assert "KeyError" in line
    assert "ExceptionGroup" not in line


async def test_a_job_that_cannot_finish_when_the_worker_stops_does_not_cancel_the_others() -> None:
    stop, log, finished = asyncio.Event(), io.StringIO(), []

    async def stop_at_once() -> bool:
        stop.set()
        return False

    async def finish_after_the_failure() -> None:
        while not log.getvalue():
            await asyncio.sleep(0)
        finished.append("other")

    with logging_to(log, format_="json"):
        jobs = [
            Job("failing", stop_at_once, 0.01, lambda: _raise(KeyError("planted"))),
            Job("other", stop_at_once, 0.01, finish_after_the_failure),
        ]
        async with asyncio.timeout(30):
            await run_jobs(jobs, stop)
    assert finished == ["other"]
    (line,) = log.getvalue().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["job"]) == ("job_failed", "failing")


async def _raise(error: Exception) -> None:
    raise error
