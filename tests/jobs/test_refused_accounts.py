"""Tests that a worker dials one call at a time of an account whose calls Twilio refuses for the moment."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from app.calls.creation.dial import DialAttempt, NotStartedOutcome, RequeueValues
from app.calls.creation.grants.service import MAX_GRANTS_PER_TRANSACTION
from app.calls.creation.refused_accounts import slow_down_or_resume_account
from app.calls.models import Call
from app.errors import InternalError, UpstreamUnreachable
from app.jobs.dial import ScheduledCallDialer
from app.scheduling.refused_accounts import end_account_slowdown, slow_account_down
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import running_dialer
from tests.support.upstream import Behaviour, created, error, running_upstream


async def dial_one_round(dialer: ScheduledCallDialer) -> None:
    await dialer.step()
    await dialer.drain()


async def set_probe_in(gateway: Gateway, tenant: Tenant, *, seconds: int) -> None:
    """Moves the next probe of the tenant's account to this time from now, so that the test depends on no clock."""
    statement = """UPDATE pace SET probe_at = now() + make_interval(secs => $2)
        WHERE subject_id = (SELECT id FROM twilio_account WHERE tenant_id = $1) AND probe_at IS NOT NULL RETURNING subject_id"""
    assert len(await gateway.database.fetch(statement, tenant.id, float(seconds))) == 1


async def executions(gateway: Gateway, tenant: Tenant) -> dict[str, int]:
    statement = "SELECT execution, count(*) FROM call WHERE tenant_id = $1 GROUP BY execution"
    return {row[0]: row[1] for row in await gateway.database.fetch(statement, tenant.id)}


@pytest.mark.parametrize("refusal", [error(401, 20003), error(400, 10004)])
async def test_an_account_that_is_refused_tries_one_call_at_a_time(gateway: Gateway, refusal: Behaviour) -> None:
    first, probes = MAX_GRANTS_PER_TRANSACTION, 3
    async with (
        running_upstream(*[refusal] * (first + probes), created()) as refusing,
        running_upstream(created()) as accepting,
        running_dialer(gateway) as dialer,
    ):
        refused, other = await gateway.add_tenant(refusing.url), await gateway.add_tenant(accepting.url)
        for _ in range(50):
            assert (await refused.create(priority="normal")).status_code == 202
        await dial_one_round(dialer)
        assert len(refusing.posts) == first

        await set_probe_in(gateway, refused, seconds=600)
        assert (await other.create(priority="normal")).status_code == 202
        for _ in range(5):
            await dial_one_round(dialer)
        assert (len(refusing.posts), len(accepting.posts)) == (first, 1)

        for number in range(1, probes + 1):
            await set_probe_in(gateway, refused, seconds=0)
            await dial_one_round(dialer)
            assert len(refusing.posts) == first + number
            # The probe was refused, so the next one has to wait.
            await set_probe_in(gateway, refused, seconds=600)
            await dial_one_round(dialer)
            assert len(refusing.posts) == first + number

        await set_probe_in(gateway, refused, seconds=0)
        await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now() WHERE tenant_id = $1", refused.id)
        while await dialer.step():
            await dialer.drain()
        assert len(refusing.posts) == first + probes + 50
        assert await executions(gateway, refused) == {"started": 50}


async def test_calls_that_were_under_way_before_the_refusal_do_not_end_it(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        for _ in range(5):
            assert (await tenant.create(priority="normal")).status_code == 202
        await dial_one_round(dialer)
        assert await executions(gateway, tenant) == {"started": 4, "scheduled": 1}
        await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now() WHERE tenant_id = $1", tenant.id)
        await set_probe_in(gateway, tenant, seconds=600)
        await dial_one_round(dialer)
        assert len(upstream.posts) == 5
        await set_probe_in(gateway, tenant, seconds=0)
        await dial_one_round(dialer)
        assert await executions(gateway, tenant) == {"started": 5}


async def test_a_refused_account_dials_after_a_backward_clock_step(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create(priority="normal")).status_code == 202
        await dial_one_round(dialer)
        await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now() WHERE tenant_id = $1", tenant.id)
        await set_probe_in(gateway, tenant, seconds=3600)
        await dial_one_round(dialer)
        assert await executions(gateway, tenant) == {"started": 1}


async def test_a_refusal_long_after_the_last_one_slows_the_account_down_anew(gateway: Gateway) -> None:
    async with running_upstream(error(429, 20429)) as upstream, running_dialer(gateway) as dialer:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create(priority="normal")).status_code == 202
        ((account_id,),) = await gateway.database.fetch("SELECT id FROM twilio_account WHERE tenant_id = $1", tenant.id)
        for age, is_new in ((timedelta(days=7), True), (timedelta(minutes=4), False)):
            waiting = """INSERT INTO pace (subject_id, refused_since, probe_at) VALUES ($1, now() - $2::interval, now() - $2)
                ON CONFLICT (subject_id) DO UPDATE SET refused_since = excluded.refused_since, probe_at = excluded.probe_at"""
            await gateway.database.fetch(waiting, account_id, age)
            await gateway.database.fetch("UPDATE scheduled_dial SET due_at = now() WHERE tenant_id = $1", tenant.id)
            before = await clock(gateway)
            await dial_one_round(dialer)
            since, probe_at = await times(gateway, account_id)
            assert since is not None
            assert probe_at is not None
            assert (since > before) is is_new
            assert (probe_at - since < timedelta(seconds=10)) is is_new
        assert await executions(gateway, tenant) == {"scheduled": 1}


