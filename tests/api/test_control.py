"""PATCH /v1/calls/{id} cancels, ends or redirects a call.

A request to end a call that cannot be sent to Twilio yet is stored and sent later. An unknown result is reported as such.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import text

from app.calls import repository
from app.calls.control import repository as control_repository
from app.calls.creation.grants.service import grant_calls
from app.jobs.pending_updates import PendingUpdateSender
from app.observability import Metrics
from app.services import Services, open_services
from app.twilio.schemas import CallResource
from tests.support.callbacks import call_back, status_callback_fields
from tests.support.clients import http_client
from tests.support.gateway import LONG_TIMEOUTS, URLS_WITH_MANY_USER_NAMES, Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import run_step
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.refusals import QUERY_CANCELED, refused_by_postgres
from tests.support.upstream import (
    Behaviour,
    Upstream,
    answer,
    call_resource,
    created,
    created_after_release,
    error,
    hang,
    proxy_page,
    reset,
    running_upstream,
)

HANG_UP = {"status": "completed"}
CANCEL = {"status": "canceled"}
REDIRECT = {"url": "https://jack:pl4nted@www.example.com/other.xml", "method": "GET"}


@pytest.fixture
async def worker_services(gateway: Gateway) -> AsyncIterator[Services]:
    """The services of a worker. No worker runs: the test calls the worker's steps itself."""
    async with open_services(gateway.settings, Metrics()) as collaborators:
        yield collaborators


@pytest.fixture
def controller(worker_services: Services) -> PendingUpdateSender:
    return PendingUpdateSender(worker_services["database"], worker_services["control"])


def updated(status: str = "completed") -> Behaviour:
    """Returns a behaviour of the stand-in for Twilio: it answers with the requested call's resource, with this status."""

    async def behave(upstream: Upstream, *streams: Any) -> None:
        sid = upstream.received[-1].path.rpartition("/")[2].removesuffix(".json")
        await answer(200, call_resource(sid, status=status))(upstream, *streams)

    return behave


async def reset_after_release(upstream: Upstream, *streams: Any) -> None:
    await upstream.released.wait()
    await reset(upstream, *streams)


async def _events(tenant: Tenant, call_id: str, prefix: str = "call.update") -> list[tuple[str, dict[str, Any]]]:
    return [(event["type"], event["data"]) for event in await tenant.events(call_id) if event["type"].startswith(prefix)]


async def _pending(tenant: Tenant, upstream: Upstream) -> tuple[asyncio.Task[Any], str]:
    """Starts a creation. Returns its task once Twilio has received the POST, and the id of the call's record."""
    creating = asyncio.create_task(tenant.create("k"))
    await upstream.wait_for_post()
    return creating, (await tenant.http.get("/v1/calls")).json()["calls"][0]["id"]


async def _prove_started(worker_services: Services, call_id: str) -> str:
    """Records that the call has started, as a callback or a search of Twilio's list would do. Returns the call's sid."""
    resource = CallResource.parse_answer(call_resource())
    assert resource is not None
    async with worker_services["database"].begin() as session:
        call = await repository.lock_call(session, UUID(call_id))
        assert call is not None
        await worker_services["settlement"].bind_twilio_call(session, call, resource, by="list", data={})
    return resource.sid


async def _started_call_with_stored_end(tenant: Tenant, worker_services: Services, end: dict[str, str]) -> str:
    """Creates a call of unknown outcome, stores a request to end it, and records that the call has started.

    Returns the call's id.
    """
    call_id: str = (await tenant.create()).json()["id"]
    assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=end)).status_code == 202
    await _prove_started(worker_services, call_id)
    return call_id


async def _started_two_hours_ago(gateway: Gateway, call_id: str) -> None:
    """Makes the call so old that Twilio must know it."""
    await gateway.database.fetch("UPDATE call SET settled_at = now() - interval '2 hours' WHERE id = $1", UUID(call_id))


async def _begin_step(controller: PendingUpdateSender, upstream: Upstream) -> asyncio.Task[bool]:
    """Starts a step of the controller. Returns its task once Twilio has received a request after the creation."""
    step = asyncio.create_task(run_step(controller))
    while len(upstream.posts) < 2:
        await asyncio.sleep(0.01)
    return step


