"""Tests the pages about calls: who sees which calls, what is masked, what a person can do, and how much a page reads."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.audit.store import AuditEventRow, AuditFilter, list_audit_events
from app.console.calls.store import MAX_DELIVERIES, MAX_EVENTS
from app.console.page_size import PAGE_SIZE
from app.tenants.scopes import Scope
from tests.api.test_secrets import instrumented
from tests.console.conftest import LogIn, browser, cookie_of, follow, text_of
from tests.console.rows import add_delivery
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Behaviour, Upstream, answer, call_resource, created, error, running_upstream

KATE, JACK = "sip:kate.private@example.com?X-Order=4711", "+14155550123"
REQUEST: dict[str, Any] = {
    "to": KATE,
    "from": JACK,
    "url": "https://example.com/flow?user=kate.private",
    "status_callback": "https://hooks.example.com/calls?user=kate.private",
    "status_callback_event": ["ringing", "completed"],
}
# What identifies a person in REQUEST.
PERSONAL = ("kate.private", "4711", "4155550123")


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as running:
        yield running


def updated(status: str = "completed") -> Behaviour:
    """Returns a behaviour that answers each request with the resource of the requested call, in this status."""

    async def behave(upstream: Upstream, *streams: Any) -> None:
        sid = upstream.received[-1].path.rpartition("/")[2].removesuffix(".json")
        await answer(200, call_resource(sid, status=status))(upstream, *streams)

    return behave


async def place(tenant: Tenant, key: str | None = None, **members: Any) -> dict[str, Any]:
    answer = await tenant.create(key, **REQUEST | members)
    assert answer.status_code in (201, 202), answer.text
    record: dict[str, Any] = answer.json()
    return record


async def report(gateway: Gateway, tenant: Tenant, record: dict[str, Any], *progressed: str, **more: str) -> None:
    """Sends one of Twilio's callbacks for each status in `progressed`, in this order."""
    for number, status in enumerate(progressed):
        fields = status_callback_fields(tenant, record, status, number, To=KATE, From=JACK, **more)
        assert (await call_back(gateway, tenant, record["id"], fields)).is_success


async def audited(gateway: Gateway, tenant: Tenant) -> list[AuditEventRow]:
    async with gateway.database.transaction() as connection:
        rows = await list_audit_events(connection, AuditFilter(tenant_id=tenant.id), limit=100)
    return [row for row in rows if row.action.startswith(("call.", "delivery."))]


async def test_a_call_is_found_by_each_of_its_names(tenant: Tenant, log_in: LogIn) -> None:
    record = await place(tenant, f"order-{tenant.id}")
    for person in (await log_in(tenant.id, Scope.READ), await log_in()):
        for name in (record["id"], record["sid"], f"order-{tenant.id}", f"key:order-{tenant.id}"):
            found = await person.get("/calls", params={"q": name})
            assert (found.status_code, found.headers["Location"]) == (303, f"/console/calls/{record['id']}"), name
        for address in (KATE, f"to:{KATE}", JACK, "(415) 555-0123", f"from:{JACK}"):
            listed = await person.get("/calls", params={"q": address, "tenant": tenant.id})
            assert listed.status_code == 200
            assert f"/console/calls/{record['id']}" in listed.text, address
        by_sid = await person.get(f"/calls/{record['sid']}")
        assert (by_sid.status_code, by_sid.headers["Location"]) == (303, f"/console/calls/{record['id']}")
        assert (await person.get("/calls", params={"q": str(uuid4())})).status_code == 200


