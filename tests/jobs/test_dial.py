"""Tests how the worker dials scheduled calls: in order and once, unless a call is canceled, expires or is refused for now."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.calls.creation.grants.service import grant_calls
from app.calls.status_callbacks import StatusCallbackSettings, changed_callback_columns
from app.jobs.deadlines import RingDeadlineEnforcer
from app.jobs.dial import ScheduledCallDialer
from app.observability import Metrics
from app.services import open_services
from app.tenants.caller import COMMAND_LINE_CALLER
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import dial_all, run_step, running_dialer, running_refresher
from tests.support.refusals import QUERY_CANCELED, refused_by_postgres
from tests.support.upstream import Upstream, answer, call_resource, created, error, hang, reset, running_upstream

SID = "CA" + "d" * 32


@pytest.fixture
async def dialer(gateway: Gateway) -> AsyncIterator[ScheduledCallDialer]:
    async with running_dialer(gateway) as running:
        yield running


async def record(tenant: Tenant, call_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()
    return found


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


async def test_a_scheduled_call_waits_and_is_dialled_once(
    tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    response = await tenant.create("reminder", priority="normal")
    waiting = response.json()
    assert (response.status_code, waiting["execution"], waiting["sid"]) == (202, "scheduled", None)
    assert response.headers["location"] == f"/v1/calls/{waiting['id']}"
    assert upstream.posts == []
    again = await tenant.create("reminder", priority="normal")
    assert (again.status_code, again.json()["id"], again.json()["execution"]) == (200, waiting["id"], "scheduled")

    await dial_all(dialer)
    await dial_all(dialer)

    started = await record(tenant, waiting["id"])
    assert (started["execution"], started["settled_by"]) == ("started", "response")
    assert len(upstream.posts) == 1
    types = [event["type"] for event in await tenant.events(waiting["id"])]
    assert types == ["call.scheduled", "call.pending", "call.started"]


async def test_a_call_is_not_dialled_before_its_time(tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer) -> None:
    response = await tenant.create(not_before=later(hours=1))
    parameters = response.json()["parameters"]
    ring_by = datetime.fromisoformat(parameters["ring_by"]) - datetime.fromisoformat(parameters["not_before"])
    assert (response.status_code, ring_by, parameters["priority"]) == (202, timedelta(minutes=15), "normal")
    await dial_all(dialer)
    assert upstream.posts == []
    assert (await record(tenant, response.json()["id"]))["execution"] == "scheduled"


async def test_a_canceled_call_never_rings(tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer) -> None:
    call = (await tenant.create("k", priority="normal")).json()
    response = await tenant.http.patch(f"/v1/calls/{call['id']}", json={"status": "canceled"})
    ended = response.json()
    assert (response.status_code, ended["execution"], ended["settled_by"]) == (200, "not_started", "canceled")
    repeated = await tenant.http.patch(f"/v1/calls/{call['id']}", json={"status": "canceled"})
    assert (repeated.status_code, repeated.json()) == (200, ended)
    await dial_all(dialer)
    assert upstream.posts == []
    again = await tenant.create("k", priority="normal")
    assert (again.status_code, again.json()["type"]) == (409, "urn:callgate:problem:canceled-before-dial")


async def test_a_waiting_call_can_only_be_canceled(tenant: Tenant) -> None:
    call = (await tenant.create(priority="normal")).json()
    response = await tenant.http.patch(f"/v1/calls/{call['id']}", json={"time_limit": 5})
    assert (response.status_code, response.json()["type"]) == (409, "urn:callgate:problem:wrong-call-state")
    assert (await record(tenant, call["id"]))["execution"] == "scheduled"


async def test_a_call_expires_at_its_deadline(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    ring_by = later(minutes=1)
    call = (await tenant.create("k", ring_by=ring_by)).json()
    await gateway.database.fetch("UPDATE scheduled_dial SET ring_by = now() WHERE call_id = $1", UUID(call["id"]))
    await dial_all(dialer)
    expired = await record(tenant, call["id"])
    assert (expired["execution"], expired["settled_by"]) == ("not_started", "expired")
    assert expired["problem"]["slug"] == "ring-by-passed"
    assert upstream.posts == []
    again = await tenant.create("k", ring_by=ring_by)
    assert (again.status_code, again.json()["type"]) == (409, "urn:callgate:problem:ring-by-passed")
    other = await tenant.create("k", ring_by=later(minutes=2))
    assert (other.status_code, other.json()["type"]) == (422, "urn:callgate:problem:idempotency-key-reused")


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"ring_by": "2020-01-01T00:00:00Z"}, "/ring_by", "in_the_past"),
        ({"not_before": later(days=8)}, "/not_before", "too_far_ahead"),
        ({"ring_by": later(days=8)}, "/ring_by", "too_far_ahead"),
        ({"not_before": "9999-12-31T23:59:59Z"}, "/not_before", "too_far_ahead"),
        ({"not_before": "9999-12-31T23:59:59-14:00"}, "/not_before", "out_of_range"),
        ({"not_before": "0001-01-01T00:00:00+14:00"}, "/not_before", "out_of_range"),
        ({"not_before": later(hours=2), "ring_by": later(hours=1)}, "/ring_by", "before_not_before"),
        ({"ring_by": "tomorrow"}, "/ring_by", "not_rfc_3339"),
        ({"queue": "nowhere"}, "/queue", "unknown_queue"),
        ({"priority": "now"}, "/priority", "literal_error"),
        ({"time_zone": "Europe/Berlin"}, "/time_zone", "not_scheduled"),
        ({"redial": {"on": ["busy"], "times": 1, "after_s": 60}}, "/redial", "not_scheduled"),
        ({"priority": "bulk", "redial": {"on": ["failed"], "times": 1, "after_s": 60}}, "/redial/on/0", "literal_error"),
        (
            {"priority": "bulk", "sip_auth_username": "u", "sip_auth_password": "secret"},
            "/sip_auth_password",
            "secret_cannot_wait",
        ),
        ({"priority": "bulk", "url": "https://user:pass@example.com/x"}, "/url", "secret_cannot_wait"),
        ({"priority": "bulk", "url": "https://user:pa'ss@example.com/x"}, "/url", "secret_cannot_wait"),
        ({"priority": "bulk", "url": None, "twiml": "<Sip password='x'>sip:a@b.c</Sip>"}, "/twiml", "secret_cannot_wait"),
        ({"priority": "bulk", "url": None, "twiml": "<Sip>sip:kate:pw@b.c</Sip>"}, "/twiml", "secret_cannot_wait"),
    ],
)
async def test_what_cannot_be_kept_is_refused(tenant: Tenant, members: dict[str, Any], pointer: str, code: str) -> None:
    response = await tenant.create(**members)
    assert response.status_code == 422
    assert [(found["pointer"], found["code"]) for found in response.json()["errors"]] == [(pointer, code)]


@pytest.mark.parametrize(("status", "code"), [(429, 20429), (400, 10004), (400, 22005)])
async def test_a_passing_refusal_puts_a_call_back(gateway: Gateway, status: int, code: int) -> None:
    async with running_upstream(error(status, code), created()) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(priority="normal")).json()
        await dial_all(dialer)
        while (await record(tenant, call["id"]))["execution"] != "started":
            await asyncio.sleep(0.2)
            await dial_all(dialer)
        assert len(upstream.posts) == 2


async def make_due(gateway: Gateway, call_id: str) -> timedelta:
    """Makes a waiting call due now. Returns how long it would have waited since it was last put back."""
    wait = """
        UPDATE scheduled_dial SET due_at = now() FROM call, (SELECT call_id, due_at FROM scheduled_dial) AS before
        WHERE call.id = scheduled_dial.call_id AND before.call_id = call.id AND call.id = $1
        RETURNING before.due_at - call.updated_at AS wait
    """
    ((waited,),) = await gateway.database.fetch(wait, UUID(call_id))
    assert isinstance(waited, timedelta)
    return waited


async def test_a_refused_call_waits_for_as_long_as_twilio_asks(gateway: Gateway) -> None:
    throttled = error(429, 20429, headers={"Retry-After": "17"})
    async with running_upstream(throttled, created()) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(priority="normal")).json()
        await dial_all(dialer)
        assert await make_due(gateway, call["id"]) >= timedelta(seconds=17)
        await dial_all(dialer)
        assert len(upstream.posts) == 1, "the account waits, too"
        await gateway.database.fetch("UPDATE pace SET probe_at = now() WHERE probe_at IS NOT NULL")
        await dial_all(dialer)
        assert (await record(tenant, call["id"]))["execution"] == "started"
        assert len(upstream.posts) == 2


async def test_a_call_whose_account_has_no_credential_for_a_while_waits(gateway: Gateway, upstream: Upstream) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    call = (await tenant.create("k", priority="normal")).json()
    ((_, (credential,)),) = await gateway.tenants.list_accounts(tenant.id)
    await gateway.tenants.revoke_credential(tenant.id, credential.id)
    waits = []
    async with running_dialer(gateway) as dialer:
        for _ in range(11):
            await dial_all(dialer)
            assert (await record(tenant, call["id"]))["execution"] == "scheduled"
            waits.append((await make_due(gateway, call["id"])).total_seconds())
    assert [round(wait) for wait in waits] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]
    assert (await tenant.events(call["id"]))[-1]["data"]["problem"] == "no-usable-credentials"
    assert upstream.posts == []
    await gateway.tenants.add_credential(
        tenant.id, account_sid=tenant.account_sid, secret="another", key_sid=None, base_url=None
    )
    async with running_dialer(gateway) as dialer:
        await dial_all(dialer)
    assert (await record(tenant, call["id"]))["execution"] == "started"
    assert len(upstream.posts) == 1


async def test_a_call_that_has_become_invalid_ends_with_its_faults(
    gateway: Gateway, tenant: Tenant, dialer: ScheduledCallDialer
) -> None:
    await gateway.tenants.create_sip_credential(tenant.id, "pbx", username="u", password="p")
    call = (await tenant.create("k", priority="normal", sip_credential="pbx")).json()
    await gateway.tenants.delete_sip_credential(tenant.id, "pbx")
    await dial_all(dialer)
    ended = await record(tenant, call["id"])
    assert (ended["execution"], ended["problem"]["slug"]) == ("not_started", "invalid-request")
    await gateway.tenants.create_sip_credential(tenant.id, "pbx", username="u", password="p")
    gateway.invalidate_cache()
    again = await tenant.create("k", priority="normal", sip_credential="pbx")
    assert (again.status_code, again.json()["retry"]) == (422, {"safe": True, "same_key": False, "after_s": None})
    assert again.json()["errors"] == ended["problem"]["errors"]
    assert [fault["code"] for fault in again.json()["errors"]] == ["unknown_sip_credential"]


async def test_classes_are_strict_and_callers_take_turns(gateway: Gateway, tenant: Tenant) -> None:
    callers = [tenant.http.headers["Authorization"]]
    for _ in range(2):
        _, key = await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER)
        callers.append(f"Bearer {key}")

    async def schedule(caller: int, count: int, priority: str) -> None:
        for number in range(count):
            body = BASIC_CALL | {"to": f"sip:{priority}-{caller}-{number}@example.com", "priority": priority}
            response = await tenant.http.post("/v1/calls", json=body, headers={"Authorization": callers[caller]})
            assert response.status_code == 202

    await schedule(0, 6, "bulk")
    await schedule(1, 3, "bulk")
    await schedule(2, 3, "bulk")
    await schedule(2, 2, "urgent")

    granted = [name.split("@")[0].removeprefix("sip:") for name in await grant_all(gateway, tenant)]

    assert granted[:2] == ["urgent-2-0", "urgent-2-1"]
    turns = [name.split("-")[1] for name in granted[2:]]
    assert [sorted(turns[place : place + 3]) for place in (0, 3, 6)] == [["0", "1", "2"]] * 3
    assert turns[9:] == ["0"] * 3
    for caller in "012":
        own = [name for name in granted if name.startswith(f"bulk-{caller}")]
        assert own == sorted(own), "the earliest call of a caller is dialled first"


async def grant_all(gateway: Gateway, tenant: Tenant) -> list[str]:
    """Grants the tenant's waiting calls one by one (without dialling), and returns their addresses in this order."""
    async with gateway.database.begin() as session:
        statement = text("SELECT id FROM twilio_account WHERE tenant_id = :id")
        account_id = await session.scalar(statement, {"id": tenant.id})
    granted = []
    while (made := await grant_calls(gateway.database, account_id, limit=1)).grants:
        granted += [grant.call.to for grant in made.grants]
    return granted


