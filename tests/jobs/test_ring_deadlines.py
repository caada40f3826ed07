"""Tests that a call in Twilio's queue is canceled at its `ring_by`, also if its outcome was not known for a long time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.jobs.deadlines import RingDeadlineEnforcer
from app.jobs.dial import ScheduledCallDialer
from app.observability import Metrics
from app.services import open_services
from tests.scheduling.test_grants import account_of
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import dial_all, run_search, run_step, running_dialer, running_resolver
from tests.support.upstream import Behaviour, answer, call_resource, created, error, reset, running_upstream

_EMPTY_LIST = answer(200, {"calls": [], "next_page_uri": None})


@pytest.fixture
def sid() -> str:
    return f"CA{uuid4().hex}"


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as running:
        yield running


@pytest.fixture
async def dialer(gateway: Gateway) -> AsyncIterator[ScheduledCallDialer]:
    async with running_dialer(gateway) as running:
        yield running


@pytest.fixture
async def deadlines(gateway: Gateway) -> AsyncIterator[RingDeadlineEnforcer]:
    async with open_services(gateway.settings, Metrics()) as state:
        yield RingDeadlineEnforcer(state["database"], state["control"])


def _shown(sid: str, status: str) -> Behaviour:
    return answer(200, call_resource(sid, status=status))


def _listed(sid: str) -> Behaviour:
    shown = {"from": "Jack", "to": "sip:kate@example.com", "date_created": format_datetime(datetime.now(UTC))}
    return answer(200, {"calls": [call_resource(sid, status="queued", **shown)], "next_page_uri": None})


async def _dialled(tenant: Tenant, dialer: ScheduledCallDialer, **members: Any) -> UUID:
    ring_by = datetime.now(UTC) + timedelta(minutes=1)
    call_id = UUID((await tenant.create(ring_by=ring_by.isoformat(), **members)).json()["id"])
    await dial_all(dialer)
    return call_id


async def _search_now(gateway: Gateway, call_id: UUID) -> None:
    """Makes this call alone due for a search, and runs a worker's search, the last one before `none_found`."""
    await gateway.database.fetch("UPDATE call SET search_at = CASE WHEN id = $1 THEN now() END", call_id)
    async with running_resolver(gateway, searches=1) as resolver:
        await run_search(resolver)


