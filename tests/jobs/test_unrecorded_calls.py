"""Calls in Twilio's list that Callgate did not place are counted and logged, and no others are."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.jobs.call_list_scan import MIN_CALLS_FOR_LIST
from app.jobs.refresh import CallRefresher
from app.jobs.unrecorded_calls import UnrecordedCallDetector
from tests.support.gateway import Gateway, Tenant
from tests.support.jobs import run_step, running_refresher
from tests.support.upstream import Behaviour, Upstream, answer, call_resource, created, error, reset, running_upstream

MAX_START_DELAY = timedelta(minutes=2)
OLD, YOUNG = timedelta(minutes=30), timedelta(minutes=1)


@pytest.fixture
async def refresher(gateway: Gateway) -> AsyncIterator[CallRefresher]:
    async with running_refresher(gateway) as running:
        yield replace(running, first_page_checks=(make_detector(running).check_page,))


def make_detector(refresher: CallRefresher) -> UnrecordedCallDetector:
    clients = refresher.database, refresher.directory, refresher.twilio
    return UnrecordedCallDetector(
        *clients, refresher.metrics, max_start_delay=MAX_START_DELAY, retention_period=timedelta(days=7)
    )


def entry(age: timedelta = OLD, **fields: Any) -> dict[str, Any]:
    """Returns an entry of Twilio's list: by default a call that an API request created half an hour ago."""
    dated = {"date_created": format_datetime(datetime.now(UTC) - age), "to": "sip:stranger@example.com", "from": "Jack"}
    return call_resource(f"CA{uuid4().hex}", **dated | fields)


def account(*listed: dict[str, Any], first: Behaviour | None = None, date: str | None = None) -> Behaviour:
    """Returns a behaviour like that of an account whose list shows `listed`. The first POST gets the behaviour `first`.

    `date` is the `Date` header of the list. By default, Twilio's clock is right.
    """
    headers = {"Date": date} if date else None

    async def behave(upstream: Upstream, reader: Any, writer: Any) -> None:
        request = upstream.received[-1]
        if request.method == "POST":
            respond = first if first and len(upstream.posts) == 1 else created()
        elif "/Calls.json" in request.path:
            respond = answer(200, {"calls": listed, "next_page_uri": None}, headers=headers)
        else:
            respond = error(404, 20404)
        await respond(upstream, reader, writer)

    return behave


async def sweep(gateway: Gateway, refresher: CallRefresher, ids: list[str]) -> float:
    """Reads the list for these calls. Returns how many unrecorded calls have been counted so far."""
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = NULL WHERE id <> ALL(:ids)"), {"ids": ids})
        await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = ANY(:ids)"), {"ids": ids})
    assert await run_step(refresher)
    ((sample, *_),) = (family.samples for family in refresher.metrics.twilio.unrecorded_calls.collect())
    return float(sample.value)


async def add_account_long_ago(gateway: Gateway, url: str, *, age: timedelta = timedelta(days=30)) -> Tenant:
    tenant = await gateway.add_tenant(url)
    statement = "UPDATE twilio_account SET created_at = now() - $2::interval WHERE tenant_id = $1"
    await gateway.database.fetch(statement, tenant.id, age)
    return tenant


async def place_calls(tenant: Tenant) -> list[str]:
    return [(await tenant.create()).raise_for_status().json()["id"] for _ in range(MIN_CALLS_FOR_LIST)]


async def test_a_call_without_a_record_is_counted_and_logged_once(
    gateway: Gateway, refresher: CallRefresher, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = entry()
    async with running_upstream(account(stranger, entry())) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        ids = await place_calls(tenant)
        capsys.readouterr()
        assert await sweep(gateway, refresher, ids) == 2
        assert await sweep(gateway, refresher, ids) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "calls_without_record" in line]
    assert "calls=2" in line
    assert stranger["sid"] in line
    assert "stranger@" not in line


OTHERS: dict[str, dict[str, Any]] = {
    "inbound": {"direction": "inbound"},
    "a leg that TwiML dialled": {"direction": "outbound-dial"},
    "young": {"age": YOUNG},
    "older than the retention period": {"age": timedelta(days=7)},
    "without a date": {"date_created": None},
    "without an address": {"to": None},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
async def test_another_call_without_a_record_is_not_counted(
    gateway: Gateway, refresher: CallRefresher, fields: dict[str, Any]
) -> None:
    async with running_upstream(account(entry(**fields))) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        assert await sweep(gateway, refresher, await place_calls(tenant)) == 0


async def test_a_call_from_before_the_account_was_added_is_not_counted(gateway: Gateway, refresher: CallRefresher) -> None:
    async with running_upstream(account(entry())) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url, age=timedelta(minutes=20))
        assert await sweep(gateway, refresher, await place_calls(tenant)) == 0