async def set_pace(gateway: Gateway, tenant: Tenant, **columns: float) -> None:
    names, values = ", ".join(columns), ", ".join(str(value) for value in columns.values())
    statement = f"INSERT INTO pace (subject_id, {names}) SELECT id, {values} FROM twilio_account WHERE tenant_id = :id"  # noqa: S608
    async with gateway.database.begin() as session:
        await session.execute(text(statement), {"id": tenant.id})


async def test_the_pace_of_an_account_is_kept(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    await set_pace(gateway, tenant, calls_per_second=0.001, burst=2)
    for _ in range(4):
        await tenant.create(priority="normal")
    await dial_all(dialer)
    assert len(upstream.posts) == 2


async def test_a_slot_is_free_again_when_its_call_has_ended(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    await set_pace(gateway, tenant, max_concurrent=2)
    for _ in range(3):
        await tenant.create(priority="normal")
    await dial_all(dialer)
    assert len(upstream.posts) == 2
    async with gateway.database.begin() as session:
        await session.execute(
            text("UPDATE call SET status = 'completed' WHERE execution = 'started' AND tenant_id = :id"), {"id": tenant.id}
        )
    await dial_all(dialer)
    assert len(upstream.posts) == 3


async def test_two_workers_grant_each_call_once(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    calls = [(await tenant.create(priority="normal")).json()["id"] for _ in range(40)]
    async with running_dialer(gateway) as other:
        await asyncio.gather(dial_all(dialer), dial_all(other))
        await dial_all(dialer)
    assert len(upstream.posts) == 40
    assert {(await record(tenant, call))["execution"] for call in calls} == {"started"}


async def test_a_call_waits_for_the_hours_of_its_queue(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    """The calling hours are checked when the call is scheduled and again when the worker would dial it."""
    now = datetime.now(UTC)
    closed = {"time_zone": "UTC", "from": f"{(now + timedelta(hours=3)):%H}:00", "to": f"{(now + timedelta(hours=4)):%H}:00"}
    (await tenant.http.put("/v1/queues/day", json={})).raise_for_status()
    call = (await tenant.create(queue="day", ring_by=later(hours=6))).json()
    (await tenant.http.put("/v1/queues/day", json={"hours": closed})).raise_for_status()
    await dial_all(dialer)
    assert upstream.posts == []
    async with gateway.database.begin() as session:
        due_at = await session.scalar(text("SELECT due_at FROM scheduled_dial WHERE call_id = :id"), {"id": call["id"]})
    assert f"{due_at.astimezone(UTC):%H:%M}" == closed["from"]

    (await tenant.http.put("/v1/queues/day", json={"hours": None})).raise_for_status()
    await dial_all(dialer)
    assert len(upstream.posts) == 1

    (await tenant.http.put("/v1/queues/day", json={"hours": closed})).raise_for_status()
    refused = await tenant.create(queue="day", ring_by=later(minutes=10))
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "outside_hours")
    in_its_zone = await tenant.create(queue="day", ring_by=later(minutes=10), time_zone="Mars/Olympus")
    assert in_its_zone.json()["errors"][0]["code"] == "unknown_time_zone"


async def test_a_paused_queue_keeps_its_calls_and_no_others(
    tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    (await tenant.http.put("/v1/queues/slow", json={"paused": True})).raise_for_status()
    await tenant.create(queue="slow", to="sip:first@example.com")
    await tenant.create(priority="bulk", to="sip:second@example.com")
    await dial_all(dialer)
    assert [dict(post.form)["To"] for post in upstream.posts] == ["sip:second@example.com"]
    (await tenant.http.put("/v1/queues/slow", json={"paused": False})).raise_for_status()
    await dial_all(dialer)
    assert len(upstream.posts) == 2


async def test_a_call_that_twilio_still_queues_at_its_deadline_is_canceled(gateway: Gateway) -> None:
    async with (
        running_upstream(
            created(sid=SID),
            answer(200, call_resource(SID, status="queued")),
            answer(200, call_resource(SID, status="canceled")),
        ) as upstream,
        open_services(gateway.settings, Metrics()) as state,
        running_dialer(gateway) as dialer,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(ring_by=later(minutes=1))).json()
        await dial_all(dialer)
        deadlines = RingDeadlineEnforcer(state["database"], state["control"])
        assert not await run_step(deadlines)
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE dial_slot SET ring_by = now() WHERE call_id = :id"), {"id": call["id"]})
        assert await run_step(deadlines)
        assert [request.method for request in upstream.received] == ["POST", "GET", "POST"]
        assert upstream.posts[-1].form == [("Status", "canceled")]
        assert (await record(tenant, call["id"]))["status"] == "canceled"
        assert not await run_step(deadlines)


async def test_an_account_that_hangs_delays_no_deadline_of_another(gateway: Gateway) -> None:
    patient = gateway.settings.model_copy(update={"twilio_read_timeout": 60.0, "request_budget": 90.0})
    async with (
        running_upstream(created(), hang) as hanging,
        running_upstream(
            created(sid=SID[:-1] + "e"),
            answer(200, call_resource(SID[:-1] + "e", status="queued")),
            answer(200, call_resource(SID[:-1] + "e", status="canceled")),
        ) as answering,
        open_services(patient, Metrics()) as state,
        running_dialer(gateway) as dialer,
    ):
        slow, fast = await gateway.add_tenant(hanging.url), await gateway.add_tenant(answering.url)
        deadlines = RingDeadlineEnforcer(state["database"], state["control"])
        ids: list[UUID] = []
        for tenant, upstream in ((slow, hanging), (fast, answering)):
            call = (await tenant.create(ring_by=later(minutes=1))).json()
            await dial_all(dialer)
            ids.append(UUID(call["id"]))
            # The call of the slow account is due again when the second step runs. The slots of other tests are not due.
            async with gateway.database.begin() as session:
                due = text("UPDATE dial_slot SET ring_by = CASE WHEN call_id = ANY (:ids) THEN now() END")
                await session.execute(due, {"ids": ids})
            assert await deadlines.step()
            while len(upstream.received) < 2:
                await asyncio.sleep(0.01)
        while (await record(fast, call["id"]))["status"] != "canceled":
            await asyncio.sleep(0.05)
        assert len(hanging.received) == 2
        assert await gateway.directory.find_account_id(slow.id, account_sid=slow.account_sid) in deadlines.tasks.busy_accounts()
        hanging.close_connections()
        await deadlines.tasks.drain()


OWN_URL, UPDATED_URL = "https://own.example.com/", "https://updated.example.com/"


@pytest.mark.parametrize(
    ("had_public_url", "has_public_url", "event", "stored", "recorded"),
    [
        (False, True, "completed", None, (OWN_URL, "POST", ["completed"])),
        (True, False, "completed", OWN_URL, (None, None, None)),
        # A redial has the URL of the call before it.
        (True, True, "completed", UPDATED_URL, (UPDATED_URL, "POST", ["completed"])),
        (True, True, "settled", UPDATED_URL, (UPDATED_URL, "POST", ["settled"])),
    ],
)
async def test_who_sends_the_status_callbacks_is_decided_when_the_call_is_dialled(
    database_url: str, had_public_url: bool, has_public_url: bool, event: str, stored: str | None, recorded: tuple[Any, ...]
) -> None:
    settings = [settings_for(database_url), settings_for(database_url, public_url=PUBLIC_URL)]
    async with running_gateway(settings[had_public_url]) as gateway, running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        wanted: dict[str, Any] = {"status_callback": OWN_URL, "status_callback_event": [event]}
        call_id = UUID((await tenant.create(priority="normal", **wanted)).json()["id"])
        await gateway.database.fetch("UPDATE call SET status_callback = $2 WHERE id = $1", call_id, stored)
        gateway.settings = settings[has_public_url]
        async with running_dialer(gateway) as dialer:
            await dial_all(dialer)
        assert dict(upstream.posts[0].form)["StatusCallback"].startswith(PUBLIC_URL if has_public_url else OWN_URL)
        columns = "SELECT status_callback, status_callback_method, status_callback_events FROM call WHERE id = $1"
        assert [tuple(row) for row in await gateway.database.fetch(columns, call_id)] == [recorded]


@pytest.mark.parametrize(
    ("old", "new"),
    [(["settled"], ["settled"]), (["completed"], ["completed"]), (["completed"], ["settled"]), (["completed"], None)],
)
def test_recorded_callbacks_stay_when_a_tenant_changes_its_defaults(old: list[str], new: list[str] | None) -> None:
    callbacks = StatusCallbackSettings({}, _callback_columns(UPDATED_URL if new else None, new), sent_to_callgate=True)
    assert changed_callback_columns(_callback_columns(OWN_URL, old), callbacks, events_with_delivery=()) == {}


def _callback_columns(url: str | None, events: list[str] | None) -> dict[str, Any]:
    return {"status_callback": url, "status_callback_method": "POST" if url else None, "status_callback_events": events}


@pytest.mark.parametrize(
    ("url", "events", "recorded"),
    [
        (None, None, (OWN_URL, ["settled"])),
        (UPDATED_URL, ["settled"], (UPDATED_URL, ["settled"])),
        (UPDATED_URL, ["completed"], (UPDATED_URL, ["settled", "completed"])),
    ],
)
def test_a_call_with_a_delivery_keeps_what_that_and_the_next_one_need(
    url: str | None, events: list[str] | None, recorded: tuple[str, list[str]]
) -> None:
    before, callbacks = (
        _callback_columns(OWN_URL, ["settled", "ringing"]),
        StatusCallbackSettings({}, _callback_columns(url, events)),
    )
    assert before | changed_callback_columns(before, callbacks, events_with_delivery=["settled"]) == _callback_columns(
        *recorded
    )
    assert before | changed_callback_columns(before, callbacks, events_with_delivery=[]) == callbacks.columns


@pytest.mark.parametrize(
    ("status", "redials"), [("busy", 1), ("no-answer", 1), ("failed", 0), ("canceled", 0), ("completed", 0)]
)
async def test_a_redial_is_a_new_record(
    gateway: Gateway, tenant: Tenant, dialer: ScheduledCallDialer, status: str, redials: int
) -> None:
    redial = {"on": ["no-answer", "busy"], "times": 2, "after_s": 900}
    first = (await tenant.create(status, priority="urgent", redial=redial)).json()
    await dial_all(dialer)
    for _ in range(2):
        async with gateway.database.begin() as session:
            statement = text("UPDATE call SET status = :status WHERE id = :id")
            await session.execute(statement, {"id": first["id"], "status": status})
    listed = (await tenant.http.get("/v1/calls", params={"execution": "scheduled"})).json()["calls"]
    assert [call["redial_of"] for call in listed] == [first["id"]] * redials
    for call in listed:
        parameters = call["parameters"]
        times = {name: datetime.fromisoformat(parameters[name]) for name in ("not_before", "ring_by")}
        assert times["ring_by"] - times["not_before"] == timedelta(minutes=15)
        assert timedelta(seconds=890) < times["not_before"] - datetime.now(UTC) < timedelta(seconds=910)
        assert (parameters["redial"], parameters["priority"]) == (redial | {"times": 1}, "urgent")
        assert (call["idempotency_key"], call["to"]) == (None, first["to"])
        assert UUID(call["id"]).version == 7
        assert (await tenant.events(first["id"]))[-1]["data"] == {"call_id": call["id"]}


@pytest.mark.parametrize(
    ("ended_ago", "waits"),
    [
        (timedelta(minutes=10), timedelta(minutes=5)),
        (timedelta(minutes=20), timedelta(0)),
        (timedelta(hours=12), None),
        (-timedelta(hours=1), timedelta(minutes=15)),
    ],
)
async def test_the_time_of_a_redial_counts_from_the_end_even_if_that_is_known_late(
    gateway: Gateway, ended_ago: timedelta, waits: timedelta | None
) -> None:
    sid = f"CA{uuid4().hex}"
    ended_at = datetime.now(UTC).replace(microsecond=0) - ended_ago
    ended = call_resource(sid, status="no-answer", end_time=format_datetime(ended_at))
    async with running_upstream(created(sid=sid), answer(200, ended)) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        redial = {"on": ["no-answer"], "times": 2, "after_s": 900}
        call_id = (await tenant.create(priority="normal", redial=redial)).json()["id"]
        await dial_all(dialer)
        await gateway.database.fetch("UPDATE call SET refresh_at = now() WHERE id = $1", UUID(call_id))
        async with running_refresher(gateway) as refresher:
            await run_step(refresher)
        listed = (await tenant.http.get("/v1/calls", params={"execution": "scheduled"})).json()["calls"]
        last_event = (await tenant.events(call_id))[-1]
        if waits is None:
            ring_by = datetime.fromisoformat(last_event["data"]["ring_by"])
            assert (listed, last_event["type"], ring_by) == ([], "call.redial_expired", ended_at + timedelta(minutes=30))
            return
        (again,) = listed
        not_before, ring_by = (datetime.fromisoformat(again["parameters"][name]) for name in ("not_before", "ring_by"))
        assert (last_event["type"], ring_by - not_before) == ("call.redialed", timedelta(minutes=15))
        if ended_ago > timedelta(0):
            assert not_before == ended_at + timedelta(minutes=15)
        columns = "SELECT not_before, due_at, ring_by FROM scheduled_dial WHERE call_id = $1"
        (waiting,) = await gateway.database.fetch(columns, UUID(again["id"]))
        recorded_at = datetime.fromisoformat(again["created_at"])
        assert waiting["not_before"] == waiting["due_at"]
        assert waiting["due_at"] - recorded_at == pytest.approx(waits, abs=timedelta(seconds=30))
        assert (waiting["ring_by"], waiting["due_at"] >= recorded_at) == (ring_by, True)


async def _end_busy(gateway: Gateway, call_id: str) -> None:
    await gateway.database.fetch("UPDATE call SET status = 'busy' WHERE id = $1", UUID(call_id))


async def _dialled_with_redial(tenant: Tenant, dialer: ScheduledCallDialer) -> str:
    """Creates a call that is dialled again if it ends busy, and dials it. Returns its id."""
    redial = {"on": ["busy"], "times": 2, "after_s": 900}
    call_id: str = (await tenant.create(priority="normal", redial=redial)).json()["id"]
    await dial_all(dialer)
    return call_id


async def _waiting(tenant: Tenant) -> list[str]:
    """Returns the `redial_of` of each call that waits."""
    listed = (await tenant.http.get("/v1/calls", params={"execution": "scheduled"})).raise_for_status().json()
    return [call["redial_of"] for call in listed["calls"]]


async def test_no_redial_follows_a_stored_request_to_end_the_call(database_url: str) -> None:
    """The answer to the creation is lost. A callback proves that the call has started, and the next one that it was busy."""
    async with (
        running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as gateway,
        running_upstream(reset) as upstream,
        running_dialer(gateway) as dialer,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        redial = {"on": ["no-answer", "busy"], "times": 2, "after_s": 900}
        call_id = (await tenant.create(priority="normal", redial=redial)).json()["id"]
        await dial_all(dialer)
        stored = await tenant.http.patch(f"/v1/calls/{call_id}", json={"status": "completed"})
        assert (stored.status_code, stored.json()["execution"]) == (202, "unknown")
        sid = f"CA{uuid4().hex}"
        for sequence, status in enumerate(["ringing", "busy"]):
            fields = status_callback_fields(tenant, {"sid": sid}, status, sequence)
            assert (await call_back(gateway, tenant, call_id, fields)).is_success
        assert (await record(tenant, call_id))["status"] == "busy"
        assert await _waiting(tenant) == []


@pytest.mark.parametrize(("change", "is_redialled"), [({"status": "completed"}, False), ({"time_limit": 60}, True)])
async def test_no_redial_follows_a_request_to_end_the_call_that_twilio_has_accepted(
    gateway: Gateway, change: dict[str, Any], is_redialled: bool
) -> None:
    sid = f"CA{uuid4().hex}"
    accepted = answer(200, call_resource(sid, status="ringing"))
    async with running_upstream(created(sid=sid), accepted) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _dialled_with_redial(tenant, dialer)
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=change)).status_code == 200
        await _end_busy(gateway, call_id)
        assert await _waiting(tenant) == [call_id] * is_redialled


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"status": "completed"}, 503, "database-unavailable"),
        ({"status": "completed", "time_limit": 60}, 409, "action-unknown"),
        ({"time_limit": 60}, 200, None),
    ],
)
async def test_a_request_to_end_a_call_is_confirmed_only_if_it_prevents_the_redial(
    gateway: Gateway, database_url: str, change: dict[str, Any], status: int, problem: str | None
) -> None:
    """The end of the call would be followed by a redial if the request is not recorded."""
    sid = f"CA{uuid4().hex}"
    accepted = answer(200, call_resource(sid, status="ringing"))
    async with running_upstream(created(sid=sid), accepted) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _dialled_with_redial(tenant, dialer)
        async with refused_by_postgres(database_url, "UPDATE ON call", QUERY_CANCELED):
            answered = await tenant.http.patch(f"/v1/calls/{call_id}", json=change)
        assert answered.status_code == status
        if problem is not None:
            assert answered.json()["type"] == f"urn:callgate:problem:{problem}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"status": "completed"}, "wrong-call-state"), ({"status": "completed", "time_limit": 60}, "action-unknown")],
)
async def test_a_request_to_end_a_call_that_has_a_redial_by_now_is_not_confirmed(
    gateway: Gateway, change: dict[str, Any], problem: str
) -> None:
    """The end is recorded after Twilio has accepted the request, and before the request is recorded."""
    sid = f"CA{uuid4().hex}"

    async def accept_after_end(upstream: Upstream, *streams: Any) -> None:
        await _end_busy(gateway, call_id)
        await answer(200, call_resource(sid, status="completed"))(upstream, *streams)

    async with running_upstream(created(sid=sid), accept_after_end) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _dialled_with_redial(tenant, dialer)
        answered = await tenant.http.patch(f"/v1/calls/{call_id}", json=change)
        assert (answered.status_code, answered.json()["type"]) == (409, f"urn:callgate:problem:{problem}")
        assert await _waiting(tenant) == [call_id]


