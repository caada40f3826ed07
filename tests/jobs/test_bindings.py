"""Tests the worker's search in Twilio's list for calls whose creation got no answer.

A search binds a call only to its own record, and never concludes that a started call was not started.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from app.calls import repository
from app.clock import monotonic_seconds
from app.jobs.candidates import twilio_clock_offset
from app.jobs.resolve import OutcomeResolver
from app.observability import Metrics
from app.twilio.clock import TwilioClockOffsets
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.jobs import run_search, running_resolver
from tests.support.upstream import Behaviour, Upstream, answer, call_resource, hang, proxy_page, reset, running_upstream

SEARCHES = 2
STARTS, NOT_STARTED = "accept-then-reset", "refuse-500"


@pytest.fixture
async def resolver(gateway: Gateway) -> AsyncIterator[OutcomeResolver]:
    async with running_resolver(gateway, searches=SEARCHES) as running:
        yield running


@dataclass
class Twilio:
    """The simulator in place of Twilio, and the client of its control routes."""

    url: str
    http: httpx.AsyncClient

    async def show(self, **showing: Any) -> None:
        (await self.http.put("/_simulator/showing", json=showing)).raise_for_status()

    async def lose(self, tenant: Tenant, fault: str, **members: Any) -> str:
        """Creates a call while the simulator has this fault, so that the call's outcome is unknown. Returns the call's id."""
        (await self.http.put("/_simulator/faults", json={"share": 1.0, "names": [fault]})).raise_for_status()
        lost = await tenant.create(**members)
        assert (lost.status_code, lost.json()["execution"]) == (202, "unknown"), lost.text
        return str(lost.json()["id"])

    async def sids(self) -> list[str]:
        """Returns the SIDs of all calls that the simulator has created."""
        ledger = (await self.http.get("/_simulator/ledger")).json()
        return [entry["sid"] for entry in ledger["entries"] if entry["sid"]]


@pytest.fixture(scope="module")
async def simulator() -> AsyncIterator[Twilio]:
    app = create_simulator(SimulatorConfig(open_mode=True))
    async with running_app(app, date_header=False) as url, http_client(base_url=url) as http:
        yield Twilio(url, http)


@pytest.fixture
async def twilio(simulator: Twilio) -> Twilio:
    (await simulator.http.post("/_simulator/reset")).raise_for_status()
    return simulator


async def tenant_with_the_account_of(gateway: Gateway, other: Tenant, base_url: str) -> Tenant:
    """Returns a new tenant that has the same Twilio account as `other`."""
    tenant = await gateway.add_tenant(with_account=False)
    await gateway.tenants.add_credential(
        tenant.id, account_sid=other.account_sid, secret=other.auth_token, key_sid=None, base_url=base_url
    )
    gateway.invalidate_cache()
    return tenant


async def search(gateway: Gateway, resolver: OutcomeResolver, *call_ids: str, times: int = SEARCHES + 1) -> None:
    """Runs the worker's search `times` times, for these calls only."""
    for _ in range(times):
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET search_at = NULL WHERE id <> ALL(:ids)"), {"ids": list(call_ids)})
            await session.execute(
                text("UPDATE call SET search_at = now() WHERE id = ANY(:ids) AND execution = 'unknown'"),
                {"ids": list(call_ids)},
            )
        await run_search(resolver)


