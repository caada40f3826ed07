"""Tests refreshes that read Twilio's list for many calls at once. The simulator's list can be wrong, as Twilio's can."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.errors import DatabaseUnavailable
from app.jobs.call_list_scan import MIN_CALLS_FOR_LIST, find_calls_in_list
from app.jobs.refresh import MAX_FETCHES_PER_ACCOUNT, CallRefresher
from app.twilio.call_list import CALL_LIST_PAGE_SIZE
from app.twilio.schemas import Credential
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.jobs import run_step, running_refresher
from tests.support.upstream import Behaviour, answer, call_resource, running_upstream

TERMINAL = {"completed", "busy", "no-answer", "failed"}
RANK = {"queued": 0, "ringing": 1, "in-progress": 2} | dict.fromkeys(TERMINAL, 3)
USERS = ["kate", "ann", "busy", "no-answer", "failed"]
SHOWN = ("status", "duration", "price", "start_time", "end_time", "to", "from")
LIES: dict[str, dict[str, Any]] = {
    "none": {},
    "lag": {"lag_s": [0, 20]},
    "stale": {"stale_s": [0, 20]},
    "always stale": {"stale_s": [20, 20]},
    "omitted": {"omit_share": 0.4},
    "all": {"lag_s": [0, 20], "stale_s": [0, 20], "omit_share": 0.3, "moving_pages": True},
}


class Clock:
    """The simulator's clock, which tests move."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Twilio:
    """The simulator, its clock, and requests that change how it shows calls."""

    url: str
    clock: Clock
    http: httpx.AsyncClient

    async def set_list_faults(self, **faults: Any) -> None:
        (await self.http.put("/_simulator/listing", json=faults)).raise_for_status()

    async def requests(self, tenant: Tenant) -> dict[str, int]:
        answer = await self.http.get("/_simulator/requests", params={"account_sid": tenant.account_sid})
        counts: dict[str, int] = answer.raise_for_status().json()
        return {name: count for name, count in counts.items() if name.startswith("GET")}

    async def create_for_someone_else(self, tenant: Tenant, number: int = 1) -> None:
        """Creates calls in the tenant's account without Callgate."""
        form = {"To": "sip:stranger@example.com", "From": "Jack", "Twiml": "<Response/>"}
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
        for _ in range(number):
            auth = (tenant.account_sid, tenant.auth_token)
            (await self.http.post(path, data=form, auth=auth)).raise_for_status()

    async def fetch(self, tenant: Tenant, sid: str) -> dict[str, Any]:
        path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}.json"
        answer = await self.http.get(path, auth=(tenant.account_sid, tenant.auth_token))
        call: dict[str, Any] = answer.raise_for_status().json()
        return call


@pytest.fixture
async def twilio() -> AsyncIterator[Twilio]:
    clock = Clock()
    config = SimulatorConfig(open_mode=True, clock=clock)
    async with (
        running_app(create_simulator(config), date_header=False) as url,
        http_client(base_url=url) as http,
    ):
        yield Twilio(url, clock, http)


@pytest.fixture
async def tenant(gateway: Gateway, twilio: Twilio) -> Tenant:
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = NULL"))
    return await gateway.add_tenant(twilio.url)


@pytest.fixture
async def refresher(gateway: Gateway) -> AsyncIterator[CallRefresher]:
    async with running_refresher(gateway) as running:
        yield running


async def create(tenant: Tenant, number: int) -> dict[str, dict[str, Any]]:
    """Creates `number` calls, each to another destination. Returns their records by id."""
    answers = [await tenant.create(to=f"sip:{USERS[n % len(USERS)]}@{n}.example.com") for n in range(number)]
    return {record["id"]: record for record in (answer.raise_for_status().json() for answer in answers)}


async def refresh_all(gateway: Gateway, refresher: CallRefresher) -> None:
    """Makes every planned refresh due, and runs refreshes until none is due."""
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET refresh_at = now() WHERE refresh_at IS NOT NULL"))
    while await run_step(refresher):
        pass


async def read_records(tenant: Tenant, ids: Any) -> dict[str, dict[str, Any]]:
    """Returns the records of these calls by id, as GET /v1/calls shows them: without the member `resource`."""
    page = (await tenant.http.get("/v1/calls", params={"limit": "200"})).raise_for_status().json()
    records = {record["id"]: record for record in page["calls"]}
    return {id_: records[id_] for id_ in ids}


