"""Tests how the outcome of a creation without an answer becomes known: by a callback, by Twilio's list, or as `not_started`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text
from twilio.request_validator import RequestValidator

from app.calls import leases
from app.calls.search_plan import SearchPlan
from app.jobs.account_tasks import AccountTaskGroup
from app.jobs.refresh import CallRefresher
from app.jobs.resolve import SEARCH_BATCH_SIZE, OutcomeResolver
from app.twilio.call_list import CALL_LIST_PAGE_SIZE
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.jobs import run_search, run_step, running_refresher, running_resolver
from tests.support.upstream import (
    Behaviour,
    Upstream,
    answer,
    call_resource,
    created,
    created_after_release,
    error,
    hang,
    reset,
    running_upstream,
)

PUBLIC_URL = "https://calls.example.com/gate"
SEARCHES = 3
USERS = ("kate", "ann", "bob", "eve")


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as running:
        yield running


@pytest.fixture
async def resolver(gateway: Gateway) -> AsyncIterator[OutcomeResolver]:
    async with running_resolver(gateway, searches=SEARCHES, timeout_s=1) as running:
        yield running


def listed(*entries: dict[str, Any]) -> Behaviour:
    return answer(200, {"calls": list(entries), "next_page_uri": None})


def entry(sid_digit: str, *, from_: str = "Jack", **fields: Any) -> dict[str, Any]:
    """Returns an entry of Twilio's list of calls, with the current time as its creation time."""
    shown = {"from": from_, "to": "sip:kate@example.com", "date_created": format_datetime(datetime.now(UTC))}
    return call_resource("CA" + sid_digit * 32, **(shown | fields))


async def _search_now(gateway: Gateway, resolver: OutcomeResolver, call_id: str) -> None:
    """Makes this call alone due for a search, and runs the worker's search."""
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET search_at = NULL WHERE id <> :id"), {"id": call_id})
        await session.execute(text("UPDATE call SET search_at = now() WHERE id = :id"), {"id": call_id})
    await run_search(resolver)


async def _record(tenant: Tenant, call_id: str) -> dict[str, Any]:
    record: dict[str, Any] = (await tenant.http.get(f"/v1/calls/{call_id}")).raise_for_status().json()
    return record


async def _send_callback(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, *, token: str | None = None, **fields: str
) -> httpx.Response:
    """Sends Twilio's callback for the last creation that arrived, with Twilio's signature."""
    url = dict(upstream.posts[-1].form)["StatusCallback"].partition("#")[0]
    form = {"CallSid": "CA" + "1" * 32, "AccountSid": tenant.account_sid, "CallStatus": "ringing", **fields}
    signature = RequestValidator(token or tenant.auth_token).compute_signature(url, form)
    path = url.removeprefix(PUBLIC_URL)
    async with http_client(base_url=gateway.url) as twilio:
        return await twilio.post(path, data=form, headers={"X-Twilio-Signature": signature})


