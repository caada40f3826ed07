"""The page *Now* over a real Postgres: what it reads, whom it shows what, and its plots."""

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from app.calls.creation.grants.store import grant_call, lock_account_pace
from app.calls.ids import creation_time_of_id
from app.console.now.figure_store import read_figures
from app.console.now.store import MAX_COUNTED_ROWS, MAX_LISTED_ROWS, NowPageFacts, read_now_page_facts
from app.jobs.rollup import CallCountRollUp
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, browser, cookie_of, follow, text_of
from tests.console.rows import add_delivery
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Upstream, created, error, running_upstream


@pytest.fixture(autouse=True)
async def _no_rows_of_other_tests(gateway: Gateway) -> AsyncIterator[None]:
    yield
    for table in ("scheduled_dial", "dial_slot", "delivery", "call_event", "call", "rollup", "worker_heartbeat", "grant_guard"):
        await gateway.database.fetch(f"DELETE FROM {table}")  # noqa: S608  # names of tables
    await gateway.database.fetch("UPDATE twilio_credential SET rejected_at = NULL")


async def _roll_up(gateway: Gateway) -> None:
    """Counts what was requested up to now, as if the minute were over."""
    await gateway.database.fetch(
        "UPDATE rollup_progress SET rolled_until = date_trunc('minute', now()) - interval '20 minutes'"
    )
    rollup = CallCountRollUp(gateway.database, timedelta(days=30), has_public_url=bool(gateway.settings.public_url))
    while await rollup.step():
        pass


async def _read_facts(gateway: Gateway, tenant_id: str | None) -> NowPageFacts:
    return await read_now_page_facts(gateway.database, tenant_id, has_public_url=bool(gateway.settings.public_url))


async def _age(gateway: Gateway, tenant: Tenant, minutes: int = 3) -> None:
    """Makes the tenant's calls older: their minute is over then."""
    for row in await gateway.database.fetch("SELECT id FROM call WHERE tenant_id = $1", tenant.id):
        older = _older_id(row["id"], minutes)
        await gateway.database.fetch("UPDATE call_event SET call_id = $2 WHERE call_id = $1", row["id"], older)
        await gateway.database.fetch(
            "UPDATE call SET id = $2, created_at = $3 WHERE id = $1", row["id"], older, creation_time_of_id(older)
        )


def _older_id(call_id: UUID, minutes: int) -> UUID:
    moment = creation_time_of_id(call_id) - timedelta(minutes=minutes)
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (call_id.int & (1 << 80) - 1))


async def _heartbeat(gateway: Gateway) -> None:
    await gateway.database.fetch("INSERT INTO worker_heartbeat (id, version) VALUES ($1, '0')", uuid4())


async def _wait(
    gateway: Gateway, tenant: Tenant, number: int, *, queue: str | None = None, ring_within: str = "1 hour", age_min: int = 0
) -> None:
    """Inserts waiting calls of the tenant, in a queue or in none. They were requested `age_min` minutes ago."""
    await gateway.database.fetch(
        """WITH waiting AS (
            INSERT INTO call (id, tenant_id, account_id, account_sid, created_at, execution, pending_since, fingerprint,
                parameters, "to", "from")
            SELECT new.id, $1, account.id, account_sid, now(), 'scheduled', now(), '', '{}', 'sip:a@b', 'Jack'
            FROM twilio_account AS account, unnest($2::uuid[]) AS new (id) WHERE tenant_id = $1 RETURNING id, account_id
        )
        INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
        SELECT id, $1, account_id, coalesce((SELECT id FROM queue WHERE tenant_id = $1 AND name = $3), $4), $4, 1, now(),
            now() + $5::text::interval, now() FROM waiting""",
        # Their ids begin with the time, as those of all calls: the first id is that of the oldest call.
        *(
            tenant.id,
            [_older_id(uuid7(), age_min) for _ in range(number)],
            queue,
            uuid4() if queue else UUID(int=0),
            ring_within,
        ),
    )


async def _add_queue(gateway: Gateway, tenant: Tenant, *, paused: bool = False, calls_per_second: float | None = None) -> str:
    queue_id, name = uuid7(), f"queue-{uuid4().hex[:6]}"
    await gateway.database.fetch(
        "INSERT INTO queue (id, tenant_id, name, paused) VALUES ($1, $2, $3, $4)", queue_id, tenant.id, name, paused
    )
    if calls_per_second is not None:
        statement = "INSERT INTO pace (subject_id, calls_per_second) VALUES ($1, $2::float8::numeric)"
        await gateway.database.fetch(statement, queue_id, calls_per_second)
    return name