async def test_the_address_is_the_filter(gateway: Gateway, log_in: LogIn) -> None:
    async with running_upstream(created(), error(400, 21210)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        started, refused = await place(tenant), await tenant.create(**REQUEST)
    refused_id = refused.json()["call_id"]
    person = await log_in(tenant.id, Scope.READ)

    async def ids(**filters: str) -> set[str]:
        page = await person.get("/calls", params=filters)
        assert page.status_code == 200, page.text
        return set(re.findall(r'href="/console/calls/([0-9a-f-]{36})"', page.text))

    assert await ids() == {started["id"], refused_id}
    assert await ids(execution="started") == {started["id"]}
    assert await ids(status="queued", execution="") == {started["id"]}
    assert await ids(problem="upstream-rejected") == {refused_id}
    assert await ids(problem="none-found") == set()
    assert await ids(since="2020-01-01T00:00", until="2020-01-02T00:00") == set()
    assert await ids(since="2020-01-01T00:00") == {started["id"], refused_id}
    called = await person.get(f"/calls/{refused_id}")
    assert "upstream says why" not in text_of(called)
    assert '<a href="https://www.twilio.com/docs/errors/21210"' in called.text
    page = await person.get("/calls", params={"problem": "upstream-rejected"})
    assert "Calls with this problem since" in text_of(page)
    assert "Twilio refused it" in text_of(page)


async def test_pages_follow_one_another_and_have_no_count(tenant: Tenant, log_in: LogIn) -> None:
    records = [await place(tenant) for _ in range(PAGE_SIZE + 1)]
    person = await log_in()
    first = await person.get("/calls", params={"tenant": tenant.id, "status": "queued"})
    (following,) = re.findall(r'rel="next" href="/console([^"]+)"', first.text)
    second = await person.get(following.replace("&amp;", "&"))
    assert records[-1]["id"] in first.text
    assert [record["id"] in second.text for record in records[:2]] == [True, False]
    assert "rel=" not in second.text.partition("<main")[2]
    assert f'href="/console/calls?tenant={tenant.id}&amp;status=queued"' in second.text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("status=answered", "Choose one of the list."),
        ("since=yesterday", "Type a time in UTC"),
        ("colour=red", "a filter that this page does not know"),
        ("cursor=x", "Start with the newest calls."),
        ("status=busy&status=failed", "Given twice."),
    ],
)
async def test_a_filter_that_cannot_be_read_shows_no_call(tenant: Tenant, log_in: LogIn, query: str, words: str) -> None:
    record = await place(tenant)
    page = await (await log_in(tenant.id, Scope.READ)).get(f"/calls?{query}")
    assert page.status_code == 422
    assert words in text_of(page)
    assert record["id"] not in page.text


async def test_a_filter_that_cannot_be_read_leaves_the_others_as_they_were(log_in: LogIn) -> None:
    page = await (await log_in()).get("/calls?status=answered&since=2026-11-28T09:30%2B01:00&until=yesterday&tenant=support")
    assert re.findall(r'name="(since|until|tenant)" value="([^"]*)"', page.text) == [
        ("tenant", "support"),
        ("since", "2026-11-28T08:30"),
        ("until", ""),
    ]