async def times(gateway: Gateway, account_id: UUID) -> tuple[datetime | None, datetime | None]:
    (row,) = await gateway.database.fetch("SELECT refused_since, probe_at FROM pace WHERE subject_id = $1", account_id)
    return row["refused_since"], row["probe_at"]


async def clock(gateway: Gateway) -> datetime:
    ((now,),) = await gateway.database.fetch("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


async def test_the_wait_doubles_up_to_a_minute_or_is_what_twilio_asks_for(gateway: Gateway) -> None:
    account_id, database = uuid4(), gateway.database
    await database.fetch("INSERT INTO pace (subject_id) VALUES ($1)", account_id)
    assert await slow_account_down(database, account_id, wait=timedelta(seconds=1), was_probe=False)
    since, probe_at = await times(gateway, account_id)
    assert since is not None
    assert probe_at == since + timedelta(seconds=1)
    # Another call that was under way at the same time.
    assert not await slow_account_down(database, account_id, wait=timedelta(0), was_probe=False)
    assert await times(gateway, account_id) == (since, probe_at)
    earlier = "UPDATE pace SET refused_since = refused_since - make_interval(secs => $2) WHERE subject_id = $1"
    for shift_s, wait_s, expected_s in ((10, 1, 10), (3600, 1, 60), (0, 300, 300), (0, 10**8, 900)):
        await database.fetch(earlier, account_id, float(shift_s))
        before = await clock(gateway)
        await slow_account_down(database, account_id, wait=timedelta(seconds=wait_s), was_probe=True)
        _, probe_at = await times(gateway, account_id)
        assert probe_at is not None
        assert probe_at >= before + timedelta(seconds=expected_s)
    assert probe_at <= await clock(gateway) + timedelta(seconds=900)
    await end_account_slowdown(database, account_id)
    assert await times(gateway, account_id) == (None, None)


@pytest.mark.parametrize("is_probe", [False, True])
@pytest.mark.parametrize(
    ("outcome", "next_probe_s"),
    [
        # The call could not be prepared, so the next call is the probe.
        (NotStartedOutcome(InternalError(), []), 0),
        # This worker could not reach Twilio, which may be its own fault.
        (NotStartedOutcome(UpstreamUnreachable(), [DialAttempt("connect", 1, "credential")]), 10),
        # Twilio refused the first credential, and there was no time for the second one.
        (NotStartedOutcome(UpstreamUnreachable(), [DialAttempt("credential_rejected", 1, "credential", status=401)]), 10),
    ],
)
async def test_a_call_that_twilio_did_not_decide_proves_nothing(
    gateway: Gateway, outcome: NotStartedOutcome, next_probe_s: int, *, is_probe: bool
) -> None:
    """Checks that such a call neither slows an account down nor ends that. `next_probe_s` follows if the call was the probe."""
    account_id, database = uuid4(), gateway.database
    call = Call(id=uuid4(), account_id=account_id)
    waiting = RequeueValues({}, timedelta(seconds=60), is_probe=is_probe)
    await database.fetch("INSERT INTO pace (subject_id) VALUES ($1)", account_id)
    await slow_down_or_resume_account(database, call, outcome, replace(waiting, is_probe=False))
    assert await times(gateway, account_id) == (None, None)

    slowed = "UPDATE pace SET refused_since = now() - interval '10 s', probe_at = now() + interval '60 s' WHERE subject_id = $1"
    await database.fetch(slowed, account_id)
    since, probe_at = await times(gateway, account_id)
    before = await clock(gateway)
    await slow_down_or_resume_account(database, call, outcome, waiting)
    since_then, next_probe_at = await times(gateway, account_id)
    assert since_then == since
    if is_probe:
        assert next_probe_at is not None
        assert before + timedelta(seconds=next_probe_s) <= next_probe_at < before + timedelta(seconds=next_probe_s + 20)
    else:
        assert next_probe_at == probe_at