async def test_what_the_page_reads_of_a_tenant_and_of_all(gateway: Gateway) -> None:
    async with running_upstream(created(), error(503, 20500), created()) as upstream:
        blue, red = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        for _ in range(3):
            await blue.create()
        await red.create()
    for tenant in (blue, red):
        await _age(gateway, tenant)
    queue = await _add_queue(gateway, blue, paused=True, calls_per_second=0.5)
    await _wait(gateway, blue, 1, queue=queue, ring_within="3 hours")
    await _wait(gateway, blue, 3, queue=queue, ring_within="2 hours")
    await _wait(gateway, red, 2)
    await add_delivery(gateway, blue.id, attempts=2, age_s=1200)
    await add_delivery(gateway, blue.id)
    await add_delivery(gateway, red.id, state="gave_up", age_s=100)
    await gateway.database.fetch(
        "UPDATE twilio_credential SET rejected_at = now() WHERE account_id IN "
        "(SELECT id FROM twilio_account WHERE tenant_id = $1)",
        red.id,
    )
    await _heartbeat(gateway)
    await _roll_up(gateway)

    of_blue, of_red, of_all = [await _read_facts(gateway, each) for each in (blue.id, red.id, None)]
    assert [facts.unknown.number for facts in (of_blue, of_red, of_all)] == [1, 0, 1]
    assert [facts.recent.started for facts in (of_blue, of_red, of_all)] == [2, 1, 3]
    assert [facts.recent.server_errors for facts in (of_blue, of_red, of_all)] == [1, 0, 1]
    assert [facts.waiting for facts in (of_blue, of_red, of_all)] == [4, 2, 6]
    assert [facts.failing.number for facts in (of_blue, of_red, of_all)] == [1, 0, 1]
    assert [facts.gave_up for facts in (of_blue, of_red, of_all)] == [0, 1, 1]
    assert [[each.tenant_id for each in facts.credentials] for facts in (of_blue, of_red, of_all)] == [[], [red.id], [red.id]]
    assert [[each.name for each in facts.queues] for facts in (of_blue, of_red, of_all)] == [[queue], [], [queue]]
    (waiting,) = of_blue.queues
    assert not waiting.is_tenant_suspended
    assert (waiting.paused, waiting.number, waiting.calls_per_second, waiting.has_hours) == (True, 4, 0.5, False)
    assert waiting.last_due_at < of_blue.read_at < waiting.last_ring_by
    # The call with the latest deadline is not the one that is due last.
    assert waiting.last_ring_by - waiting.last_due_at > timedelta(hours=2, minutes=30)
    assert of_all.workers.running == 1
    assert not of_all.is_halted
    assert of_blue.unknown.since
    assert of_blue.unknown.since <= of_blue.read_at


async def test_a_call_is_in_the_sentence_before_its_minute_is_over(gateway: Gateway, log_in: LogIn, upstream: Upstream) -> None:
    tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
    await _roll_up(gateway)
    await tenant.create()
    await _heartbeat(gateway)
    for person in (await log_in(tenant.id), await log_in()):
        shown = text_of(await person.get("/now/summary"))
        assert "Calls go out." in shown
        # Whether Twilio answered 5xx is known when the minute is over.
        assert "5xx" not in shown
    assert "No call has been requested yet" in text_of(await (await log_in(other.id)).get("/now/summary"))
    await gateway.database.fetch("UPDATE call SET callbacks_seen = '{one}'")
    assert (await _read_facts(gateway, tenant.id)).recent.called_back == 1
    # The call is not counted twice when its minute is over, nor if no worker runs for long.
    await _age(gateway, tenant)
    await _roll_up(gateway)
    recent = (await _read_facts(gateway, tenant.id)).recent
    assert (recent.started, recent.rolled_up) == (1, 1)
    assert "Calls go out. Twilio answers no 5xx." in text_of(await (await log_in()).get("/now/summary"))
    await gateway.database.fetch("DELETE FROM rollup")
    await gateway.database.fetch("UPDATE rollup_progress SET rolled_until = now() - interval '3 days'")
    assert (await _read_facts(gateway, tenant.id)).recent.started == 1
    await _age(gateway, tenant, 60)
    assert (await _read_facts(gateway, tenant.id)).recent.started == 0