async def record(tenant: Tenant, call_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()
    return found


async def last_search(tenant: Tenant, call_id: str) -> dict[str, Any]:
    searched = [event["data"] for event in await tenant.events(call_id) if event["type"] == "call.searched"]
    return dict(searched[-1])


SPELLINGS: dict[str, dict[str, Any]] = {
    "as it was sent": {},
    "hosts in lower case": {"host": "lower"},
    "hosts in upper case": {"host": "upper"},
    "users in lower case": {"user": "lower"},
    "without headers": {"headers": False},
    "without parameters": {"parameters": False},
    "without ports": {"port": False},
    "bare addresses in lower case": {"user": "lower", "host": "lower", "port": False, "parameters": False, "headers": False},
    "sips addresses": {"scheme": "sips"},
    "addresses without a scheme": {"scheme": "none"},
    "numbers without plus": {"plus": False},
    "from as sip": {"from_as": "sip"},
    "from as sips": {"from_as": "sips"},
    "from in lower case": {"from_case": "lower"},
    "from as sips in upper case": {"from_as": "sips", "from_case": "upper"},
    "filtered by what was sent": {"host": "lower", "headers": False, "filter_by": "sent"},
    "a clock 50 s ahead": {"ahead_s": 50},
    "a clock 5 min ahead": {"ahead_s": 300},
    "a clock 5 min behind": {"ahead_s": -300},
    "a clock 20 min ahead": {"ahead_s": 1200},
    "a clock 20 min behind": {"ahead_s": -1200},
    "a clock a day ahead": {"ahead_s": 86400},
}
ADDRESSES = (
    "sip:kate@example.com",
    "sip:Kate.O%27Brien@EXAMPLE.com:5080;transport=tcp;edge=dublin?X-order=1&X-mail=a%40b",
    "sip:example.com:5060;transport=tcp",
    "sip:203.0.113.4",
    "sip:a%2541@example.com",
    "+14155550100",
)
FAR_CLOCKS = {name for name, showing in SPELLINGS.items() if abs(showing.get("ahead_s", 0)) > 900}


def caller_of(to: str) -> str:
    return "+14155550199" if to.startswith("+") else "Jack"


@pytest.mark.parametrize("showing", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_a_started_call_is_bound_to_its_record_or_stays_unknown(
    gateway: Gateway, resolver: OutcomeResolver, twilio: Twilio, showing: dict[str, Any]
) -> None:
    await twilio.show(**showing)
    tenant = await gateway.add_tenant(twilio.url)
    lost = {to: await twilio.lose(tenant, STARTS, to=to, **{"from": caller_of(to)}) for to in ADDRESSES}
    sids = dict(zip(ADDRESSES, await twilio.sids(), strict=True))
    await search(gateway, resolver, *lost.values())
    for to, call_id in lost.items():
        found = await record(tenant, call_id)
        result = (found["execution"], found["sid"])
        assert result in {("started", sids[to]), ("unknown", None)}, (to, await last_search(tenant, call_id))
        if not showing:
            assert result == ("started", sids[to]), (to, await last_search(tenant, call_id))


@pytest.mark.parametrize(("name", "showing"), SPELLINGS.items(), ids=SPELLINGS.keys())
async def test_a_call_that_was_not_started_is_none_found_unless_the_clocks_differ_too_much(
    gateway: Gateway, resolver: OutcomeResolver, twilio: Twilio, name: str, showing: dict[str, Any]
) -> None:
    await twilio.show(**showing)
    tenant = await gateway.add_tenant(twilio.url)
    lost = {to: await twilio.lose(tenant, NOT_STARTED, to=to, **{"from": caller_of(to)}) for to in ADDRESSES}
    await search(gateway, resolver, *lost.values())
    for call_id in lost.values():
        found = await record(tenant, call_id)
        if name in FAR_CLOCKS:
            assert found["execution"] == "unknown"
            assert (await last_search(tenant, call_id))["reason"] == "clock_offset_too_large"
        else:
            assert (found["execution"], found["settled_by"]) == ("not_started", "none_found")


RIVALS = (
    ("sip:a@EXAMPLE.com", "sip:a@example.com"),
    ("sip:b@example.com", "sip:b@EXAMPLE.com"),
    ("sip:C@example.com", "sip:c@example.com"),
    ("sip:d@example.com;transport=tcp?X-a=1", "sip:d@example.com"),
    ("sip:%65@example.com:5060", "sip:e@example.com"),
)


@pytest.mark.parametrize("showing", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_the_call_of_one_tenant_is_never_bound_to_the_record_of_another(
    gateway: Gateway, resolver: OutcomeResolver, twilio: Twilio, showing: dict[str, Any]
) -> None:
    """Two tenants share an account. The simulator creates the first tenant's calls, and none of the second tenant's calls."""
    await twilio.show(**showing)
    one = await gateway.add_tenant(twilio.url)
    two = await tenant_with_the_account_of(gateway, one, twilio.url)
    first = [await twilio.lose(one, STARTS, to=rang) for rang, _ in RIVALS]
    second = [await twilio.lose(two, NOT_STARTED, to=never_rang) for _, never_rang in RIVALS]
    await search(gateway, resolver, *second, times=1)
    await search(gateway, resolver, *first, *second)
    assert [(await record(two, call_id))["execution"] for call_id in second] == ["unknown"] * len(RIVALS)
    assert [(await record(one, call_id))["execution"] for call_id in first] == ["unknown"] * len(RIVALS)


async def test_a_record_of_the_previous_version_is_a_rival_too(
    gateway: Gateway, resolver: OutcomeResolver, twilio: Twilio
) -> None:
    await twilio.show(host="lower")
    one = await gateway.add_tenant(twilio.url)
    two = await tenant_with_the_account_of(gateway, one, twilio.url)
    first = await twilio.lose(one, STARTS, to="sip:kate@EXAMPLE.com")
    second = await twilio.lose(two, NOT_STARTED, to="sip:kate@example.com")
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET address_key = NULL WHERE id = ANY(:ids)"), {"ids": [first, second]})
    await search(gateway, resolver, second, times=1)
    assert await last_search(two, second) == {"result": "ambiguous", "candidates": 1, "rivals": 1}


async def test_a_repeated_key_keeps_the_normal_form_of_its_address(gateway: Gateway, twilio: Twilio) -> None:
    tenant = await gateway.add_tenant(twilio.url)
    await twilio.http.put("/_simulator/faults", json={"share": 1.0, "names": ["refuse-429"]})
    assert (await tenant.create("k", to="sip:Kate@EXAMPLE.com")).status_code == 503
    await twilio.http.put("/_simulator/faults", json={"share": 0.0})
    assert (await tenant.create("k", to="sip:Kate@EXAMPLE.com")).status_code == 201
    async with gateway.database.begin() as session:
        keys = await session.scalars(text("SELECT address_key FROM call WHERE tenant_id = :tenant"), {"tenant": tenant.id})
        assert list(keys) == ["sip:kate@example.com"]


@asynccontextmanager
async def endless_account(*entries: dict[str, Any], shown: str) -> AsyncIterator[Upstream]:
    """A server whose unfiltered list of calls never ends. The filter `To=shown` gives `entries`, and other filters nothing."""

    async def behave(upstream: Upstream, reader: Any, writer: Any) -> None:
        request = upstream.received[-1]
        path, _, query = request.path.partition("?")
        if request.method == "POST":
            await reset(upstream, reader, writer)
        asked = httpx.QueryParams(query)
        matching = list(entries) if asked.get("To") == shown and "Status" not in asked else []
        following = None if "To" in asked else f"{path}?PageToken=next"
        await answer(200, {"calls": matching, "next_page_uri": following})(upstream, reader, writer)

    async with running_upstream(behave) as upstream:
        yield upstream


async def check_that_each_spelling_is_searched(gateway: Gateway, resolver: OutcomeResolver, upstream: Upstream) -> None:
    """Checks that a call that Twilio did not get is `none_found`, after a search for each spelling of its address."""
    tenant = await gateway.add_tenant(upstream.url)
    lost = (await tenant.create(to="sip:Kate@EXAMPLE.com")).json()["id"]
    await search(gateway, resolver, lost)
    assert (await record(tenant, lost))["settled_by"] == "none_found"
    asked = [httpx.QueryParams(request.path.partition("?")[2]).get("To") for request in upstream.received]
    assert {"sip:Kate@EXAMPLE.com", "sip:Kate@example.com", "sip:kate@example.com"} <= set(asked)


async def test_a_list_that_is_too_long_is_filtered_by_each_spelling(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with endless_account(shown="nobody") as upstream:
        await check_that_each_spelling_is_searched(gateway, resolver, upstream)


@pytest.mark.parametrize("unfiltered", [hang, proxy_page(503)])
async def test_a_list_that_cannot_be_read_is_filtered_by_each_spelling(gateway: Gateway, unfiltered: Behaviour) -> None:
    async def behave(upstream: Upstream, reader: Any, writer: Any) -> None:
        request = upstream.received[-1]
        if request.method == "POST":
            await reset(upstream, reader, writer)
        is_filtered = "To" in httpx.QueryParams(request.path.partition("?")[2])
        respond = answer(200, {"calls": [], "next_page_uri": None}) if is_filtered else unfiltered
        await respond(upstream, reader, writer)

    async with running_upstream(behave) as upstream, running_resolver(gateway, searches=SEARCHES, timeout_s=1) as resolver:
        await check_that_each_spelling_is_searched(gateway, resolver, upstream)


@pytest.mark.parametrize(
    ("sent", "caller", "shown"),
    [
        ("sip:kate@EXAMPLE.com:5060;transport=tcp?X-a=1", "Jack", "sip:kate@example.com"),
        ("client:Alice?a=1", "client:Jack", "client:alice"),
    ],
)
async def test_a_list_that_is_too_long_makes_a_search_inconclusive_if_twilio_may_omit_parts_of_the_address(
    gateway: Gateway, resolver: OutcomeResolver, sent: str, caller: str, shown: str
) -> None:
    async with endless_account(shown="nobody") as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create(to=sent, **{"from": caller})).json()["id"]
        await search(gateway, resolver, lost)
        assert (await record(tenant, lost))["execution"] == "unknown"
        assert (await last_search(tenant, lost))["reason"] == "list_too_long"
    plain = call_resource("CA" + uuid4().hex, to=shown, **{"from": caller})
    async with endless_account(plain, shown=shown) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create(to=sent, **{"from": caller})).json()["id"]
        await search(gateway, resolver, lost)
        assert await last_search(tenant, lost) == {"result": "ambiguous", "candidates": 1, "rivals": 0}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (
            "sip:kate@example.com?Remote-Party-ID=%3Csip:foo%40example.org%3E",
            "sip:kate@example.com?Remote-Party-ID=<sip:foo@example.org>",
        ),
        ("sip:pbx;x=a%40b", "sip:pbx"),
        ("sip:pbx;x=a%40b", "sip:pbx;x=a@b"),
    ],
)
async def test_a_call_that_twilio_shows_decoded_or_shorter_is_not_overlooked(
    gateway: Gateway, resolver: OutcomeResolver, sent: str, shown: str
) -> None:
    listed = answer(200, {"calls": [call_resource("CA" + uuid4().hex, to=shown, **{"from": "Jack"})], "next_page_uri": None})
    async with running_upstream(reset, listed) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create(to=sent)).json()["id"]
        await search(gateway, resolver, lost)
        assert (await last_search(tenant, lost))["candidates"] == 1
        assert (await record(tenant, lost))["execution"] in ("started", "unknown")