async def read_whole_records(tenant: Tenant, ids: Any) -> dict[str, dict[str, Any]]:
    return {id_: (await tenant.http.get(f"/v1/calls/{id_}")).raise_for_status().json() for id_ in ids}


async def planned_refreshes(gateway: Gateway, ids: Any) -> list[datetime]:
    async with gateway.database.begin() as session:
        statement = text("SELECT refresh_at FROM call WHERE id = ANY(:ids) AND refresh_at IS NOT NULL ORDER BY refresh_at")
        return list(await session.scalars(statement, {"ids": list(ids)}))


def assert_is_own(record: dict[str, Any], placed: dict[str, Any]) -> None:
    """Asserts that the record has the SID and the destination of the call that it was created for."""
    for shown in (record, record.get("resource", record)):
        assert (shown["sid"], shown["to"]) == (placed["sid"], placed["to"])


@pytest.mark.parametrize(
    ("number", "requests"),
    [
        (MIN_CALLS_FOR_LIST - 1, {"GET Call": MIN_CALLS_FOR_LIST - 1}),
        (MIN_CALLS_FOR_LIST, {"GET Calls": 1}),
        (40, {"GET Calls": 1}),
    ],
)
async def test_few_calls_are_fetched_and_many_are_listed_at_once(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher, number: int, requests: dict[str, int]
) -> None:
    placed = await create(tenant, number)
    twilio.clock.move(seconds=120)
    await refresh_all(gateway, refresher)
    assert await twilio.requests(tenant) == requests
    assert all(record["status"] in TERMINAL for record in (await read_records(tenant, placed)).values())


async def test_listed_calls_are_updated_although_a_check_of_the_list_fails(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher
) -> None:
    checked = []

    async def fail(account_id: UUID, page: Sequence[Mapping[str, Any]]) -> None:
        checked.append(account_id)
        raise DatabaseUnavailable

    placed = await create(tenant, MIN_CALLS_FOR_LIST)
    twilio.clock.move(seconds=120)
    await refresh_all(gateway, replace(refresher, first_page_checks=(fail, fail)))
    assert len(checked) == 2
    assert await twilio.requests(tenant) == {"GET Calls": 1}
    assert all(record["status"] in TERMINAL for record in (await read_records(tenant, placed)).values())


async def test_queued_calls_are_listed_although_they_have_no_start_time(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher
) -> None:
    placed = await create(tenant, 5)
    await refresh_all(gateway, refresher)
    records = await read_whole_records(tenant, placed)
    assert [record["status"] for record in records.values()] == ["queued"] * 5
    # The answer to a creation has no date: it comes from the list.
    assert all(record["resource"]["date_created"] for record in records.values())
    assert await twilio.requests(tenant) == {"GET Calls": 1}


@pytest.mark.parametrize("lie", LIES)
async def test_no_record_is_wrong_whatever_the_list_shows(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher, lie: str
) -> None:
    placed = await create(tenant, 25)
    await twilio.set_list_faults(**LIES[lie], seed=7)
    ranks = dict.fromkeys(placed, 0)
    for _ in range(24):
        twilio.clock.move(seconds=5)
        await refresh_all(gateway, refresher)
        for id_, record in (await read_records(tenant, placed)).items():
            assert_is_own(record, placed[id_])
            assert RANK[record["status"]] >= ranks[id_]
            ranks[id_] = RANK[record["status"]]
    for id_, record in (await read_whole_records(tenant, placed)).items():
        assert_is_own(record, placed[id_])
        truth = await twilio.fetch(tenant, record["sid"])
        assert {name: record["resource"][name] for name in SHOWN} == {name: truth[name] for name in SHOWN}
        assert (record["status"], record["price"]) == (truth["status"], truth["price"])
        changes = [event["data"]["status"] for event in await tenant.events(id_) if event["type"] == "call.status"]
        assert [RANK[status] for status in changes] == sorted({RANK[status] for status in changes})


