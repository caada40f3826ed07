"""Tests the API of queues: a tenant creates, changes and lists its own queues, and no others."""

import asyncio
from typing import Any

import httpx
import pytest

from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.queues.conftest import QueuedCalls
from tests.support.gateway import Gateway, Tenant
from tests.support.locks import COUNT_WAITING_SESSIONS_SQL
from tests.support.upstream import Upstream

HOURS = {"time_zone": "Europe/Berlin", "days": ["mon", "fri"], "from": "09:00", "to": "20:00"}


@pytest.fixture
async def tenant(gateway: Gateway) -> Tenant:
    return await gateway.add_tenant()


async def put(tenant: Tenant, name: str, **settings: Any) -> dict[str, Any]:
    answer = await tenant.http.put(f"/v1/queues/{name}", json=settings)
    record: dict[str, Any] = answer.raise_for_status().json()
    return record


def faults_of(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]]


async def audited(gateway: Gateway, tenant: Tenant) -> list[tuple[str, str, str, list[str]]]:
    statement = """SELECT action, subject, actor_kind, changed FROM audit_event
        WHERE tenant_id = $1 AND action ~ '^queue' ORDER BY at, id"""
    return [tuple(row) for row in await gateway.database.fetch(statement, tenant.id)]


async def test_a_put_creates_changes_and_clears(gateway: Gateway, tenant: Tenant) -> None:
    created = await tenant.http.put("/v1/queues/reminders", json={})
    assert (created.status_code, created.headers["Location"]) == (201, "/v1/queues/reminders")
    record = created.json()
    assert record == {
        "name": "reminders",
        "paused": False,
        "pace": None,
        "hours": None,
        "ring_within_s": None,
        "created_at": record["created_at"],
        "updated_at": record["created_at"],
    }
    pace = {"calls_per_second": 0.5, "max_concurrent": 10}
    changed = await tenant.http.put("/v1/queues/reminders", json={"pace": pace, "hours": HOURS, "ring_within_s": 600})
    assert changed.status_code == 200
    assert "Location" not in changed.headers
    settings = {"pace": pace | {"burst": 2}, "hours": HOURS, "ring_within_s": 600}
    assert changed.json() == record | settings | {"updated_at": changed.json()["updated_at"]}
    assert changed.json()["updated_at"] > record["updated_at"]
    # The same again changes nothing; what is missing stays.
    assert (await tenant.http.put("/v1/queues/reminders", json={"ring_within_s": 600})).json() == changed.json()
    assert (await put(tenant, "reminders", pace={"burst": 5}))["pace"] == pace | {"burst": 5}
    assert (await put(tenant, "reminders", paused=True))["paused"] is True
    cleared = await put(tenant, "reminders", pace=None, hours=None, ring_within_s=None)
    assert cleared | {"paused": False, "updated_at": None} == record | {"updated_at": None}
    assert await audited(gateway, tenant) == [
        ("queue.create", "reminders", "key", []),
        ("queue.update", "reminders", "key", ["hours", "ring_within_s", "calls_per_second", "max_concurrent"]),
        ("queue.update", "reminders", "key", ["burst"]),
        ("queue.pause", "reminders", "key", []),
        ("queue.update", "reminders", "key", ["hours", "ring_within_s", "calls_per_second", "burst", "max_concurrent"]),
    ]


async def test_a_queue_can_be_created_with_all_settings_at_once(gateway: Gateway, tenant: Tenant) -> None:
    settings = {
        "paused": True,
        "pace": {"calls_per_second": 12, "burst": 4, "max_concurrent": None},
        "hours": HOURS,
        "ring_within_s": 604_800,
    }
    created = await put(tenant, "campaign-2026.1", **settings)
    assert {name: created[name] for name in settings} == settings
    await put(tenant, "others", paused=False, ring_within_s=600)
    assert await audited(gateway, tenant) == [
        ("queue.create", "campaign-2026.1", "key", []),
        ("queue.pause", "campaign-2026.1", "key", []),
        ("queue.create", "others", "key", []),
    ]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"paused": None}, ("/paused", "bool_type")),
        ({"paused": "true"}, ("/paused", "bool_type")),
        ({"pace": {"calls_per_second": 0}}, ("/pace/calls_per_second", "out_of_range")),
        ({"pace": {"calls_per_second": "1"}}, ("/pace/calls_per_second", "out_of_range")),
        ({"pace": {"calls_per_second": True}}, ("/pace/calls_per_second", "out_of_range")),
        ({"pace": {"calls_per_second": 1.2345}}, ("/pace/calls_per_second", "out_of_range")),
        ({"pace": {"calls_per_second": 10**400}}, ("/pace/calls_per_second", "out_of_range")),
        ({"pace": {"calls_per_second": 1e300}}, ("/pace/calls_per_second", "out_of_range")),
        ({"pace": {"calls_per_second": 1, "burst": None}}, ("/pace/burst", "int_type")),
        ({"pace": {"burst": 3}}, ("/pace/burst", "missing")),
        ({"pace": {"max_concurrent": 0}}, ("/pace/max_concurrent", "greater_than_equal")),
        ({"pace": {"per_second": 1}}, ("/pace/per_second", "unknown_member")),
        ({"hours": {"time_zone": "Europe/Berlin"}}, ("/hours/from", "missing")),
        ({"hours": HOURS | {"time_zone": "Europe/Nowhere"}}, ("/hours/time_zone", "unknown_time_zone")),
        ({"hours": HOURS | {"days": ["mon", "mon"]}}, ("/hours/days/1", "repeated_day")),
        ({"hours": HOURS | {"to": "24:01"}}, ("/hours/to", "string_pattern_mismatch")),
        ({"ring_within_s": 0}, ("/ring_within_s", "greater_than_equal")),
        ({"ring_within_s": 604_801}, ("/ring_within_s", "less_than_equal")),
        ({"name": "another"}, ("/name", "unknown_member")),
    ],
)
async def test_invalid_settings_are_refused_by_member_and_change_nothing(
    gateway: Gateway, tenant: Tenant, settings: dict[str, Any], fault: tuple[str, str]
) -> None:
    refused = await tenant.http.put("/v1/queues/reminders", json={"ring_within_s": 600} | settings)
    assert fault in faults_of(refused)
    assert (await tenant.http.get("/v1/queues")).json() == {"queues": [], "next_cursor": None}
    assert await audited(gateway, tenant) == []