async def test_only_calls_of_which_callgate_expects_callbacks_can_miss_one(
    patient_gateway: Gateway, log_in: LogIn, upstream: Upstream
) -> None:
    gateway = patient_gateway  # which has a public URL
    tenant, key = await gateway.add_tenant(upstream.url), (await log_in()).key
    operator = await browser(gateway, await cookie_of(gateway, key))
    await tenant.create()
    await gateway.database.fetch("UPDATE call SET callbacks_seen = '{one}'")
    await _age(gateway, tenant, 130)
    await _heartbeat(gateway)
    await _roll_up(gateway)
    assert (await _read_facts(gateway, None)).called_back_1_to_24_hours_ago == 1
    for _ in range(5):
        of_application = {"to": BASIC_CALL["to"], "from": BASIC_CALL["from"], "application_sid": f"AP{7:032x}"}
        assert (await tenant.http.post("/v1/calls", json=of_application)).status_code == 201
    for is_rolled_up in (False, True):
        if is_rolled_up:
            await _age(gateway, tenant)
            await _roll_up(gateway)
        recent = (await _read_facts(gateway, None)).recent
        assert (recent.started, recent.callback_missing) == (5, 0)
        assert "No callback came" not in text_of(await operator.get("/console/now"))
    for _ in range(5):
        await tenant.create()
    assert "No callback came for the 5 started calls" in text_of(await operator.get("/console/now"))
    # Without an auth token, Callgate could not verify callbacks, so Twilio sends them elsewhere.
    await gateway.database.fetch("UPDATE twilio_credential SET kind = 'api_key' WHERE username = $1", tenant.account_sid)
    assert "No callback came" not in text_of(await operator.get("/console/now"))


@pytest.mark.parametrize("is_rolled_up", [False, True])
async def test_without_a_public_url_no_callback_is_missing(gateway: Gateway, tenant: Tenant, *, is_rolled_up: bool) -> None:
    assert gateway.settings.public_url is None
    await tenant.create()
    if is_rolled_up:
        await _age(gateway, tenant)
        await _roll_up(gateway)
    recent = (await _read_facts(gateway, tenant.id)).recent
    assert (recent.started, recent.callback_missing, recent.rolled_up) == (1, 0, int(is_rolled_up))


async def test_calls_that_were_scheduled_long_ago_are_dialled(gateway: Gateway, log_in: LogIn, upstream: Upstream) -> None:
    tenant, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
    operator = await log_in()
    for each in (tenant, other):
        await each.create()
        await _age(gateway, each, 120)
    await _heartbeat(gateway)
    assert "No call was dialled in the last hour." in text_of(await operator.get("/now"))
    await _wait(gateway, tenant, 1, age_min=120)
    async with gateway.database.transaction() as connection:
        waiting = await connection.fetchrow("SELECT account_id, call_id, now() FROM scheduled_dial")
        assert await lock_account_pace(connection, waiting[0])
        (grant,) = await grant_call(connection, waiting[1], waiting[2])
    granted_at = (await _read_facts(gateway, tenant.id)).last_grant_at
    assert grant.call.execution == "pending"
    assert granted_at == (await _read_facts(gateway, None)).last_grant_at is not None
    assert "Scheduled calls are dialled, the last at" in text_of(await operator.get("/now"))
    assert "No call was dialled in the last hour." in text_of(await (await log_in(other.id)).get("/now"))


async def test_calls_that_were_canceled_count_as_no_failure(gateway: Gateway, log_in: LogIn, upstream: Upstream) -> None:
    tenant = await gateway.add_tenant(upstream.url)
    await _roll_up(gateway)
    await _heartbeat(gateway)
    await tenant.create()
    queue, person = await _add_queue(gateway, tenant), await log_in(tenant.id)
    await _wait(gateway, tenant, 8, queue=queue)
    await follow(person, await person.post(f"/queues/{tenant.id}/{queue}/cancel"))
    for is_rolled_up in (False, True):
        if is_rolled_up:
            await _age(gateway, tenant)
            await _roll_up(gateway)
        shown = text_of(await person.get("/now"))
        assert "Calls go out." in shown
        assert "did not start" not in shown
    # The plots have them.
    assert "9 requested, 1 started" in shown
    await gateway.database.fetch("UPDATE call SET settled_by = 'expired' WHERE settled_by = 'canceled'")
    await _roll_up(gateway)
    assert "8 calls that were requested in the last hour did not start." in text_of(await person.get("/now"))