async def test_no_search_is_conclusive_without_a_date_from_twilio(gateway: Gateway, resolver: OutcomeResolver) -> None:
    without_date = answer(200, {"calls": [], "next_page_uri": None}, headers={"Date": "today"})
    async with running_upstream(reset, without_date) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()["id"]
        await search(gateway, resolver, lost)
        assert (await record(tenant, lost))["execution"] == "unknown"
        assert (await last_search(tenant, lost))["reason"] == "clock_offset_unknown"


async def test_a_clock_offset_is_measured_and_logged(
    gateway: Gateway, resolver: OutcomeResolver, twilio: Twilio, capsys: pytest.CaptureFixture[str]
) -> None:
    await twilio.show(ahead_s=-1200)
    tenant = await gateway.add_tenant(twilio.url)
    lost = await twilio.lose(tenant, NOT_STARTED)
    capsys.readouterr()  # the gateway has a clock of its own, which may warn too
    await search(gateway, resolver, lost, times=1)
    assert capsys.readouterr().out.count("twilio_clock_differs") == 1
    assert -1203 < shown_clock_offset(resolver.metrics) < -1195


def shown_clock_offset(metrics: Metrics) -> float:
    ((sample,),) = (family.samples for family in metrics.twilio.clock_offset.collect())
    return float(sample.value)