async def test_a_change_is_sent_to_twilio_and_recorded_as_an_event_without_secrets(gateway: Gateway) -> None:
    async with running_upstream(created(), updated("in-progress"), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        redirected = await tenant.http.patch(f"/v1/calls/{record['id']}", json=REDIRECT)
        assert (redirected.status_code, redirected.json()["status"]) == (200, "in-progress")
        ended = await tenant.http.patch(f"/v1/calls/{record['sid']}", json=HANG_UP | {"time_limit": 60})
        assert (ended.status_code, ended.json()["status"]) == (200, "completed")
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{record['sid']}.json"
        assert [(post.path, post.form) for post in upstream.posts[1:]] == [
            (path, [("Url", REDIRECT["url"]), ("Method", "GET")]),
            (path, [("Status", "completed"), ("TimeLimit", "60")]),
        ]
        assert await _events(tenant, record["id"]) == [
            ("call.updated", {"parameters": ["method", "url"]}),
            ("call.updated", {"parameters": ["status", "time_limit"], "status": "completed", "time_limit": 60}),
        ]


async def test_ending_a_pending_call_is_remembered_and_done_once_the_call_has_started(
    patient_gateway: Gateway, controller: PendingUpdateSender
) -> None:
    async with running_upstream(created_after_release(), updated("canceled")) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        creating, call_id = await _pending(tenant, upstream)
        remembered = await tenant.http.patch(f"/v1/calls/{call_id}", json=CANCEL)
        assert (remembered.status_code, remembered.json()["execution"]) == (202, "pending")
        assert not await run_step(controller)
        upstream.released.set()
        sid = (await creating).json()["sid"]
        assert await run_step(controller)
        assert not await run_step(controller)
        assert upstream.posts[-1].path.endswith(f"/Calls/{sid}.json")
        assert upstream.posts[-1].form == [("Status", "canceled")]
        assert (await tenant.http.get(f"/v1/calls/{call_id}")).json()["status"] == "canceled"
        data = {"parameters": ["status"], "status": "canceled"}
        assert await _events(tenant, call_id) == [
            ("call.update_remembered", data),
            ("call.updated", data | {"remembered": True}),
        ]


@pytest.mark.parametrize("bodies", [(CANCEL, HANG_UP), (HANG_UP, CANCEL)])
async def test_ending_an_unknown_call_waits_until_the_call_is_found(
    gateway: Gateway, worker_services: Services, controller: PendingUpdateSender, bodies: tuple[dict[str, str], ...]
) -> None:
    """Twilio does not end an answered call on `canceled`, so a stored hang-up stays one, whichever request came last."""
    async with running_upstream(reset, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        for body in bodies:
            assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=body)).status_code == 202
        assert not await run_step(controller)
        sid = await _prove_started(worker_services, call_id)
        assert await run_step(controller)
        assert [post.form for post in upstream.posts[1:]] == [[("Status", "completed")]]
        assert upstream.posts[-1].path.endswith(f"/Calls/{sid}.json")


async def test_a_call_that_no_search_has_found_can_be_ended_until_its_last_search(
    patient_gateway: Gateway, worker_services: Services, controller: PendingUpdateSender
) -> None:
    settlement = worker_services["settlement"]
    async with running_upstream(reset, reset, updated()) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        call_id, other_id = [(await tenant.create()).json()["id"] for _ in range(2)]
        for each, searches in (call_id, settlement.plan.searches), (other_id, settlement.plan.searches + 2):
            async with worker_services["database"].begin() as session:
                call = await repository.lock_call(session, UUID(each))
                assert call is not None
                await settlement.apply_change(session, call, settlement.change_to_none_found(data={}))
                await settlement.plan_next_search(session, call, clean_searches=searches)
        assert (await tenant.http.patch(f"/v1/calls/{other_id}", json=HANG_UP)).status_code == 409
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=REDIRECT)).status_code == 409
        remembered = await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)
        assert (remembered.status_code, remembered.json()["settled_by"]) == (202, "none_found")
        assert not await run_step(controller)
        fields = status_callback_fields(tenant, {"sid": "CA" + uuid4().hex}, "in-progress", 2)
        assert (await call_back(patient_gateway, tenant, call_id, fields)).status_code == 204
        assert await run_step(controller)
        assert [(post.path.rpartition("/")[2], post.form) for post in upstream.posts[2:]] == [
            (f"{fields['CallSid']}.json", [("Status", "completed")])
        ]


async def test_a_remembered_end_is_dropped_if_the_call_was_not_started(
    patient_gateway: Gateway, controller: PendingUpdateSender
) -> None:
    async def refused_after_release(upstream: Upstream, *streams: Any) -> None:
        await upstream.released.wait()
        await error(400, 21215)(upstream, *streams)

    async with running_upstream(refused_after_release, updated()) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        creating, call_id = await _pending(tenant, upstream)
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)).status_code == 202
        upstream.released.set()
        assert (await creating).status_code == 422
        assert await run_step(controller)
        assert (await _events(tenant, call_id))[-1] == (
            "call.update_forgotten",
            {"status": "completed", "reason": "not_started"},
        )
        assert len(upstream.posts) == 1