async def test_unknown_calls_are_reported_after_the_configured_period(database_url: str) -> None:
    async with (
        running_upstream(error(503, 20500)) as upstream,
        running_gateway(settings_for(database_url, resolve_period=7200)) as gateway,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create()
        _, key = await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER, scopes=(Scope.READ,))
        person = await browser(gateway, await cookie_of(gateway, key))
        for minutes, is_reported in ((124, False), (126, True)):
            await gateway.database.fetch(
                "UPDATE call SET pending_since = now() - make_interval(mins => $2) WHERE tenant_id = $1", tenant.id, minutes
            )
            assert ("1 unknown call, the oldest for" in text_of(await person.get("/console/now/summary"))) == is_reported


async def test_a_new_installation(gateway: Gateway, log_in: LogIn) -> None:
    await gateway.database.fetch("SELECT 1")
    operator = await log_in()
    shown = text_of(await operator.get("/now"))
    assert "No call has been requested yet." in shown or "Nothing is set up yet." in shown
    assert "No worker runs." in shown


async def test_the_page_of_a_tenant_shows_its_own_calls_only(gateway: Gateway, log_in: LogIn, upstream: Upstream) -> None:
    own, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
    for _ in range(3):
        await other.create()
    await own.create()
    for tenant in (own, other):
        await _age(gateway, tenant)
    await _wait(gateway, other, 7)
    await _heartbeat(gateway)
    await _roll_up(gateway)
    person, operator = await log_in(own.id, Scope.READ), await log_in()

    assert "1 requested, 1 started" in text_of(await person.get("/now"))
    shown = text_of(await operator.get("/now"))
    assert "4 requested, 4 started" in shown
    assert "Calls go out. 7 waiting; Twilio answers no 5xx." in shown
    assert "3 requested, 3 started" in text_of(await operator.get("/now", params={"tenant": other.id}))
    assert "waiting" not in text_of(await operator.get("/now/summary", params={"tenant": own.id}))
    for path in ("/now", "/now/summary", "/now/figures"):
        refused = await person.get(path, params={"tenant": other.id})
        assert refused.status_code == 404
        assert other.id not in refused.text.replace(f"tenant={other.id}", "")
    figures = (await person.get("/now/figures")).json()
    assert _sums(figures)["calls"]["Started"] == 1
    assert _sums((await operator.get("/now/figures", params={"tenant": other.id})).json())["calls"]["Started"] == 3


def _sums(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        plot["name"]: {series["label"]: sum(value or 0 for value in series["values"]) for series in plot["series"]}
        for plot in figures["plots"]
    }


@pytest.mark.parametrize(("name", "seconds", "count"), [("1h", 60, 60), ("24h", 600, 144), ("7d", 3600, 168)])
async def test_each_range_has_its_points(gateway: Gateway, log_in: LogIn, name: str, seconds: int, count: int) -> None:
    operator = await log_in()
    await _roll_up(gateway)
    figures = (await operator.get("/now/figures", params={"range": name})).json()
    assert figures["seconds"] == seconds
    assert count - 3 <= len(figures["times"]) <= count
    assert {later - earlier for earlier, later in zip(figures["times"], figures["times"][1:], strict=False)} == {seconds}
    assert all(len(each["values"]) == len(figures["times"]) for plot in figures["plots"] for each in plot["series"])
    shown = await operator.get("/now", params={"range": name})
    assert re.search(rf'href="/console/now\?range={name}"\s+aria-current="true"', shown.text)


async def test_a_range_that_does_not_exist_is_refused(log_in: LogIn) -> None:
    operator = await log_in()
    for path in ("/now", "/now/figures"):
        assert (await operator.get(path, params={"range": "1y"})).status_code in (400, 422)


async def test_an_older_day_is_read_by_hours_and_nothing_is_counted_twice(gateway: Gateway, log_in: LogIn) -> None:
    await gateway.database.fetch(
        """INSERT INTO rollup (tenant_id, seconds, start, started, latency, waiting, spent)
        SELECT '', length, start, length / 60, ARRAY[0], 5, '{"USD": 0.5}'
        FROM (VALUES (60), (3600)) AS periods (length), LATERAL generate_series(
            date_trunc('hour', now()) - CASE length WHEN 60 THEN interval '26 hours' ELSE interval '8 days' END,
            CASE length WHEN 60 THEN now() ELSE now() - interval '12 hours' END, make_interval(secs => length)
        ) AS start"""
    )
    read = await read_figures(gateway.database, None, span=timedelta(days=7))
    assert {start.minute for start, _ in read.figures if start < read.now - timedelta(hours=26)} == {0}
    ends = [
        start + timedelta(hours=1 if figures.started == 60 else 0, minutes=figures.started % 60)
        for start, figures in read.figures
    ]
    starts = [start for start, _ in read.figures]
    assert starts[1:] == ends[:-1]
    operator = await log_in()
    figures = (await operator.get("/now/figures", params={"range": "7d"})).json()
    started = figures["plots"][0]["series"][0]["values"]
    assert set(started[:-1]) == {60}