def test_a_clock_offset_is_forgotten_after_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that moves to another server, or a clock that has been set, must not leave an alert behind."""
    now, metrics = 0.0, Metrics()
    monkeypatch.setattr("app.twilio.clock.monotonic_seconds", lambda: now)
    clock, received_at = TwilioClockOffsets(metrics), time.time()

    def observe(base_url: str, ahead: timedelta) -> None:
        date = format_datetime(datetime.fromtimestamp(received_at, UTC) + ahead)
        clock.measure_offset(base_url, date, sent_at=received_at, received_at=received_at)

    observe("http://old", timedelta(hours=1))
    now = 800.0
    observe("http://new", timedelta(0))
    assert shown_clock_offset(metrics) > 3000
    now = 901.0
    assert clock.offset_of_server("http://old") is None
    assert clock.offset_of_server("http://new") == clock.largest_offset == timedelta(0)
    assert shown_clock_offset(metrics) == 0
    now = 1701.0
    assert clock.largest_offset is None


async def test_a_list_counts_with_the_clock_at_the_time_when_it_was_read(
    gateway: Gateway, resolver: OutcomeResolver, twilio: Twilio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release reads a list once for thousands of calls, and may take longer than an offset is remembered."""
    await twilio.show()
    tenant = await gateway.add_tenant(twilio.url)
    lost = await twilio.lose(tenant, NOT_STARTED)
    async with gateway.database.begin() as session:
        call = await repository.lock_call(session, UUID(lost))
    assert call
    lists = resolver.make_call_search([call])
    assert (await lists.find_candidates(call)).twilio_clock_offset is not None
    later = monotonic_seconds() + 3600
    monkeypatch.setattr("app.twilio.clock.monotonic_seconds", lambda: later)
    assert (await lists.find_candidates(call)).twilio_clock_offset is not None
    assert await twilio_clock_offset(resolver.directory, resolver.twilio, call.account_id) is None