async def test_a_remembered_end_does_not_apply_to_a_later_attempt_with_the_same_key(
    patient_gateway: Gateway, controller: PendingUpdateSender
) -> None:
    async def denied_after_release(upstream: Upstream, *streams: Any) -> None:
        await upstream.released.wait()
        await error(401, 20003)(upstream, *streams)

    async with running_upstream(denied_after_release, created()) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        creating, call_id = await _pending(tenant, upstream)
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)).status_code == 202
        upstream.released.set()
        assert (await creating).status_code == 502
        again = await tenant.create("k")
        assert (again.status_code, again.json()["id"]) == (201, call_id)
        assert await run_step(controller)
        assert len(upstream.posts) == 2
        assert (await _events(tenant, call_id))[-1][0] == "call.update_forgotten"


async def test_a_stored_hang_up_of_an_earlier_attempt_is_replaced_by_a_cancellation(gateway: Gateway) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)).status_code == 202
        await gateway.database.fetch("UPDATE wanted_update SET attempt = 0 WHERE call_id = $1", UUID(call_id))
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=CANCEL)).status_code == 202
        stored = await gateway.database.fetch("SELECT status, attempt FROM wanted_update WHERE call_id = $1", UUID(call_id))
        assert [tuple(row) for row in stored] == [("canceled", 1)]


@pytest.mark.parametrize(("status", "is_kept"), [("in-progress", True), ("canceled", False)])
async def test_a_cancellation_drops_a_stored_hang_up_only_if_it_ends_the_call(
    gateway: Gateway, status: str, is_kept: bool
) -> None:
    """Canceling has no effect on an answered call."""
    async with running_upstream(created(), reset, updated(status)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)).status_code == 202
        canceled = await tenant.http.patch(f"/v1/calls/{call_id}", json=CANCEL)
        assert (canceled.status_code, canceled.json()["status"]) == (200, status)
        stored = await gateway.database.fetch("SELECT status FROM wanted_update WHERE call_id = $1", UUID(call_id))
        assert [row["status"] for row in stored] == ["completed"] * is_kept


async def test_a_lost_response_is_reported_and_ending_the_call_is_retried(
    gateway: Gateway, controller: PendingUpdateSender
) -> None:
    redirected = updated("in-progress")
    async with running_upstream(created(), reset, reset, redirected, reset, *[error(404, 20404)] * 2, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        lost = await tenant.http.patch(f"/v1/calls/{record['id']}", json=REDIRECT)
        assert (lost.status_code, lost.json()["type"]) == (409, "urn:callgate:problem:action-unknown")
        assert (lost.json()["retry"]["safe"], lost.json()["call_id"]) == (False, record["id"])
        assert "execution" not in lost.json()
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 202
        # Another change does not drop the remembered end.
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=REDIRECT)).status_code == 200
        for _ in range(3):
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE wanted_update SET due_at = now()"))
            assert await run_step(controller)
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "completed"
        assert [event for event, _ in await _events(tenant, record["id"])] == [
            "call.update_unknown",
            "call.update_remembered",
            "call.updated",
            "call.updated",
        ]
        assert [post.form for post in upstream.posts[4:]] == [[("Status", "completed")]] * 3
        assert not await run_step(controller)


async def test_an_end_remembered_while_an_earlier_one_is_carried_out_is_kept(
    gateway: Gateway, worker_services: Services, controller: PendingUpdateSender
) -> None:
    """Canceling has no effect on an answered call, so the remembered hang-up must still be carried out."""

    async def updated_after_release(upstream: Upstream, *streams: Any) -> None:
        path = upstream.received[-1].path
        await upstream.released.wait()
        sid = path.rpartition("/")[2].removesuffix(".json")
        await answer(200, call_resource(sid, status="in-progress"))(upstream, *streams)

    async with running_upstream(reset, updated_after_release, reset, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _started_call_with_stored_end(tenant, worker_services, CANCEL)
        cancelling = await _begin_step(controller, upstream)
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)).status_code == 202
        upstream.released.set()
        await cancelling
        await run_step(controller)
        assert [post.form for post in upstream.posts[1:]] == [
            [("Status", "canceled")],
            [("Status", "completed")],
            [("Status", "completed")],
        ]


async def test_an_end_remembered_while_an_earlier_one_fails_is_not_postponed(
    gateway: Gateway, worker_services: Services, controller: PendingUpdateSender
) -> None:
    async with running_upstream(reset, reset_after_release, reset, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _started_call_with_stored_end(tenant, worker_services, HANG_UP)
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE wanted_update SET wanted_at = now() - interval '20 minutes'"))
        failing = await _begin_step(controller, upstream)
        assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=HANG_UP)).status_code == 202
        upstream.released.set()
        await failing
        assert await run_step(controller)
        assert (await tenant.http.get(f"/v1/calls/{call_id}")).json()["status"] == "completed"
        assert not await gateway.database.fetch("SELECT FROM wanted_update WHERE call_id = $1", UUID(call_id))