async def test_calls_that_the_list_lacks_are_fetched_a_few_at_a_time(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher
) -> None:
    placed = await create(tenant, MAX_FETCHES_PER_ACCOUNT + 5)
    await twilio.set_list_faults(omit_share=1)
    twilio.clock.move(seconds=120)
    await refresh_all(gateway, refresher)
    assert await twilio.requests(tenant) == {"GET Calls": 1, "GET Call": MAX_FETCHES_PER_ACCOUNT}
    statuses = [record["status"] for record in (await read_records(tenant, placed)).values()]
    assert statuses.count("queued") == 5
    async with gateway.database.begin() as session:
        soon = text(
            "SELECT count(*) FROM call WHERE id = ANY (:ids) AND refresh_at <= now() + interval '30 s' AND status = 'queued'"
        )
        assert await session.scalar(soon, {"ids": [UUID(call_id) for call_id in placed]}) == 5
    await refresh_all(gateway, refresher)
    assert all(record["status"] in TERMINAL for record in (await read_records(tenant, placed)).values())


async def test_a_list_that_is_slow_is_not_read_to_its_end(gateway: Gateway) -> None:
    def page(number: int) -> Behaviour:
        following = f"/2010-04-01/Accounts/AC{'0' * 32}/Calls.json?Page={number + 1}"
        return answer(200, {"calls": [call_resource(f"CA{number:032x}")], "next_page_uri": following})

    credential = Credential(f"AC{'0' * 32}", f"AC{'0' * 32}", SecretStr("token"))
    for stop_reading_after_s, pages in ((0, 1), (3600, 2)):
        async with running_upstream(*map(page, range(9))) as upstream, running_refresher(gateway) as refresher:
            wanted = {f"CA{number:032x}": datetime.now(UTC) for number in range(20)}
            sweep_ = partial(
                find_calls_in_list, refresher.twilio, replace(credential, base_url=upstream.url), wanted=wanted, deadline_s=60
            )
            shown = await sweep_(stop_reading_after_s=stop_reading_after_s)
            assert len(shown.found) == len(upstream.received) == pages


@pytest.mark.parametrize(
    ("wanted_age", "are_listed", "pages", "found"),
    [
        (timedelta(days=40), True, 1, 0),
        (timedelta(minutes=6), False, 3, 0),
        (timedelta(minutes=44), True, 6, 20),
    ],
    ids=["too far back", "not in the list", "further back"],
)
async def test_the_list_is_read_as_far_back_as_is_worth_it(
    gateway: Gateway, wanted_age: timedelta, are_listed: bool, pages: int, found: int
) -> None:
    """Each page of the list goes ten minutes further back than the one before it."""
    now = datetime.now(UTC)
    wanted = {f"CA{number:032x}": now - wanted_age for number in range(100)}

    def page(number: int) -> Behaviour:
        first = now - timedelta(minutes=10 * number)
        last = first - timedelta(minutes=10)
        own = list(wanted)[:20] if are_listed and last <= now - wanted_age < first else []
        entries = [
            call_resource(sid, date_created=format_datetime(at))
            for sid, at in [(f"CA{'e' * 32}", first), *((sid, wanted[sid]) for sid in own), (f"CA{'f' * 32}", last)]
        ]
        following = f"/2010-04-01/Accounts/AC{'0' * 32}/Calls.json?Page={number + 1}"
        return answer(200, {"calls": entries, "next_page_uri": following if number < 19 else None})

    credential = Credential(f"AC{'0' * 32}", f"AC{'0' * 32}", SecretStr("token"))
    async with running_upstream(*map(page, range(20))) as upstream, running_refresher(gateway) as refresher:
        at_upstream = replace(credential, base_url=upstream.url)
        shown = await find_calls_in_list(refresher.twilio, at_upstream, wanted=wanted, deadline_s=60, stop_reading_after_s=3600)
        assert (len(upstream.received), len(shown.found)) == (pages, found)


async def make_old(gateway: Gateway, ids: Any, *, status: str, days: int = 40) -> None:
    """Sets the status of these calls and, to so many days ago, the times of their start and end."""
    statement = """UPDATE call SET status = $2, settled_at = now() - $3::interval,
        end_time = CASE WHEN $2 = 'queued' THEN NULL ELSE now() - $3::interval END WHERE id = ANY ($1)"""
    await gateway.database.fetch(statement, [UUID(id_) for id_ in ids], status, timedelta(days=days))