async def test_minutes_in_which_no_worker_ran_have_no_number_of_waiting_calls(gateway: Gateway, tenant: Tenant) -> None:
    await _wait(gateway, tenant, 2)
    other = await gateway.add_tenant()
    await _roll_up(gateway)
    for tenant_id, waiting in ((tenant.id, 2), (other.id, 0), (None, 2)):
        # The minute of the count is not over yet, so its other figures are not counted.
        await gateway.database.fetch("UPDATE rollup SET latency = '{0}' WHERE waiting IS NOT NULL AND tenant_id = ''")
        read = await read_figures(gateway.database, tenant_id, span=timedelta(hours=1))
        *earlier, last = [figures.waiting for _, figures in read.figures]
        assert set(earlier) == {None}
        assert last == waiting


async def test_a_release_is_asked_for_when_grants_are_halted(gateway: Gateway, log_in: LogIn, tenant: Tenant) -> None:
    await gateway.database.fetch("INSERT INTO grant_guard (server, halted_at) VALUES ('another', now())")
    await _heartbeat(gateway)
    await _wait(gateway, tenant, 1)
    operator, person = await log_in(), await log_in(tenant.id)
    assert "callgate queues release" in text_of(await operator.get("/now"))
    shown = text_of(await person.get("/now"))
    assert "Scheduled calls are stopped" in shown
    assert "callgate queues release" not in shown


async def test_names_are_escaped_and_lead_to_their_pages(gateway: Gateway, log_in: LogIn, tenant: Tenant) -> None:
    await gateway.database.fetch(
        "INSERT INTO queue (id, tenant_id, name, paused) VALUES ($1, $2, '<b>a&b', true)", uuid7(), tenant.id
    )
    await _wait(gateway, tenant, 2, queue="<b>a&b")
    shown = await (await log_in()).get("/now")
    assert "<b>a" not in shown.text
    assert f"Queue &lt;b&gt;a&amp;b ({tenant.id}) is paused with 2 calls" in shown.text
    assert f'href="/console/queues/{tenant.id}/%3Cb%3Ea%26b"' in shown.text


async def test_every_part_reads_indexes_only(gateway: Gateway, tenant: Tenant) -> None:
    """Checks that Postgres uses indexes for the statements of the page, and never reads a large table as a whole."""
    from app.console.now import store

    async with gateway.database.transaction() as connection:
        for statement, values in ((store.READ_FACTS_OF_ALL_SQL, (True,)), (store.READ_FACTS_OF_TENANT_SQL, (True, tenant.id))):
            plan = json.dumps(json.loads(await connection.fetchval(f"EXPLAIN (FORMAT json) {statement}", *values)))
            scanned = re.findall(r'"Node Type": "Seq Scan"[^{]*?"Relation Name": "(\w+)"', plan)
            assert not set(scanned) & {"call", "delivery", "scheduled_dial", "call_event", "rollup"}


async def test_more_waiting_calls_than_are_counted(gateway: Gateway, tenant: Tenant) -> None:
    await _wait(gateway, tenant, MAX_COUNTED_ROWS + 5)
    assert (await _read_facts(gateway, None)).waiting == MAX_COUNTED_ROWS


async def test_paused_queues_come_first_among_many(gateway: Gateway, log_in: LogIn, tenant: Tenant) -> None:
    paused = []
    for number in range(MAX_LISTED_ROWS + 5):
        is_paused = number % 12 == 11
        name = await _add_queue(gateway, tenant, paused=is_paused)
        await _wait(gateway, tenant, 1, queue=name)
        paused += [name] * is_paused
    queues = (await _read_facts(gateway, tenant.id)).queues
    assert len(queues) == MAX_LISTED_ROWS + 1
    assert [queue.name for queue in queues if queue.paused] == [queue.name for queue in queues[:2]] == paused
    shown = text_of(await (await log_in(tenant.id)).get("/now"))
    assert "Calls wait in more than 20 queues." in shown
    assert [name for name in paused if f"Queue {name} is paused" not in shown] == []


async def test_the_summary_is_one_fragment_that_asks_for_itself_only(log_in: LogIn, tenant: Tenant) -> None:
    operator = await log_in()
    answer = await operator.get("/now/summary", params={"tenant": tenant.id})
    assert answer.text.lstrip().startswith('<section id="summary"')
    assert f'hx-get="/console/now/summary?tenant={tenant.id}"' in answer.text