async def test_an_account_that_hangs_delays_no_remembered_end_of_another(gateway: Gateway) -> None:
    patient = gateway.settings.model_copy(update={"twilio_read_timeout": 60.0, "request_budget": 90.0})
    async with (
        running_upstream(created(), reset, hang) as hanging,
        running_upstream(created(), reset, updated()) as answering,
        open_services(patient, Metrics()) as state,
    ):
        sender = PendingUpdateSender(state["database"], state["control"])
        slow, fast = await gateway.add_tenant(hanging.url), await gateway.add_tenant(answering.url)
        records = [(await tenant.create()).json() for tenant in (slow, fast)]
        for tenant, record, upstream in ((slow, records[0], hanging), (fast, records[1], answering)):
            assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 202
            # The request for the slow account is due again when the second step runs.
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE wanted_update SET due_at = now()"))
            assert await sender.step()
            while len(upstream.received) < 3:
                await asyncio.sleep(0.01)
        while (await fast.http.get(f"/v1/calls/{records[1]['id']}")).json()["status"] != "completed":
            await asyncio.sleep(0.05)
        assert len(hanging.received) == 3
        assert await gateway.directory.find_account_id(slow.id, account_sid=slow.account_sid) in sender.tasks.busy_accounts()
        hanging.close_connections()
        await sender.tasks.drain()