@pytest.mark.parametrize("name", [".hidden", "a b", "ä", "q" * 64, "-"])
async def test_a_name_that_is_no_name_is_refused(tenant: Tenant, name: str) -> None:
    assert faults_of(await tenant.http.put(f"/v1/queues/{name}", json={})) == [("path/name", "string_pattern_mismatch")]


async def test_queues_are_listed_by_name_in_pages(tenant: Tenant) -> None:
    for name in ("c", "a", "d", "b"):
        await put(tenant, name)
    first = (await tenant.http.get("/v1/queues?limit=3")).json()
    rest = (await tenant.http.get(f"/v1/queues?limit=3&cursor={first['next_cursor']}")).json()
    assert [each["name"] for each in first["queues"] + rest["queues"]] == ["a", "b", "c", "d"]
    assert rest["next_cursor"] is None
    assert faults_of(await tenant.http.get("/v1/queues?paused=true")) == [("?paused", "unknown_parameter")]


async def test_a_tenant_reaches_its_own_queues_only(gateway: Gateway, tenant: Tenant) -> None:
    other = await gateway.add_tenant()
    await put(tenant, "reminders", ring_within_s=600)
    assert (await other.http.get("/v1/queues")).json()["queues"] == []
    missing = await other.http.get("/v1/queues/reminders")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:callgate:problem:queue-not-found")
    assert (await put(other, "reminders"))["ring_within_s"] is None
    assert (await tenant.http.get("/v1/queues/reminders")).json()["ring_within_s"] == 600


async def test_a_suspended_tenant_changes_nothing(gateway: Gateway, tenant: Tenant) -> None:
    await put(tenant, "reminders")
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
    gateway.invalidate_cache()
    refused = await tenant.http.put("/v1/queues/reminders", json={"paused": True})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:callgate:problem:tenant-suspended")
    assert (await tenant.http.get("/v1/queues/reminders")).json()["paused"] is False


async def test_a_key_that_only_reads_shows_queues(gateway: Gateway, tenant: Tenant) -> None:
    await put(tenant, "reminders")
    _, key = await gateway.tenants.create_key(tenant.id, name=None, scopes=(Scope.READ,), creator=COMMAND_LINE_CALLER)
    as_reader = {"Authorization": f"Bearer {key}"}
    assert (await tenant.http.get("/v1/queues/reminders", headers=as_reader)).status_code == 200
    refused = await tenant.http.put("/v1/queues/reminders", json={}, headers=as_reader)
    assert (refused.status_code, refused.json()["scope"]) == (403, "call")


async def test_other_hours_make_waiting_calls_due_again(gateway: Gateway, tenant: Tenant) -> None:
    await put(tenant, "reminders", hours=HOURS)
    await put(tenant, "others", hours=HOURS)
    calls, others = QueuedCalls(gateway, tenant, "reminders"), QueuedCalls(gateway, tenant, "others")
    postponed = await calls.waiting(due_s=3600, ring_by_s=7200)
    early = await calls.waiting(not_before_s=1800, due_s=3600, ring_by_s=7200)
    due = await calls.waiting(not_before_s=-60)
    other = await others.waiting(due_s=3600, ring_by_s=7200)
    await put(tenant, "reminders", paused=True)
    assert await calls.due_in(postponed) > 3500
    await put(tenant, "reminders", hours=HOURS | {"to": "21:00"})
    assert await calls.due_in(postponed) <= 0
    assert 1700 < await calls.due_in(early) <= 1800
    assert await calls.due_in(due) < -50
    assert await others.due_in(other) > 3500


async def test_a_tenants_changes_of_a_locked_queue_leave_connections_for_other_tenants(
    gateway: Gateway, upstream: Upstream
) -> None:
    busy, other = await gateway.add_tenant(), await gateway.add_tenant(upstream.url)
    assert (await busy.http.put("/v1/queues/busy", json={})).status_code == 201

    async def waiting_sessions() -> int:
        number: int = await connection.fetchval(COUNT_WAITING_SESSIONS_SQL)
        return number

    async with gateway.database.transaction() as connection:
        await connection.execute("SELECT FROM queue WHERE tenant_id = $1 AND name = 'busy' FOR UPDATE", busy.id)
        changes = [asyncio.create_task(busy.http.put("/v1/queues/busy", json={"paused": False})) for _ in range(30)]
        while await waiting_sessions() == 0:
            await asyncio.sleep(0.01)
        creation = asyncio.create_task(other.create())
        seen = set()
        while not creation.done():
            seen.add(await waiting_sessions())
            await asyncio.sleep(0.01)
    assert creation.result().status_code == 201
    assert max(seen) <= 2
    answers = [await change for change in changes]
    slugs = {answer.json()["type"].rpartition(":")[2] for answer in answers if answer.status_code != 200}
    assert slugs <= {"overloaded", "database-unavailable"}
