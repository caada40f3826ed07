"""Postgres loses a grant (the right to dial a scheduled call) while its worker dials the call.

The outcome of the lost attempt must not change a record that another attempt has, and must not be lost either.
"""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.jobs.dial import ScheduledCallDialer
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import running_dialer
from tests.support.upstream import Behaviour, Upstream, after, created, created_after_release, error, reset, running_upstream

TIMEOUT_S = 30

# Sets the call to its state on a standby without the grant: waiting, canceled or expired.
_LOSE_GRANT = """
    WITH lost AS (DELETE FROM dial_slot WHERE call_id = $1)
    UPDATE call SET execution = $2, settled_by = $3, pending_since = created_at, settled_at = CASE WHEN $3 <> '' THEN now() END
    WHERE id = $1
"""
_WAIT_AGAIN = "INSERT INTO scheduled_dial SELECT * FROM jsonb_populate_record(NULL::scheduled_dial, $1)"


async def _dialling(dialer: ScheduledCallDialer, upstream: Upstream, posts: int) -> None:
    """Runs the dialer until Twilio has received `posts` requests."""
    async with asyncio.timeout(TIMEOUT_S):
        while len(upstream.posts) < posts:
            await dialer.step()
            await asyncio.sleep(0.01)


async def _scheduled(gateway: Gateway, tenant: Tenant, **members: Any) -> tuple[str, str]:
    """Schedules a call. Returns its id and its row of `scheduled_dial` as JSON."""
    call_id = (await tenant.create(priority="normal", **members)).json()["id"]
    (row,) = await gateway.database.fetch(
        "SELECT to_jsonb(scheduled_dial) AS dial FROM scheduled_dial WHERE call_id = $1", UUID(call_id)
    )
    return call_id, row["dial"]


async def _lose_grant(gateway: Gateway, call_id: str, dial: str, *, settled_by: str | None = None) -> None:
    execution = "scheduled" if settled_by is None else "not_started"
    await gateway.database.fetch(_LOSE_GRANT, UUID(call_id), execution, settled_by)
    if settled_by is None:
        await gateway.database.fetch(_WAIT_AGAIN, dial)


async def _state(gateway: Gateway, call_id: str) -> tuple[str, int, bool, bool]:
    """Returns the call's execution and attempt, and whether it has a row of `scheduled_dial` and a dial slot."""
    (row,) = await gateway.database.fetch(
        """SELECT execution, attempt, EXISTS (SELECT FROM scheduled_dial WHERE call_id = id) AS waits,
            EXISTS (SELECT FROM dial_slot WHERE call_id = id) AS has_slot FROM call WHERE id = $1""",
        UUID(call_id),
    )
    return row["execution"], row["attempt"], row["waits"], row["has_slot"]


async def _pending_since(gateway: Gateway, call_id: str) -> datetime:
    (row,) = await gateway.database.fetch("SELECT pending_since FROM call WHERE id = $1", UUID(call_id))
    moment: datetime = row["pending_since"]
    return moment