@pytest.mark.parametrize(("code", "reason"), [(21220, "ended"), (20001, "rejected")])
async def test_a_remembered_end_that_twilio_refuses_is_dropped(
    gateway: Gateway, controller: PendingUpdateSender, code: int, reason: str
) -> None:
    async with running_upstream(created(), reset, error(400, code)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 202
        assert await run_step(controller)
        assert (await _events(tenant, record["id"]))[-1] == (
            "call.update_forgotten",
            {"status": "completed", "reason": reason},
        )
        assert not await run_step(controller)


async def test_ending_a_call_that_twilio_does_not_show_yet_is_remembered(
    gateway: Gateway, controller: PendingUpdateSender
) -> None:
    async with running_upstream(created(), *[error(404, 20404)] * 4, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        remembered = await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)
        assert (remembered.status_code, remembered.json()["status"]) == (202, "queued")
        for _ in range(2):
            await gateway.database.fetch("UPDATE wanted_update SET due_at = now()")
            assert await run_step(controller)
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "completed"
        assert [post.form for post in upstream.posts[1:]] == [[("Status", "completed")]] * 3


@pytest.mark.parametrize(("refusal", "sent"), [(error(400, 21220), ["POST"]), (error(404, 20404), ["POST", "GET"])])
async def test_ending_a_call_that_has_just_ended_is_refused_whichever_code_twilio_answers(
    gateway: Gateway, refusal: Behaviour, sent: list[str]
) -> None:
    """Twilio's error catalogue has 21220 for it. A user's log shows 404 with 20404 (pipecat-ai/pipecat#2145)."""
    async with running_upstream(created(), refusal, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        refused = await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:callgate:problem:wrong-call-state")
        assert [request.method for request in upstream.received[1:]] == sent
        assert not await gateway.database.fetch("SELECT FROM wanted_update WHERE call_id = $1", UUID(record["id"]))
        if "GET" in sent:
            assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "completed"


async def test_a_refusal_to_end_an_ended_call_is_passed_on_under_twilios_paths(gateway: Gateway) -> None:
    async with running_upstream(created(), error(404, 20404), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await tenant.create()).json()["sid"]
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}.json"
        by_twilio = await tenant.http.post(path, data={"Status": "completed"})
        assert (by_twilio.status_code, by_twilio.json()["code"]) == (404, 20404)
        by_callgate = await tenant.http.post(path, data={"Status": "completed"})
        assert (by_callgate.status_code, by_callgate.json()["code"]) == (400, 21220)
        assert len(upstream.received) == 3


async def test_a_remembered_end_is_dropped_as_ended_if_twilio_answers_404_for_an_ended_call(
    gateway: Gateway, controller: PendingUpdateSender, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_upstream(created(), reset, error(404, 20404), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        await _started_two_hours_ago(gateway, record["id"])
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 202
        assert await run_step(controller)
        assert "wanted_update_refused" not in capsys.readouterr().out
        assert (await _events(tenant, record["id"]))[-1] == (
            "call.update_forgotten",
            {"status": "completed", "reason": "ended"},
        )
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "completed"


@pytest.mark.parametrize("read", [updated("in-progress"), reset])
async def test_an_end_is_repeated_if_twilio_answers_404_and_may_still_have_the_call(
    gateway: Gateway, controller: PendingUpdateSender, read: Behaviour
) -> None:
    async with running_upstream(created(), error(404, 20404), read, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        await _started_two_hours_ago(gateway, record["id"])
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 202
        assert await run_step(controller)
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "completed"


async def test_ending_a_call_that_twilio_no_longer_has_is_refused(gateway: Gateway) -> None:
    async with running_upstream(created(), error(404, 20404)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        await _started_two_hours_ago(gateway, record["id"])
        refused = await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:callgate:problem:upstream-rejected")
        assert not await gateway.database.fetch("SELECT FROM wanted_update WHERE call_id = $1", UUID(record["id"]))


@pytest.mark.parametrize(("status", "expected"), [("completed", 200), ("canceled", 200), ("busy", 409), ("no-answer", 409)])
async def test_a_call_that_ends_while_the_response_is_lost_is_reported_as_it_ended(
    patient_gateway: Gateway, status: str, expected: int
) -> None:
    """A call that has ended busy may have been scheduled again: the client must not take it for ended by its request."""
    async with running_upstream(created(), reset_after_release) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        ending = asyncio.create_task(tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP))
        while len(upstream.posts) < 2:
            await asyncio.sleep(0.01)
        await patient_gateway.database.fetch("UPDATE call SET status = $2 WHERE id = $1", UUID(record["id"]), status)
        upstream.released.set()
        answered = await ending
        assert answered.status_code == expected
        if expected == 200:
            assert answered.json()["status"] == status
        else:
            assert answered.json()["type"] == "urn:callgate:problem:wrong-call-state"
        assert not await patient_gateway.database.fetch("SELECT FROM wanted_update WHERE call_id = $1", UUID(record["id"]))


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_a_proxys_refusal_does_not_drop_a_remembered_end(
    gateway: Gateway, controller: PendingUpdateSender, status: int
) -> None:
    async with running_upstream(created(), proxy_page(status), proxy_page(status), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 202
        for _ in range(2):
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE wanted_update SET due_at = now()"))
            assert await run_step(controller)
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "completed"


async def test_only_a_404_of_twilio_for_a_call_that_it_must_know_deletes_the_record(gateway: Gateway) -> None:
    async with running_upstream(created(), proxy_page(404), error(404, 20404), error(404, 20404)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{record['sid']}.json"
        assert (await tenant.http.delete(path)).status_code == 503
        not_visible_yet = await tenant.http.delete(path)
        assert (not_visible_yet.status_code, not_visible_yet.json()["code"]) == (404, 20404)
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["deleted_at"] is None
        await _started_two_hours_ago(gateway, record["id"])
        assert (await tenant.http.delete(path)).status_code == 204
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["deleted_at"] is not None


@pytest.mark.parametrize(
    ("script", "status", "sent"),
    [((reset,), 503, ["POST", "GET"]), ((updated(), reset), 409, ["POST", "GET", "DELETE"])],
)
async def test_a_deletion_is_unknown_only_if_it_was_sent(
    gateway: Gateway, script: tuple[Behaviour, ...], status: int, sent: list[str]
) -> None:
    async with running_upstream(created(), *script) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        refused = await tenant.http.delete(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{record['sid']}.json")
        assert refused.status_code == status
        assert ("may have deleted" in refused.json()["message"]) == (status == 409)
        assert [request.method for request in upstream.received] == sent


async def test_a_deletion_that_cannot_be_recorded_is_unknown_and_can_be_repeated(gateway: Gateway) -> None:
    async with running_upstream(created(), updated(), answer(204, body=b""), error(404, 20404)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        await _started_two_hours_ago(gateway, record["id"])
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{record['sid']}.json"
        assert (await tenant.http.get(path)).json()["status"] == "completed"
        async with gateway.database.begin() as session:
            await session.execute(text("SELECT FROM call WHERE id = :id FOR UPDATE"), {"id": record["id"]})
            unknown = await tenant.http.delete(path, timeout=30)
        assert (unknown.status_code, unknown.json()["code"]) == (409, 900010)
        assert upstream.received[-1].method == "DELETE"
        assert (await tenant.http.delete(path)).status_code == 204
        assert (await tenant.http.get(path)).status_code == 404


async def test_a_deletion_cut_off_by_the_drain_timeout_is_unknown(database_url: str) -> None:
    async with running_upstream(created(), updated(), hang) as upstream, AsyncClient(timeout=30) as http:
        async with running_gateway(settings_for(database_url, **LONG_TIMEOUTS), grace=1) as stopping:
            tenant = await stopping.add_tenant(upstream.url)
            sid = (await tenant.create()).json()["sid"]
            url = f"{stopping.url}/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}.json"
            deleting = asyncio.create_task(http.delete(url, headers=tenant.http.headers))
            while upstream.received[-1].method != "DELETE":
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(2, upstream.released.set)
        response = await deleting
    assert (response.status_code, response.json()["code"]) == (409, 900010)


@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("DELETE", "Calls/{sid}.json", None),
        ("POST", "Calls/{sid}.json", {"Status": "completed"}),
        ("GET", "Calls/{sid}/Recordings.json", None),
        ("POST", "Calls/{sid}/Recordings.json", {}),
    ],
)
async def test_a_request_about_a_call_whose_account_has_no_credential_is_refused(
    gateway: Gateway, method: str, path: str, form: dict[str, str] | None
) -> None:
    async with running_upstream(created(), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        sid = (await tenant.create()).json()["sid"]
        ((_, (credential,)),) = await gateway.tenants.list_accounts(tenant.id)
        await gateway.tenants.revoke_credential(tenant.id, credential.id)
        gateway.invalidate_cache()
        url = f"/2010-04-01/Accounts/{tenant.account_sid}/{path.format(sid=sid)}"
        refused = await tenant.http.request(method, url, data=form)
        assert (refused.status_code, refused.json()["code"]) == (409, 900005)
        assert "Retry-After" not in refused.headers
        assert len(upstream.received) == 1


async def test_a_change_that_the_calls_state_does_not_allow_is_not_sent(gateway: Gateway) -> None:
    async with running_upstream(error(400, 21215), reset, created(), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        not_started = (await tenant.create()).json()["call_id"]
        unknown = (await tenant.create()).json()["id"]
        ended = (await tenant.create()).json()["id"]
        assert (await tenant.http.patch(f"/v1/calls/{ended}", json=HANG_UP)).status_code == 200
        sent_before = len(upstream.received)
        for call_id, body in ((not_started, HANG_UP), (unknown, REDIRECT), (ended, HANG_UP), (ended, REDIRECT)):
            refused = await tenant.http.patch(f"/v1/calls/{call_id}", json=body)
            assert (refused.status_code, refused.json()["type"]) == (409, "urn:callgate:problem:wrong-call-state")
        assert len(upstream.received) == sent_before


@pytest.mark.parametrize(
    ("behaviour", "status", "slug"),
    [
        (error(400, 21220), 409, "wrong-call-state"),
        (error(400, 15004), 422, "upstream-rejected"),
        (error(404, 20404), 422, "upstream-rejected"),
        (error(401, 20003), 502, "upstream-credentials-rejected"),
        (error(429, 20429, headers={"Retry-After": "2"}), 503, "upstream-throttled"),
        (hang, 409, "action-unknown"),
        (error(500, 20500), 409, "action-unknown"),
        *((proxy_page(status), 409, "action-unknown") for status in (400, 401, 403, 404, 429)),
        (answer(200, {}), 409, "action-unknown"),
        (answer(200, call_resource()), 409, "action-unknown"),
    ],
)
async def test_a_change_that_fails_at_twilio_is_reported(
    gateway: Gateway, behaviour: Behaviour, status: int, slug: str
) -> None:
    async with running_upstream(created(), behaviour) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        refused = await tenant.http.patch(f"/v1/calls/{record['id']}", json=REDIRECT)
        assert (refused.status_code, refused.json()["type"]) == (status, f"urn:callgate:problem:{slug}")
        assert "pl4nted" not in refused.text
        assert len(upstream.posts) == 2
        assert (await tenant.http.get(f"/v1/calls/{record['id']}")).json()["status"] == "queued"


async def test_a_change_while_twilio_is_unreachable_is_not_sent(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
    unreachable = await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)
    assert (unreachable.status_code, unreachable.json()["type"]) == (503, "urn:callgate:problem:upstream-unreachable")


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "", "nothing_to_change"),
        ({"url": "http://www.example.com/x", "twiml": "<Response/>"}, "/twiml", "url_and_twiml"),
        ({"status": "busy"}, "/status", "literal_error"),
        ({"status": "completed", "status_callback_event": ["completed"]}, "/status_callback_event", "unknown_member"),
        ({"time_limit": 0}, "/time_limit", "greater_than_equal"),
        ({"time_limit": "60"}, "/time_limit", "int_type"),
        ({"url": "other.xml"}, "/url", "url_not_absolute"),
        ({"method": "PUT", "url": "http://www.example.com/x"}, "/method", "literal_error"),
        ({"status_callback": "http://a_b.example.com/"}, "/status_callback", "url_host_underscore"),
        ({"twiml": "x" * 4001}, "/twiml", "too_long"),
        (URLS_WITH_MANY_USER_NAMES, "", "too_many_user_names"),
    ],
)
async def test_changes_are_checked_before_twilio_sees_them(
    gateway: Gateway, body: dict[str, Any], pointer: str, code: str
) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        refused = await tenant.http.patch(f"/v1/calls/{record['id']}", json=body)
        assert refused.status_code == 422
        assert [(fault["pointer"], fault["code"]) for fault in refused.json()["errors"]] == [(pointer, code)]
        assert len(upstream.received) == 1


async def _begin_to_cancel(gateway: Gateway, tenant: Tenant, call_id: UUID) -> asyncio.Task[Response]:
    """Starts to cancel a call that the caller has locked. Returns the request's task once it waits for the lock."""
    canceling = asyncio.create_task(tenant.http.patch(f"/v1/calls/{call_id}", json=CANCEL))
    async with asyncio.timeout(60):
        while not (await gateway.database.fetch(SESSION_WAITS_FOR_LOCK_SQL))[0][0]:
            await asyncio.sleep(0.01)
    return canceling


async def _assert_canceled(gateway: Gateway, call_id: UUID, response: Response) -> None:
    canceled = response.json()
    assert (response.status_code, canceled["execution"], canceled["settled_by"]) == (200, "not_started", "canceled")
    assert not await gateway.database.fetch("SELECT FROM scheduled_dial WHERE call_id = $1", call_id)
    assert not await gateway.database.fetch("SELECT FROM wanted_update WHERE call_id = $1", call_id)


async def test_a_call_that_waits_again_while_its_cancellation_waits_for_its_outcome_is_canceled(
    gateway: Gateway, worker_services: Services
) -> None:
    """The request finds a pending call, and then waits until the worker has recorded that Twilio had no capacity."""
    tenant = await gateway.add_tenant()
    assert (await tenant.create(priority="normal")).status_code == 202
    account_id = await gateway.directory.find_account_id(tenant.id, account_sid=tenant.account_sid)
    assert account_id
    (grant,) = (await grant_calls(gateway.database, account_id, limit=1)).grants
    settlement = worker_services["settlement"]
    put_back = settlement.change_to_scheduled(
        {"slug": "upstream-throttled"}, grant.dial_row, due_in=timedelta(seconds=1), data={}
    )
    async with worker_services["database"].begin() as session:
        call = await repository.lock_call(session, grant.call.id)
        assert call is not None
        canceling = await _begin_to_cancel(gateway, tenant, call.id)
        await settlement.apply_change(session, call, put_back)
    await _assert_canceled(gateway, call.id, await canceling)


async def test_a_call_that_is_granted_and_waits_again_during_its_cancellation_is_canceled(gateway: Gateway) -> None:
    """The request waits for the row that the grant deletes, and does not see the row that the outcome inserts."""
    tenant = await gateway.add_tenant()
    call_id = UUID((await tenant.create(priority="normal")).json()["id"])
    async with gateway.database.transaction() as connection:
        dial = await connection.fetchval(
            "DELETE FROM scheduled_dial WHERE call_id = $1 RETURNING scheduled_dial::text", call_id
        )
        canceling = await _begin_to_cancel(gateway, tenant, call_id)
        await connection.execute("INSERT INTO scheduled_dial SELECT ($1::text::scheduled_dial).*", dial)
    await _assert_canceled(gateway, call_id, await canceling)


async def test_a_cancellation_that_never_gets_hold_of_the_call_may_be_repeated(gateway: Gateway) -> None:
    """The call has no row in `scheduled_dial`, as if a worker granted it and put it back at each attempt to cancel it."""
    tenant = await gateway.add_tenant()
    call_id = UUID((await tenant.create(priority="normal")).json()["id"])
    dial = await gateway.database.fetch("DELETE FROM scheduled_dial WHERE call_id = $1 RETURNING scheduled_dial::text", call_id)
    refused = await tenant.http.patch(f"/v1/calls/{call_id}", json=CANCEL)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:callgate:problem:database-unavailable")
    await gateway.database.fetch("INSERT INTO scheduled_dial SELECT ($1::text::scheduled_dial).*", dial[0][0])
    await _assert_canceled(gateway, call_id, await tenant.http.patch(f"/v1/calls/{call_id}", json=CANCEL))


async def test_a_suspended_tenant_can_end_its_calls_and_nothing_else(gateway: Gateway) -> None:
    async with running_upstream(created(), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
        gateway.invalidate_cache()
        refused = await tenant.http.patch(f"/v1/calls/{record['id']}", json=REDIRECT)
        assert refused.json()["type"] == "urn:callgate:problem:tenant-suspended"
        assert (await tenant.http.patch(f"/v1/calls/{record['id']}", json=HANG_UP)).status_code == 200


async def test_a_change_that_twilio_made_is_not_reported_as_failed_if_postgres_fails(database_url: str) -> None:
    async with (
        running_upstream(created(), updated("in-progress")) as upstream,
        running_gateway(settings_for(database_url)) as failing,
    ):
        tenant = await failing.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        async with refused_by_postgres(database_url, "UPDATE ON call", QUERY_CANCELED):
            redirected = await tenant.http.patch(f"/v1/calls/{record['id']}", json=REDIRECT)
        assert (redirected.status_code, redirected.json()["status"]) == (200, "in-progress")


@pytest.mark.parametrize("failures", [[reset], [error(404, 20404)] * 2])
async def test_a_request_to_end_a_call_that_cannot_be_stored_is_answered_503_and_can_be_repeated(
    gateway: Gateway, database_url: str, failures: list[Behaviour]
) -> None:
    async with running_upstream(created(), *failures, updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        path = f"/v1/calls/{(await tenant.create()).json()['id']}"
        async with refused_by_postgres(database_url, "INSERT ON wanted_update", QUERY_CANCELED):
            failed = await tenant.http.patch(path, json=HANG_UP)
        assert (failed.status_code, failed.json()["type"]) == (503, "urn:callgate:problem:database-unavailable")
        assert failed.json()["retry"]["safe"] is True
        ended = await tenant.http.patch(path, json=HANG_UP)
        assert (ended.status_code, ended.json()["status"]) == (200, "completed")


async def test_a_new_status_callback_is_delivered_by_callgate_if_twilio_calls_callgate(database_url: str) -> None:
    settings = settings_for(database_url, public_url="https://calls.example.com")
    async with running_upstream(created(), updated("in-progress")) as upstream, running_gateway(settings) as public:
        tenant = await public.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        private = {"status_callback": "http://10.0.0.1/progress"}
        refused = await tenant.http.patch(f"/v1/calls/{call_id}", json=private)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/status_callback")
        for change in ({"status_callback": "https://hooks.example.com/progress#rc=2"}, {"status_callback_method": "GET"}):
            assert (await tenant.http.patch(f"/v1/calls/{call_id}", json=change)).status_code == 200
        callback_url = dict(upstream.posts[0].form)["StatusCallback"]
        assert callback_url.startswith(f"https://calls.example.com/callbacks/twilio/{call_id}?tag=")
        # The method alone is Callgate's own affair.
        assert [post.form for post in upstream.posts[1:]] == [
            [("StatusCallback", callback_url), ("StatusCallbackMethod", "POST")]
        ]
        assert [data["parameters"] for _, data in await _events(tenant, call_id)] == [
            ["status_callback"],
            ["status_callback_method"],
        ]
        async with public.database.begin() as session:
            call = await repository.lock_call(session, UUID(call_id))
            assert call is not None
            from_twilio_at = await control_repository.last_twilio_event_at(session, call)
        last_status = "SELECT at FROM call_event WHERE call_id = $1 AND type = 'call.status'"
        assert [from_twilio_at] == [row["at"] for row in await public.database.fetch(last_status, UUID(call_id))]
        assert (call.status_callback, call.status_callback_method) == ("https://hooks.example.com/progress", "GET")
        assert call.status_callback_events == ["completed"]


async def test_a_change_of_the_callback_method_alone_can_be_repeated_if_postgres_fails(database_url: str) -> None:
    settings = settings_for(database_url, public_url="https://calls.example.com")
    async with running_upstream(created()) as upstream, running_gateway(settings) as public:
        tenant = await public.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        async with refused_by_postgres(database_url, "UPDATE ON call", QUERY_CANCELED):
            failed = await tenant.http.patch(f"/v1/calls/{call_id}", json={"status_callback_method": "GET"})
        assert (failed.status_code, failed.json()["type"]) == (503, "urn:callgate:problem:database-unavailable")
        assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("members", "delivered"),
    [
        ({"status_callback_event": ["settled", "initiated", "completed"]}, ["settled", "initiated", "completed"]),
        ({"status_callback_event": ["initiated", "answered"]}, ["initiated", "answered"]),
        ({"status_callback_event": ["settled"]}, ["settled"]),
        ({}, ["completed"]),
    ],
)
async def test_a_new_status_callback_gets_the_named_events_also_if_twilio_has_sent_them_so_far(
    database_url: str, members: dict[str, Any], delivered: list[str]
) -> None:
    """The operator sets the public URL while the call goes on."""
    async with running_upstream(created(), updated("in-progress")) as upstream:
        async with running_gateway(settings_for(database_url)) as private:
            tenant = await private.add_tenant(upstream.url)
            record = (await tenant.create(status_callback="https://hooks.example.com/first", **members)).json()
        assert await _events_of_new_status_callback(database_url, tenant, record["id"]) == delivered


async def test_a_new_status_callback_gets_the_end_if_the_tenants_defaults_named_it(database_url: str) -> None:
    async with running_upstream(created(), updated("in-progress")) as upstream:
        async with running_gateway(settings_for(database_url)) as private:
            tenant = await private.add_tenant(upstream.url)
            url = "https://hooks.example.com/default"
            await private.tenants.configure_callbacks(tenant.id, url=url, events=["settled", "completed"])
            record = (await tenant.create()).json()
        assert await _events_of_new_status_callback(database_url, tenant, record["id"]) == ["settled", "completed"]


async def _events_of_new_status_callback(database_url: str, tenant: Tenant, call_id: str) -> list[str]:
    """Changes the call's status callback at a gateway with a public URL. Returns the events that Callgate delivers then."""
    settings = settings_for(database_url, public_url="https://calls.example.com")
    async with running_gateway(settings) as public, http_client(base_url=public.url, headers=tenant.http.headers) as http:
        change = {"status_callback": "https://hooks.example.com/second"}
        assert (await http.patch(f"/v1/calls/{call_id}", json=change)).status_code == 200
        stored = await public.database.fetch("SELECT status_callback_events FROM call WHERE id = $1", UUID(call_id))
    events: list[str] = stored[0]["status_callback_events"]
    return events