async def _expire(gateway: Gateway, call_id: UUID) -> None:
    """Lets the call's `ring_by` pass, in its record and in its slot."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    await gateway.database.fetch(
        "UPDATE call SET parameters = jsonb_set(parameters, '{ring_by}', to_jsonb($2::text)) WHERE id = $1", call_id, past
    )
    await _check_now(gateway, call_id)


async def _check_now(gateway: Gateway, call_id: UUID) -> None:
    await gateway.database.fetch("UPDATE dial_slot SET ring_by = CASE WHEN call_id = $1 THEN now() END", call_id)


async def _record(tenant: Tenant, call_id: UUID) -> dict[str, Any]:
    record: dict[str, Any] = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
    return record


async def _has_slot(gateway: Gateway, call_id: UUID) -> bool:
    return bool(await gateway.database.fetch("SELECT FROM dial_slot WHERE call_id = $1", call_id))


@pytest.mark.parametrize("are_slots_freed", [True, False])
async def test_a_call_that_a_late_search_finds_in_twilios_queue_is_canceled_at_its_deadline(
    gateway: Gateway, dialer: ScheduledCallDialer, deadlines: RingDeadlineEnforcer, sid: str, are_slots_freed: bool
) -> None:
    """The call was `none_found` at its `ring_by`. Then its slot may have been freed."""
    async with running_upstream(
        reset, _EMPTY_LIST, _EMPTY_LIST, _listed(sid), _listed(sid), _shown(sid, "queued"), _shown(sid, "canceled")
    ) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _dialled(tenant, dialer)
        await _search_now(gateway, call_id)
        assert (await _record(tenant, call_id))["settled_by"] == "none_found"
        await _expire(gateway, call_id)
        assert await run_step(deadlines)
        if are_slots_freed:
            await deadlines.free_dial_slots()
            assert not await _has_slot(gateway, call_id)

        await _search_now(gateway, call_id)
        assert (await _record(tenant, call_id))["status"] == "queued"
        await run_step(deadlines)
        assert (await _record(tenant, call_id))["status"] == "canceled"
        assert upstream.posts[-1].form == [("Status", "canceled")]


async def test_a_call_that_a_late_callback_shows_counts_as_concurrent_again_and_has_its_deadline(
    gateway: Gateway, dialer: ScheduledCallDialer, deadlines: RingDeadlineEnforcer, sid: str
) -> None:
    async with running_upstream(reset, _EMPTY_LIST) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        (await tenant.http.put("/v1/queues/late", json={"pace": {"max_concurrent": 1}})).raise_for_status()
        call_id = await _dialled(tenant, dialer, queue="late")
        await _search_now(gateway, call_id)
        await deadlines.free_dial_slots()
        assert not await _has_slot(gateway, call_id)

        fields = status_callback_fields(tenant, {"sid": sid}, "queued", 0)
        assert (await call_back(gateway, tenant, str(call_id), fields)).status_code == 204
        record = await _record(tenant, call_id)
        assert (record["execution"], record["settled_by"]) == ("started", "callback")
        slot = "SELECT account_id, queue_id IS NOT NULL, ring_by FROM dial_slot WHERE call_id = $1"
        ((*found,),) = await gateway.database.fetch(slot, call_id)
        ring_by = datetime.fromisoformat(record["parameters"]["ring_by"])
        assert found == [await account_of(gateway, tenant), True, ring_by]
        assert (await tenant.create(queue="late")).status_code == 202
        await dial_all(dialer)
        assert len(upstream.posts) == 1


async def test_an_immediate_call_that_turns_up_gets_no_slot(gateway: Gateway, sid: str) -> None:
    async with running_upstream(reset, _EMPTY_LIST, _EMPTY_LIST, _listed(sid)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = UUID((await tenant.create()).json()["id"])
        for _ in range(2):
            await _search_now(gateway, call_id)
        assert (await _record(tenant, call_id))["execution"] == "started"
        assert not await _has_slot(gateway, call_id)


async def test_a_deadline_is_kept_until_twilio_can_be_asked(
    gateway: Gateway, dialer: ScheduledCallDialer, deadlines: RingDeadlineEnforcer, sid: str
) -> None:
    """Twilio fails for longer than a short call could take after its `ring_by`."""
    async with running_upstream(
        created(sid=sid), error(500, 20500), _shown(sid, "queued"), _shown(sid, "canceled")
    ) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _dialled(tenant, dialer, time_limit=60)
        await _check_now(gateway, call_id)
        assert await run_step(deadlines)
        await gateway.database.fetch("UPDATE dial_slot SET until = now() WHERE call_id = $1", call_id)
        await deadlines.free_dial_slots()
        await _check_now(gateway, call_id)
        await run_step(deadlines)
        assert (await _record(tenant, call_id))["status"] == "canceled"
        await deadlines.free_dial_slots()
        assert not await _has_slot(gateway, call_id)


async def test_a_slot_is_not_kept_for_a_deadline_after_twilio_has_dropped_the_call_from_its_queue(
    gateway: Gateway, dialer: ScheduledCallDialer, deadlines: RingDeadlineEnforcer, sid: str
) -> None:
    async with running_upstream(created(sid=sid)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = await _dialled(tenant, dialer)
        await gateway.database.fetch(
            "UPDATE dial_slot SET until = now(), granted_at = now() - interval '1 day' WHERE call_id = $1", call_id
        )
        await deadlines.free_dial_slots()
        assert not await _has_slot(gateway, call_id)