async def test_every_creation_has_callgates_callback_url_with_the_calls_id(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
        form = upstream.posts[0].form
    callback = urlsplit(dict(form)["StatusCallback"])
    assert f"{callback.scheme}://{callback.netloc}{callback.path}" == f"{PUBLIC_URL}/callbacks/twilio/{call_id}"
    assert parse_qs(callback.fragment) == {"rc": ["3"], "rp": ["5xx,ct,rt"]}
    assert [value for name, value in form if name == "StatusCallbackEvent"] == ["initiated", "ringing", "answered", "completed"]


async def test_the_list_is_read_once_for_many_calls(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET search_at = NULL"))
    async with running_upstream(*[reset] * SEARCH_BATCH_SIZE, listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for number in range(SEARCH_BATCH_SIZE):
            assert (await tenant.create(to=f"sip:{number}@example.com")).json()["execution"] == "unknown"
        asked = len(upstream.received)
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET search_at = now() WHERE search_at IS NOT NULL"))
        stopping = replace(resolver, tasks=AccountTaskGroup())
        await stopping.search_unknown_calls()
        await stopping.tasks.stop()
        assert len(upstream.received) == asked
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM lease"))
        await run_search(resolver)
        # One request for queued calls, and one for all others.
        assert len(upstream.received) - asked == 2
        async with gateway.database.begin() as session:
            searched = "SELECT count(*) FROM call WHERE tenant_id = :id AND clean_searches = 1"
            assert await session.scalar(text(searched), {"id": tenant.id}) == SEARCH_BATCH_SIZE


async def test_a_callback_binds_the_call_whose_answer_was_lost(gateway: Gateway) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create("k")).json()
        assert lost["execution"] == "unknown"
        assert (await _send_callback(gateway, tenant, upstream)).status_code == 204
        record = await _record(tenant, lost["id"])
        assert (record["execution"], record["settled_by"], record["sid"]) == ("started", "callback", "CA" + "1" * 32)
        assert record["status"] == "ringing"
        assert (await tenant.create("k")).json()["sid"] == "CA" + "1" * 32
        assert len(upstream.posts) == 1
    types = [event["type"] for event in await tenant.events(lost["id"])]
    assert types == ["call.pending", "call.unknown", "call.callback", "call.started", "call.status"]


async def test_a_callback_before_the_response_binds_and_the_response_completes(patient_gateway: Gateway) -> None:
    sid = "CA" + "2" * 32
    async with running_upstream(created_after_release(sid=sid)) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        creating = asyncio.create_task(tenant.create())
        await upstream.wait_for_post()
        assert (await _send_callback(patient_gateway, tenant, upstream, CallSid=sid)).status_code == 204
        upstream.released.set()
        answered = await creating
    assert (answered.status_code, answered.json()["settled_by"]) == (201, "callback")
    assert answered.json()["status"] == "ringing"
    assert answered.json()["subresource_uris"]


async def test_a_callback_that_twilio_did_not_sign_is_refused(gateway: Gateway) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        forged = await _send_callback(gateway, tenant, upstream, token="wrong")
        assert (forged.status_code, forged.json()["type"]) == (403, "urn:callgate:problem:callback-forged")
        intruder = await gateway.add_tenant(upstream.url)
        assert (await _send_callback(gateway, tenant, upstream, token=intruder.auth_token)).status_code == 403
        path = f"/callbacks/twilio/{lost['id']}"
        async with http_client(base_url=gateway.url) as http:
            assert (await http.post(path, data={"CallSid": "CA" + "1" * 32})).status_code == 403
            assert (await http.post(path, content=b"\xff\xfe")).status_code == 403
            assert (await http.get(f"{path}?bodySHA256=x&CallSid=CA1")).status_code == 403
            assert (await http.post("/callbacks/twilio/01a20722-82cb-7520-b5df-0e45ebf88f42")).status_code == 403
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"


async def test_a_signed_callback_of_another_account_or_without_a_sid_changes_nothing(gateway: Gateway) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        for wrong in ({"AccountSid": "AC" + "9" * 32}, {"CallSid": "CA1"}):
            assert (await _send_callback(gateway, tenant, upstream, **wrong)).status_code == 400
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"


async def test_a_signature_by_any_token_that_is_not_revoked_is_valid(gateway: Gateway) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="second-token", key_sid=None, base_url=None
        )
        gateway.invalidate_cache()
        await tenant.create()
        sid = {"CallSid": "CA" + "3" * 32}
        assert (await _send_callback(gateway, tenant, upstream, token="second-token", **sid)).status_code == 204
        (_, credentials), *_ = await gateway.tenants.list_accounts(tenant.id)
        await gateway.tenants.revoke_credential(tenant.id, credentials[1].id)
        gateway.invalidate_cache()
        assert (await _send_callback(gateway, tenant, upstream, token="second-token", **sid)).status_code == 403


async def test_the_list_binds_exactly_one_candidate(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with running_upstream(reset, listed(entry("4", from_="sip:Jack@sip.twilio.com")), listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        await _search_now(gateway, resolver, lost["id"])
        record = await _record(tenant, lost["id"])
        assert (record["execution"], record["settled_by"], record["sid"]) == ("started", "list", "CA" + "4" * 32)
        queries = [parse_qs(urlsplit(request.path).query) for request in upstream.received if request.method == "GET"]
        assert queries[0]["Status"] == ["queued"]
        assert "StartTime>" in queries[1]
        assert not any("To" in query for query in queries)
        assert len(upstream.posts) == 1


async def test_a_call_that_the_list_shows_as_ended_has_all_events_and_one_delivery_of_its_end(
    gateway: Gateway, resolver: OutcomeResolver
) -> None:
    end_time = format_datetime(datetime.now(UTC) - timedelta(hours=1))
    ended = entry("f", status="completed", price="-0.00750", end_time=end_time)
    async with (
        running_upstream(reset, listed(ended), listed(), answer(200, ended)) as upstream,
        running_refresher(gateway) as refresher,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        callbacks: dict[str, Any] = {
            "status_callback": "https://example.com/progress",
            "status_callback_event": ["settled", "completed"],
        }
        lost = (await tenant.create(**callbacks)).json()
        await _search_now(gateway, resolver, lost["id"])
        _, _, searched, started, status, priced = events = await tenant.events(lost["id"])
        assert [event["type"] for event in (searched, started)] == ["call.searched", "call.started"]
        assert (status["type"], status["data"]) == ("call.status", {"status": "completed", "previous": None})
        assert (priced["type"], priced["data"]) == ("call.priced", {"price": "-0.00750", "price_unit": "USD"})
        for _ in range(2):
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = :id"), {"id": lost["id"]})
            await run_step(refresher)
        assert await tenant.events(lost["id"]) == events
        deliveries = (await tenant.http.get(f"/v1/calls/{lost['id']}/deliveries")).json()["deliveries"]
        assert [delivery["event"] for delivery in deliveries] == ["settled", "completed"]


async def test_a_list_that_is_read_to_refresh_calls_binds_a_call_of_unknown_outcome(
    gateway: Gateway, resolver: OutcomeResolver
) -> None:
    lost_entry, *started = [entry("a", to=f"sip:{user}@example.com") | {"sid": f"CA{uuid4().hex}"} for user in USERS]
    answers = [answer(201, resource) for resource in started]
    async with running_upstream(reset, *answers, listed(lost_entry, *started)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        ids = [(await tenant.create(to=resource["to"])).json()["id"] for resource in started]
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET refresh_at = now() WHERE id = ANY(:ids)"), {"ids": ids})
        refresher = CallRefresher(
            database=resolver.database,
            directory=resolver.directory,
            twilio=resolver.twilio,
            metrics=resolver.metrics,
            interval=timedelta(seconds=30),
            fetch_deadline_s=20.0,
            first_page_checks=(resolver.bind_unknown_calls_on_page,),
        )
        while await run_step(refresher):
            pass
        assert [request.method for request in upstream.received] == ["POST"] * 4 + ["GET"]
        record = await _record(tenant, lost["id"])
        assert (record["execution"], record["settled_by"], record["sid"]) == ("started", "list", lost_entry["sid"])
        (searched,) = [event for event in await tenant.events(lost["id"]) if event["type"] == "call.searched"]
        assert searched["data"] == {"result": "bound", "candidates": 1, "rivals": 0}


async def test_an_account_that_hangs_delays_no_search_of_another(gateway: Gateway) -> None:
    async with (
        running_upstream(reset, hang) as hanging,
        running_upstream(reset, listed()) as answering,
        running_resolver(gateway, searches=1, timeout_s=60) as resolver,
    ):
        slow, fast = await gateway.add_tenant(hanging.url), await gateway.add_tenant(answering.url)
        ids = [(await tenant.create()).json()["id"] for tenant in (slow, fast)]
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET search_at = NULL"))
        for last, upstream in ((1, hanging), (2, answering)):
            # The call of the slow account is due again when the second step runs.
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE call SET search_at = now() WHERE id = ANY(:ids)"), {"ids": ids[:last]})
            assert await resolver.search_unknown_calls()
            while len(upstream.received) < 2:
                await asyncio.sleep(0.01)
        while (await _record(fast, ids[1]))["execution"] != "not_started":
            await asyncio.sleep(0.05)
        assert len(hanging.received) == 2
        assert await gateway.directory.find_account_id(slow.id, account_sid=slow.account_sid) in resolver.tasks.busy_accounts()
        hanging.close_connections()
        await resolver.tasks.drain()


UNSURE: dict[str, list[dict[str, Any]]] = {
    "without a candidate": [{"to": "sip:ann@example.com"}],
    "with two candidates": [{}, {}],
    "without an address": [{"to": None}],
    "with a doubtful candidate": [{"direction": None}],
    "that ends before the call": [{}] + [{"to": "sip:ann@example.com"}] * (CALL_LIST_PAGE_SIZE - 1),
}


@pytest.mark.parametrize("fields", UNSURE.values(), ids=UNSURE.keys())
async def test_a_page_that_leaves_a_doubt_binds_nothing_and_is_no_search(
    gateway: Gateway, resolver: OutcomeResolver, fields: list[dict[str, Any]]
) -> None:
    async with running_upstream(reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        now = datetime.now(UTC)
        resolver.twilio.clock.measure_offset(
            upstream.url, format_datetime(now), sent_at=now.timestamp(), received_at=now.timestamp()
        )
        page = [entry("e") | {"sid": f"CA{uuid4().hex}"} | each for each in fields]
        async with gateway.database.begin() as session:
            account_id = await session.scalar(text("SELECT account_id FROM call WHERE id = :id"), {"id": lost["id"]})
        await resolver.bind_unknown_calls_on_page(account_id, page)
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"
        assert "call.searched" not in [event["type"] for event in await tenant.events(lost["id"])]
        # A page without the doubt binds it.
        await resolver.bind_unknown_calls_on_page(account_id, [entry("e") | {"sid": f"CA{uuid4().hex}"}])
        assert (await _record(tenant, lost["id"]))["execution"] == "started"


OTHERS: dict[str, dict[str, Any]] = {
    "another caller's": {"from_": "Jill"},
    "inbound": {"direction": "inbound"},
    "long before": {"date_created": "Tue, 31 Aug 2010 20:36:28 +0000"},
    "long after": {"date_created": "Tue, 31 Aug 2199 20:36:28 +0000"},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
async def test_a_listed_call_that_differs_is_not_bound(
    gateway: Gateway, resolver: OutcomeResolver, fields: dict[str, Any]
) -> None:
    async with running_upstream(reset, listed(entry("5", **fields))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        await _search_now(gateway, resolver, lost["id"])
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"


DOUBTFUL: dict[str, dict[str, Any]] = {
    "without a caller": {"from": None},
    "without a direction": {"direction": None},
    "to another spelling of the address": {"to": "sip:KATE@example.com"},
    # A function, because the tests may begin long after they are collected.
    "dated a little too early": {"date_created": lambda: format_datetime(datetime.now(UTC) - timedelta(minutes=8))},
}


@pytest.mark.parametrize("fields", DOUBTFUL.values(), ids=DOUBTFUL.keys())
async def test_a_doubtful_listed_call_makes_the_search_ambiguous(
    gateway: Gateway, resolver: OutcomeResolver, fields: dict[str, Any]
) -> None:
    shown = {name: value() if callable(value) else value for name, value in fields.items()}
    async with running_upstream(reset, listed(entry("0") | shown), listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        await _search_now(gateway, resolver, lost["id"])
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"
        assert (await tenant.events(lost["id"]))[-1]["data"]["result"] == "ambiguous"


async def test_a_call_without_a_date_may_belong_to_any_open_intent(gateway: Gateway, resolver: OutcomeResolver) -> None:
    undated = entry("f", date_created=None)
    async with running_upstream(reset, reset, listed(undated), listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        old = (await tenant.create()).json()
        async with gateway.database.begin() as session:
            statement = text("UPDATE call SET pending_since = now() - interval '14 minutes' WHERE id = :id")
            await session.execute(statement, {"id": old["id"]})
        young = (await tenant.create(to="sip:kate@example.com")).json()
        await _search_now(gateway, resolver, old["id"])
        for lost in (old, young):
            assert (await _record(tenant, lost["id"]))["execution"] == "unknown"


async def test_headers_do_not_make_another_address(gateway: Gateway, resolver: OutcomeResolver) -> None:
    theirs = entry("1") | {"sid": "CA" + "1" * 31 + "c"}
    async with running_upstream(reset, reset, listed(theirs), listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        plain = (await tenant.create()).json()
        await tenant.create(to="sip:kate@example.com?X-a=1")
        await _search_now(gateway, resolver, plain["id"])
        assert (await tenant.events(plain["id"]))[-1]["data"] == {"result": "ambiguous", "candidates": 1, "rivals": 1}


async def test_a_search_after_the_end_of_its_lease_does_not_count(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with running_upstream(reset, listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        async with gateway.database.begin() as session:
            await session.execute(text("UPDATE call SET search_at = NULL WHERE id <> :id"), {"id": lost["id"]})
            await session.execute(text("UPDATE call SET search_at = now() WHERE id = :id"), {"id": lost["id"]})
            (due,) = await leases.claim_calls_to_search(session, lease=timedelta(0), limit=5, busy_accounts=())
        lists = resolver.make_call_search([due])
        await asyncio.gather(*(resolver._search_call(lists, timedelta(0), due) for _ in range(SEARCHES)))
        events = await tenant.events(lost["id"])
        assert [event["type"] for event in events].count("call.searched") == 1


async def test_a_repeated_sid_is_bound_once_and_logged(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """Prism, a mock server, sends the specification's example to every creation, so all calls have the same SID."""
    same = call_resource("CA" + "5" * 31 + "b")
    async with running_upstream(answer(201, same)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = await tenant.create()
        others = await asyncio.gather(*(tenant.create(key) for key in ("k1", "k2")))
        assert (first.status_code, first.json()["sid"]) == (201, same["sid"])
        for other in others:
            assert (other.status_code, other.json()["execution"]) == (202, "unknown")
            assert (await _record(tenant, other.json()["id"]))["execution"] == "unknown"
            unknown = (await tenant.events(other.json()["id"]))[-1]
            assert (unknown["type"], unknown["data"]["reason"]) == ("call.unknown", "sid_taken")
        assert (await tenant.create("k1")).json()["id"] == others[0].json()["id"]
        assert len(upstream.posts) == 3
    output = capsys.readouterr().out
    assert output.count("sid_taken") == 2
    assert "another record has this sid" in output
    assert "Traceback" not in output


async def test_a_callback_with_a_sid_of_another_record_is_an_event_and_binds_nothing(gateway: Gateway) -> None:
    taken = "CA" + "5" * 31 + "a"
    async with running_upstream(answer(201, {"sid": taken}), reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create()
        lost = (await tenant.create()).json()
        assert (await _send_callback(gateway, tenant, upstream, CallSid=taken)).status_code == 204
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"
        assert (await tenant.events(lost["id"]))[-1]["type"] == "call.second_sid"


async def test_a_bound_sid_is_no_candidate(gateway: Gateway, resolver: OutcomeResolver) -> None:
    taken = entry("6")
    async with running_upstream(answer(201, taken), reset, listed(taken)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        lost = (await tenant.create()).json()
        await _search_now(gateway, resolver, lost["id"])
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"


async def test_two_candidates_or_two_intents_wait_for_the_callback(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with running_upstream(reset, listed(entry("7"), entry("8"))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        for _ in range(SEARCHES + 2):
            await _search_now(gateway, resolver, lost["id"])
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"
        last = (await tenant.events(lost["id"]))[-1]
        assert last["data"] == {"result": "ambiguous", "candidates": 2, "rivals": 0}
    async with running_upstream(reset, reset, listed(entry("9"))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        one, other = (await tenant.create()).json(), (await tenant.create()).json()
        await _search_now(gateway, resolver, one["id"])
        await _search_now(gateway, resolver, other["id"])
        for lost in (one, other):
            assert (await _record(tenant, lost["id"]))["execution"] == "unknown"
            assert (await tenant.events(lost["id"]))[-1]["data"] == {"result": "ambiguous", "candidates": 1, "rivals": 1}


async def test_enough_searches_without_a_call_settle_as_none_found_and_the_key_is_not_dialled_again(
    gateway: Gateway, resolver: OutcomeResolver
) -> None:
    async with running_upstream(reset, listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create("k")).json()
        for _ in range(SEARCHES):
            assert (await _record(tenant, lost["id"]))["execution"] == "unknown"
            await _search_now(gateway, resolver, lost["id"])
        record = await _record(tenant, lost["id"])
        assert (record["execution"], record["settled_by"]) == ("not_started", "none_found")
        again = await tenant.create("k")
        assert (again.status_code, again.json()["type"]) == (409, "urn:callgate:problem:none-found")
        assert again.json()["retry"]["same_key"] is False
        assert len(upstream.posts) == 1
    types = [event["type"] for event in await tenant.events(lost["id"])]
    assert types == ["call.pending", "call.unknown", *["call.searched"] * SEARCHES, "call.not_started"]


async def test_failed_searches_do_not_count(gateway: Gateway, resolver: OutcomeResolver) -> None:
    failures = (error(500, 20500), answer(200, body=b"nonsense"), hang, error(401, 20003), answer(200, {"calls": None}))
    async with running_upstream(reset, *failures) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        for _ in range(SEARCHES + 2):
            await _search_now(gateway, resolver, lost["id"])
        assert (await _record(tenant, lost["id"]))["execution"] == "unknown"


@pytest.mark.parametrize("way", ["callback", "list"])
async def test_a_late_proof_corrects_a_none_found(gateway: Gateway, resolver: OutcomeResolver, way: str) -> None:
    sid = "CA" + {"callback": "a", "list": "b"}[way] * 32
    late = listed(entry(sid[-1]))
    async with running_upstream(reset, *[listed()] * (2 * SEARCHES), late) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create("k")).json()
        for _ in range(SEARCHES):
            await _search_now(gateway, resolver, lost["id"])
        assert (await _record(tenant, lost["id"]))["settled_by"] == "none_found"
        if way == "callback":
            assert (await _send_callback(gateway, tenant, upstream, CallSid=sid)).status_code == 204
        else:
            await _search_now(gateway, resolver, lost["id"])
        record = await _record(tenant, lost["id"])
        assert (record["execution"], record["settled_by"], record["sid"]) == ("started", way, sid)
        assert record["problem"] is None
        assert (await tenant.create("k")).json()["sid"] == sid
    (corrected,) = [event for event in await tenant.events(lost["id"]) if event["type"] == "call.corrected"]
    was = {"settled_by": "none_found", "problem": "none-found"}
    assert corrected["data"] == {"settled_by": way, "sid": sid, "was": was}
    if way == "list":
        assert resolver.metrics.calls.corrected._value.get() == 1


async def test_a_search_that_runs_while_the_callback_binds_changes_nothing(gateway: Gateway, resolver: OutcomeResolver) -> None:
    async with running_upstream(reset, listed()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = (await tenant.create()).json()
        sid = "CA" + "c" * 32
        await asyncio.gather(_search_now(gateway, resolver, lost["id"]), _send_callback(gateway, tenant, upstream, CallSid=sid))
        record = await _record(tenant, lost["id"])
        assert (record["execution"], record["sid"]) == ("started", sid)


async def test_a_refused_credential_is_tried_last_until_it_is_accepted(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created(), created(), error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="second", key_sid=None, base_url=None
        )
        for _ in range(3):
            gateway.invalidate_cache()  # as Postgres's notification of the change does, a moment later
            assert (await tenant.create()).status_code == 201
        used = [request.credentials[1] for request in upstream.posts]
        assert used == [tenant.auth_token, "second", "second", "second", tenant.auth_token]
        (_, credentials), *_ = await gateway.tenants.list_accounts(tenant.id)
    assert [credential.rejected_reason for credential in credentials] == [None, "credential_rejected"]


async def test_a_refused_credential_is_marked_once(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        marked = []
        for _ in range(2):
            gateway.invalidate_cache()
            assert (await tenant.create()).status_code == 502
            ((_, credentials),) = await gateway.tenants.list_accounts(tenant.id)
            marked.append(credentials[0].rejected_at)
    assert len(upstream.posts) == 2
    assert marked[0] == marked[1] is not None


def test_searches_are_spread_over_the_period_and_two_follow_later() -> None:
    plan = SearchPlan(5, timedelta(minutes=15))
    waits = [plan.delay_until_next_search(clean) for clean in range(8)]
    within = [wait for wait in waits[:5] if wait]
    assert within == sorted(within)
    assert abs(sum(within, timedelta()) - timedelta(minutes=15)) < timedelta(seconds=1)
    assert waits[5:] == [timedelta(hours=1), timedelta(hours=24), None]