async def test_a_stored_request_to_end_an_earlier_attempt_prevents_no_redial(
    gateway: Gateway, tenant: Tenant, dialer: ScheduledCallDialer
) -> None:
    redial = {"on": ["busy"], "times": 1, "after_s": 900}
    call_id = (await tenant.create(priority="normal", redial=redial)).json()["id"]
    await dial_all(dialer)
    stored = "INSERT INTO wanted_update (call_id, attempt, status, due_at) VALUES ($1, 0, 'completed', now())"
    await gateway.database.fetch(stored, UUID(call_id))
    await _end_busy(gateway, call_id)
    assert await _waiting(tenant) == [call_id]


async def test_redials_end_when_they_are_used_up(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, dialer: ScheduledCallDialer
) -> None:
    await tenant.create(priority="normal", redial={"on": ["busy"], "times": 2, "after_s": 1})
    for _ in range(4):
        await dial_all(dialer)
        async with gateway.database.begin() as session:
            await session.execute(
                text("UPDATE call SET status = 'busy' WHERE tenant_id = :id AND execution = 'started'"), {"id": tenant.id}
            )
            await session.execute(text("UPDATE scheduled_dial SET due_at = now()"))
    assert len(upstream.posts) == 3
    assert len({post.body for post in upstream.posts}) == 1


async def test_a_lasting_refusal_ends_a_call(gateway: Gateway) -> None:
    async with running_upstream(error(400, 21211)) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(priority="normal")).json()
        await dial_all(dialer)
        ended = await record(tenant, call["id"])
        assert (ended["execution"], ended["problem"]["slug"]) == ("not_started", "upstream-rejected")
        assert len(upstream.posts) == 1


async def test_an_unknown_outcome_is_never_put_back(gateway: Gateway) -> None:
    async with running_upstream(hang) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(priority="normal")).json()
        await dial_all(dialer)
        await dial_all(dialer)
        assert (await record(tenant, call["id"]))["execution"] == "unknown"
        assert len(upstream.posts) == 1