async def test_a_tenants_session_sees_and_ends_its_own_calls_only(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    record, other = await place(tenant), await gateway.add_tenant()
    stranger = await log_in(other.id)
    assert record["id"] not in (await stranger.get("/calls")).text
    assert record["id"] not in (await stranger.get("/calls", params={"tenant": tenant.id})).text
    assert (await stranger.get("/calls", params={"q": record["id"]})).status_code == 200
    path = f"/calls/{record['id']}"
    for answer_ in (
        await stranger.get(path),
        await stranger.get(f"/calls/{record['sid']}"),
        await stranger.get(f"{path}/live"),
        await stranger.post(f"{path}/reveal"),
        await stranger.post(f"{path}/end"),
        await stranger.post(f"{path}/deliveries/{uuid4()}/retry"),
        await stranger.get("/calls/no-id"),
    ):
        assert answer_.status_code == 404
    assert await audited(gateway, tenant) == []


async def test_personal_data_is_masked_until_it_is_revealed_which_is_audited(
    gateway: Gateway, tenant: Tenant, log_in: LogIn
) -> None:
    record = await place(tenant)
    await report(gateway, tenant, record, "initiated", "ringing", "in-progress", "completed", SipHeader_X="kate.private")
    operator, reader = await log_in(), await log_in(tenant.id, Scope.READ)
    path = f"/calls/{record['id']}"
    masked = [
        await operator.get(path),
        await reader.get(path),
        await operator.get(f"{path}/live"),
        await operator.get("/calls"),
    ]
    for page in masked:
        assert page.status_code == 200
        assert [text for text in PERSONAL if text in page.text] == []
        assert "sip:k•••@example.com" in text_of(page)
    assert await audited(gateway, tenant) == []
    assert "Reveal" not in text_of(await reader.get(path))
    assert (await reader.post(f"{path}/reveal")).status_code == 403

    revealed = await operator.post(f"{path}/reveal")
    assert revealed.status_code == 200
    assert [text for text in PERSONAL if text not in revealed.text] == []
    assert "$CALLGATE_KEY" in revealed.text
    assert "hx-get" not in revealed.text
    # Someone who is sent the address of the revealed page sees the call masked.
    led = await reader.get(f"{path}/reveal")
    assert (led.status_code, led.headers["Location"]) == (303, f"/console{path}")
    (event,) = await audited(gateway, tenant)
    assert (event.action, event.subject, event.actor_name) == ("call.reveal", record["id"], operator.key_id)


async def test_the_page_tells_the_story_and_refreshes_itself_while_something_may_happen(
    gateway: Gateway, tenant: Tenant, log_in: LogIn
) -> None:
    record = await place(tenant)
    person = await log_in(tenant.id, Scope.READ)
    path = f"/calls/{record['id']}"
    page = await person.get(path)
    assert "In Twilio's queue for" in text_of(page).replace("&#39;", "'")
    assert 'hx-trigger="every 2s"' in page.text
    await report(gateway, tenant, record, "initiated", "ringing", "in-progress", "completed", CallDuration="9")
    live = await person.get(f"{path}/live")
    assert "<html" not in live.text
    assert "Rang once, answered, 9 s, no price yet." in text_of(live)
    assert 'hx-trigger="every 2s"' in live.text  # a price may come
    lines = ("Sending to", "Started at Twilio", "Twilio reports: ringing", "Twilio reports: completed", "Delivery “completed”")
    positions = [text_of(live).index(line) for line in lines]
    assert positions == sorted(positions)
    async with gateway.database.transaction() as connection:
        await connection.execute(
            "UPDATE call SET updated_at = now() - interval '1 hour' WHERE id = $1::text::uuid", record["id"]
        )
    assert "hx-trigger" not in (await person.get(f"{path}/live")).text


async def test_a_call_in_progress_is_ended_and_the_log_says_by_whom(gateway: Gateway, log_in: LogIn) -> None:
    async with running_upstream(created(), updated("in-progress"), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = await place(tenant)
        operator, reader = await log_in(), await log_in(tenant.id, Scope.READ)
        path = f"/calls/{record['id']}"
        assert "End call" in text_of(await operator.get(path))
        assert "End call" not in text_of(await reader.get(path))
        assert (await reader.post(f"{path}/end")).status_code == 403
        await report(gateway, tenant, record, "initiated", "ringing", "in-progress")
        for _ in range(2):
            done = await operator.post(f"{path}/end")
            assert (done.status_code, done.headers["Location"]) == (303, f"/console{path}?done=ended")
        assert [post.form for post in upstream.posts[1:]] == [[("Status", "completed")]] * 2
        shown = text_of(await operator.get(f"{path}?done=ended"))
        assert "The call was ended." in shown
        assert "ended by a request through Callgate" in shown

        refused = await operator.post(f"{path}/end")
        assert refused.status_code == 409
        assert "The call has ended" in text_of(refused)
        assert "End call" not in text_of(refused)
        # Whoever opens the address of this page comes to the page of the call.
        assert "ended by a request through Callgate" in text_of(await follow(reader, await reader.get(f"{path}/end")))
    events = await audited(gateway, tenant)
    assert {(event.action, event.subject, event.actor_name) for event in events} == {
        ("call.end", record["id"], operator.key_id)
    }


async def test_a_call_that_was_deleted_at_twilio_cannot_be_ended(gateway: Gateway, log_in: LogIn) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = await place(tenant)
        await gateway.database.fetch("UPDATE call SET deleted_at = now() WHERE id = $1", UUID(record["id"]))
        assert "End call" not in text_of(await (await log_in()).get(f"/calls/{record['id']}"))


async def test_a_scheduled_call_leads_to_its_queue_and_is_canceled(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    assert (await tenant.http.put("/v1/queues/reminders", json={})).is_success
    record = await place(tenant, queue="reminders", not_before=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    operator = await log_in()
    path = f"/calls/{record['id']}"
    page = await operator.get(path)
    assert "Waits in the queue reminders and is due in" in text_of(page)
    for linked in (f"/queues/{tenant.id}/reminders", f"/tenants/{tenant.id}"):
        assert f'href="/console{linked}"' in page.text
        assert (await operator.get(linked)).status_code == 200
    assert (await operator.post(f"{path}/end")).status_code == 303
    assert "Canceled before it was dialled. It did not ring." in text_of(await operator.get(path))


async def test_an_end_that_must_wait_is_stored(gateway: Gateway, log_in: LogIn) -> None:
    async with running_upstream(error(500, 20500)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = await place(tenant)
        operator = await log_in()
        done = await operator.post(f"/calls/{record['id']}/end")
        assert done.headers["Location"].endswith("?done=remembered")
        page = text_of(await operator.get(f"/calls/{record['id']}?done=remembered"))
        assert "The request to end the call is stored." in page
        assert "It is ended as soon as it is known to have started." in page
        # After `none_found` the call may still turn up, until its last search.
        for search_at, may_be_ended in ("now()", True), ("NULL", False):
            none_found = f"execution = 'not_started', settled_by = 'none_found', search_at = {search_at}"
            await gateway.database.fetch(f"UPDATE call SET {none_found} WHERE id = $1", UUID(record["id"]))  # noqa: S608
            assert ("End call" in text_of(await operator.get(f"/calls/{record['id']}"))) is may_be_ended


async def test_a_page_has_at_most_the_first_events(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    record = await place(tenant)
    more = """INSERT INTO call_event (id, call_id, at, type, data)
        SELECT gen_random_uuid(), $1::text::uuid, now() + n * interval '1 ms', 'call.recording', '{"action": "create"}'
        FROM generate_series(1, $2) AS n"""
    async with gateway.database.transaction() as connection:
        await connection.execute(more, record["id"], MAX_EVENTS)
    page = await (await log_in()).get(f"/calls/{record['id']}")
    assert page.text.count("<strong>Recording</strong>") == MAX_EVENTS - 2  # after the request and its outcome
    assert "There are more events" in text_of(page)


async def test_a_page_has_at_most_the_first_deliveries(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    record, operator = await place(tenant), await log_in()
    for _ in range(MAX_DELIVERIES):
        await add_delivery(gateway, tenant.id, call_id=UUID(record["id"]), state="gave_up", attempts=9)
    whole = await operator.get(f"/calls/{record['id']}")
    assert "There are more deliveries" not in text_of(whole)
    await add_delivery(gateway, tenant.id, call_id=UUID(record["id"]), state="gave_up", attempts=9)
    cut = await operator.get(f"/calls/{record['id']}")
    assert "There are more deliveries" in text_of(cut)
    assert [page.text.count("/retry") for page in (whole, cut)] == [MAX_DELIVERIES] * 2


async def test_a_delivery_is_sent_again(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    record = await place(tenant)
    await report(gateway, tenant, record, "initiated", "ringing")
    async with gateway.database.transaction() as connection:
        (row,) = await connection.fetch("SELECT id FROM delivery WHERE call_id = $1::text::uuid", record["id"])
        give_up = (
            "UPDATE delivery SET state = 'gave_up', next_attempt_at = NULL, attempts = 12, last_status = 500 WHERE id = $1"
        )
        await connection.execute(give_up, row["id"])
    operator, path = await log_in(), f"/calls/{record['id']}"
    assert "given up" in text_of(await operator.get(path))
    done = await operator.post(f"{path}/deliveries/{row['id']}/retry")
    assert done.headers["Location"] == f"/console{path}?done=sent"
    assert "waiting" in text_of(await operator.get(path))
    (event,) = await audited(gateway, tenant)
    assert (event.action, event.subject, event.actor_name) == ("delivery.retry", str(row["id"]), operator.key_id)
    assert (await operator.post(f"{path}/deliveries/{uuid4()}/retry")).status_code == 404
    assert (await operator.post(f"{path}/deliveries/x/retry")).status_code in (404, 422)


async def test_a_search_that_takes_too_long_is_stopped_and_only_a_few_run_at_a_time(
    gateway: Gateway, tenant: Tenant, log_in: LogIn
) -> None:
    person = await log_in(tenant.id, Scope.READ)
    waiting = """SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
        WHERE datname = current_database() AND relation = 'call'::regclass AND NOT granted"""
    async with gateway.database.transaction() as connection:
        await connection.execute("LOCK TABLE call IN ACCESS EXCLUSIVE MODE")
        searches = [asyncio.create_task(person.get("/calls", params={"q": "order-4711"})) for _ in range(3)]
        seen = set()
        while not all(search.done() for search in searches):
            seen.add(await connection.fetchval(waiting))
            await asyncio.sleep(0.05)
    assert max(seen) == 2
    answers = [search.result() for search in searches]
    assert {answer.status_code for answer in answers} == {503}
    assert "The search took too long and was stopped." in text_of(answers[0])


async def test_a_view_asks_the_database_once_beside_its_session_and_logs_no_personal_data(database_url: str) -> None:
    async with instrumented(database_url) as watched, running_upstream(created()) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        record = await place(tenant)
        http = await browser(watched.gateway, await cookie_of(watched.gateway, tenant.key))
        paths = {
            "/console/session": 0,
            "/console/calls": 1,
            f"/console/calls?q={KATE.replace('?', '%3F').replace('=', '%3D')}&status=queued": 1,
            f"/console/calls/{record['id']}": 1,
            f"/console/calls/{record['id']}/live": 1,
        }
        asked = {}
        for path in paths:
            watched.spans.clear()
            assert (await http.get(path)).status_code == 200
            asked[path] = [span.name for span in watched.spans.get_finished_spans()].count("database")
        of_session = asked["/console/session"]
        assert {path: count - of_session for path, count in asked.items()} == paths
        watched.log.seek(0)
    logged = watched.log.getvalue()
    assert "/console/calls/{id_or_sid}" in logged
    assert [text for text in PERSONAL if text in logged] == []