async def test_a_call_with_a_record_of_any_tenant_is_not_counted(gateway: Gateway, refresher: CallRefresher) -> None:
    own = entry()
    async with running_upstream(account(own, first=answer(201, own))) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        other = await gateway.add_tenant(with_account=False)
        await gateway.tenants.add_credential(
            other.id, account_sid=tenant.account_sid, secret=tenant.auth_token, key_sid=None, base_url=upstream.url
        )
        gateway.invalidate_cache()
        assert (await other.create()).json()["sid"] == own["sid"]
        assert await sweep(gateway, refresher, await place_calls(tenant)) == 0


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        ("sip:Kate@EXAMPLE.com:5060;transport=tcp", "sip:kate@example.com"),
        ("sip:pbx;x=a%40b", "sip:pbx"),
    ],
)
@pytest.mark.parametrize("state", ["unknown", "pending", "none_found", "without a key"])
async def test_a_call_that_may_belong_to_an_open_record_is_not_counted(
    gateway: Gateway, refresher: CallRefresher, to: str, shown: str, state: str
) -> None:
    change = {
        "unknown": "search_at = NULL",
        "pending": "execution = 'pending'",
        "none_found": "execution = 'not_started', settled_by = 'none_found', search_at = NULL",
        "without a key": "address_key = NULL",  # written by version 0.1.0
    }[state]
    async with running_upstream(account(entry(to=shown), entry(), first=reset)) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        lost = (await tenant.create(to=to)).json()
        assert lost["execution"] == "unknown"
        await gateway.database.fetch(f"UPDATE call SET {change} WHERE id = $1", UUID(lost["id"]))  # noqa: S608
        assert await sweep(gateway, refresher, await place_calls(tenant)) == 1


async def test_a_call_is_counted_once_it_is_old_enough(gateway: Gateway, refresher: CallRefresher) -> None:
    detector = make_detector(refresher)
    # The same detector, for which half an hour is not old yet.
    patient = replace(detector, max_start_delay=2 * OLD)
    async with running_upstream(account(entry())) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        ids = await place_calls(tenant)
        assert await sweep(gateway, replace(refresher, first_page_checks=(patient.check_page,)), ids) == 0
        assert await sweep(gateway, replace(refresher, first_page_checks=(detector.check_page,)), ids) == 1


async def test_calls_are_checked_once_each_when_the_machines_clock_is_ahead_of_twilios(
    gateway: Gateway, refresher: CallRefresher
) -> None:
    """A worker whose clock is ahead must not take calls that are not in the list yet for checked ones."""
    behind = timedelta(minutes=20)  # Twilio's clock is this far behind this machine's clock
    earlier, later = entry(behind + OLD), entry(behind + timedelta(minutes=5))
    detector = make_detector(refresher)
    patient = replace(detector, max_start_delay=timedelta(minutes=10))
    date = format_datetime(datetime.now(UTC) - behind, usegmt=True)
    async with running_upstream(account(earlier, date=date)) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        ids = await place_calls(tenant)
        assert await sweep(gateway, replace(refresher, first_page_checks=(patient.check_page,)), ids) == 1
        # Twilio shows the later call only now.
        upstream.script[:] = [account(earlier, later, date=date)]
        assert await sweep(gateway, replace(refresher, first_page_checks=(detector.check_page,)), ids) == 2


async def test_a_young_call_is_not_counted_when_the_machines_clock_is_ahead_of_twilios(
    gateway: Gateway, refresher: CallRefresher
) -> None:
    behind = timedelta(minutes=20)
    date = format_datetime(datetime.now(UTC) - behind, usegmt=True)
    async with running_upstream(account(entry(behind + YOUNG), date=date)) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        assert await sweep(gateway, refresher, await place_calls(tenant)) == 0


async def test_no_call_is_counted_without_a_date_from_twilio(gateway: Gateway, refresher: CallRefresher) -> None:
    listed = entry()
    async with running_upstream(account(listed, date="today")) as upstream:
        tenant = await add_account_long_ago(gateway, upstream.url)
        ids = await place_calls(tenant)
        assert await sweep(gateway, refresher, ids) == 0
        upstream.script[:] = [account(listed)]
        assert await sweep(gateway, refresher, ids) == 1