@pytest.mark.parametrize("outcome", [error(429, 20429), reset], ids=["throttled", "reset"])
async def test_the_outcome_of_a_lost_attempt_changes_no_attempt_with_the_same_number(
    gateway: Gateway, outcome: Behaviour
) -> None:
    """The call of the second grant must neither wait again nor be dialled again, because it may ring."""
    first, second = asyncio.Event(), asyncio.Event()
    async with (
        running_upstream(after(first.wait, outcome), after(second.wait, created())) as upstream,
        running_dialer(gateway) as dialer,
        running_dialer(gateway) as other,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id, dial = await _scheduled(gateway, tenant)
        await _dialling(dialer, upstream, 1)
        await _lose_grant(gateway, call_id, dial)
        await _dialling(other, upstream, 2)
        since = await _pending_since(gateway, call_id)
        first.set()
        await dialer.drain()
        assert await _state(gateway, call_id) == ("pending", 1, False, True)
        assert await _pending_since(gateway, call_id) == since
        second.set()
        await other.drain()
        assert await _state(gateway, call_id) == ("started", 1, False, True)
        assert len(upstream.posts) == 2


@pytest.mark.parametrize(
    ("settled_by", "outcome", "expected"),
    [
        ("canceled", reset, ("unknown", 1, False, True)),
        ("expired", reset, ("unknown", 1, False, True)),
        ("canceled", created_after_release(), ("started", 1, False, True)),
        ("canceled", error(400, 21211), ("not_started", 1, False, False)),
        (None, reset, ("unknown", 1, False, True)),
        (None, created_after_release(), ("started", 1, False, True)),
        (None, error(400, 21211), ("scheduled", 1, True, False)),
    ],
)
async def test_the_outcome_of_a_lost_first_grant_is_kept(
    gateway: Gateway, settled_by: str | None, outcome: Behaviour, expected: tuple[Any, ...]
) -> None:
    answered = asyncio.Event()
    async with running_upstream(after(answered.wait, outcome)) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        call_id, dial = await _scheduled(gateway, tenant)
        await _dialling(dialer, upstream, 1)
        dialled_at = await _pending_since(gateway, call_id)
        await _lose_grant(gateway, call_id, dial, settled_by=settled_by)
        upstream.released.set()
        answered.set()
        await dialer.drain()
        assert await _state(gateway, call_id) == expected
        if expected[0] in ("started", "unknown"):
            assert await _pending_since(gateway, call_id) == dialled_at
        assert len(upstream.posts) == 1


_REFUTED = """UPDATE call SET problem = jsonb_build_object('slug', $2::text, 'detail', '', 'after_s', NULL),
    deliveries_written = '{settled}' WHERE id = $1"""


@pytest.mark.parametrize(
    ("settled_by", "problem"),
    [("canceled", "canceled-before-dial"), ("expired", "ring-by-passed"), ("none_found", "none-found")],
)
async def test_a_call_that_ended_without_a_dial_after_its_grant_was_lost_is_corrected_by_its_start(
    gateway: Gateway, settled_by: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sequence is the same as when a callback proves the start first."""
    async with running_upstream(created_after_release(sid=f"CA{uuid4().hex}")) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        settled = {"status_callback": "https://own.example.com/hook", "status_callback_event": ["settled"]}
        call_id, dial = await _scheduled(gateway, tenant, **settled)
        await _dialling(dialer, upstream, 1)
        await _lose_grant(gateway, call_id, dial, settled_by=settled_by)
        await gateway.database.fetch(_REFUTED, UUID(call_id), problem)
        capsys.readouterr()
        upstream.released.set()
        await dialer.drain()
        assert await _state(gateway, call_id) == ("started", 1, False, True)
        pending, corrected = (await tenant.events(call_id))[-2:]
        assert (pending["type"], corrected["type"]) == ("call.pending", "call.corrected")
        assert pending["data"]["was"] == corrected["data"]["was"] == {"settled_by": settled_by, "problem": problem}
        deliveries = (await tenant.http.get(f"/v1/calls/{call_id}/deliveries")).json()["deliveries"]
        assert [each["event"] for each in deliveries] == ["corrected"]
        assert capsys.readouterr().out.count("execution_corrected") == 1


async def test_an_unknown_outcome_of_a_lost_grant_stops_a_call_that_waits_after_a_second_grant(gateway: Gateway) -> None:
    answered = asyncio.Event()
    async with (
        running_upstream(after(answered.wait, reset), error(401, 20003)) as upstream,
        running_dialer(gateway) as dialer,
        running_dialer(gateway) as other,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        call_id, dial = await _scheduled(gateway, tenant)
        await _dialling(dialer, upstream, 1)
        await _lose_grant(gateway, call_id, dial)
        await _dialling(other, upstream, 2)
        await other.drain()
        assert (await _state(gateway, call_id))[0] == "scheduled"
        answered.set()
        await dialer.drain()
        assert await _state(gateway, call_id) == ("unknown", 1, False, True)