@pytest.mark.parametrize("status", ["queued", "completed", "busy"])
async def test_a_call_that_was_throttled_or_not_asked_for_is_not_given_up_however_old_it_is(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher, status: str
) -> None:
    placed = await create(tenant, MIN_CALLS_FOR_LIST)
    await make_old(gateway, placed, status=status)
    await twilio.set_list_faults(max_per_s={tenant.account_sid: 0})
    for _ in ("throttled", "paused"):
        await refresh_all(gateway, refresher)
        planned = await planned_refreshes(gateway, placed)
        assert len(planned) == MIN_CALLS_FOR_LIST
        # Rarely, and not for ever after each 429.
        assert timedelta(minutes=50) < planned[0] - datetime.now(UTC) < timedelta(minutes=61)
    assert await twilio.requests(tenant) == {"GET Calls": 1}


async def test_a_call_that_is_not_among_those_that_are_fetched_is_not_given_up_however_old_it_is(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher
) -> None:
    placed = await create(tenant, MAX_FETCHES_PER_ACCOUNT + 5)
    await make_old(gateway, placed, status="queued")
    await twilio.set_list_faults(omit_share=1)
    await refresh_all(gateway, refresher)
    assert len(await planned_refreshes(gateway, placed)) == 5
    await refresh_all(gateway, refresher)
    assert await planned_refreshes(gateway, placed) == []


async def test_a_call_that_the_list_and_a_fetch_lack_is_not_taken_for_deleted(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher
) -> None:
    placed = await create(tenant, 4)
    hidden = (await tenant.create(to="sip:fault-delayed-visibility@example.com")).raise_for_status().json()
    await refresh_all(gateway, refresher)
    record = (await tenant.http.get(f"/v1/calls/{hidden['id']}")).json()
    assert (record["status"], record["deleted_at"]) == ("queued", None)
    twilio.clock.move(seconds=120)
    await refresh_all(gateway, refresher)
    records = await read_records(tenant, [*placed, hidden["id"]])
    assert all(record["status"] in TERMINAL for record in records.values())


async def test_pages_that_move_while_they_are_read_lose_no_call(
    gateway: Gateway, twilio: Twilio, tenant: Tenant, refresher: CallRefresher
) -> None:
    """Foreign calls fill the first page of Twilio's list, and more are created between two requests for pages."""
    await twilio.set_list_faults(moving_pages=True)
    placed = await create(tenant, 15)
    await twilio.create_for_someone_else(tenant, CALL_LIST_PAGE_SIZE - 5)
    twilio.clock.move(seconds=120)

    async def create_more() -> None:
        while True:
            await twilio.create_for_someone_else(tenant)

    creating = asyncio.create_task(create_more())
    await refresh_all(gateway, refresher)
    creating.cancel()
    requests = await twilio.requests(tenant)
    assert requests["GET Calls"] == 2
    assert requests.get("GET Call", 0) < 10
    for id_, record in (await read_whole_records(tenant, placed)).items():
        assert_is_own(record, placed[id_])
        assert record["status"] == (await twilio.fetch(tenant, record["sid"]))["status"]


@pytest.mark.parametrize(("retry_after_s", "wait_s"), [(None, 20), (90, 80)])
async def test_a_429_slows_only_the_account_that_got_it(
    gateway: Gateway,
    twilio: Twilio,
    tenant: Tenant,
    refresher: CallRefresher,
    retry_after_s: int | None,
    wait_s: int,
) -> None:
    other = await gateway.add_tenant(twilio.url)
    placed, others = await create(tenant, 10), await create(other, 10)
    await twilio.set_list_faults(max_per_s={tenant.account_sid: 0}, retry_after_s=retry_after_s)
    twilio.clock.move(seconds=5)
    for _ in range(3):
        twilio.clock.move(seconds=5)
        await refresh_all(gateway, refresher)
    assert await twilio.requests(tenant) == {"GET Calls": 1}
    assert await twilio.requests(other) == {"GET Calls": 3}
    assert {record["status"] for record in (await read_records(tenant, placed)).values()} == {"queued"}
    assert "queued" not in {record["status"] for record in (await read_records(other, others)).values()}
    planned = await planned_refreshes(gateway, placed)
    assert len(planned) == 10
    assert planned[0] > datetime.now(UTC) + timedelta(seconds=wait_s)
    # Another worker has had no 429, and Twilio answers its requests again.
    await twilio.set_list_faults()
    twilio.clock.move(seconds=120)
    async with running_refresher(gateway) as another:
        await refresh_all(gateway, another)
    assert all(record["status"] in TERMINAL for record in (await read_records(tenant, placed)).values())
