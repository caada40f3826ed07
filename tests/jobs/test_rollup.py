"""Tests the roll-up (figures per minute and hour) over a real Postgres. It equals a direct count, even if workers fail."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from app.calls.ids import lowest_call_id_at
from app.database.engine import Database
from app.jobs.rollup import CallCountRollUp
from app.jobs.worker import run_worker
from app.observability import Metrics
from app.rollups.store import LATENCY_BOUNDS_MS, ROLL_UP_PERIOD_SQL
from tests.support.gateway import Gateway
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL

TENANTS = ("blue", "green", "red")
WITHOUT_TOKEN = "red"
"""The tenant whose account has no auth token, so that Callgate expects no callbacks of its calls."""
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
CALL = """
    INSERT INTO call (id, tenant_id, account_id, account_sid, created_at, execution, settled_by, settled_at, pending_since,
        fingerprint, parameters, "to", "from", sid, status, price, price_unit, callbacks_seen, refresh_at,
        problem)
    SELECT $1, $2, (SELECT id FROM twilio_account WHERE tenant_id = $2), 'AC', $3::timestamptz, $4, $5,
        $3::timestamptz + $6::interval, $3::timestamptz, '', $12,
        'sip:a@b.example', 'Jack', $7, $8, $9, $10, $11, $13,
        $14
"""
# One with Twilio's answer, and one without.
PROBLEMS = ({"slug": "upstream-rejected", "upstream": {"status": 400}}, {"slug": "upstream-unreachable"})
EVENT = "INSERT INTO call_event (id, call_id, at, type, data) VALUES (gen_random_uuid(), $1, $2, 'call.unknown', $3)"
DELIVERY = """
    INSERT INTO delivery (id, call_id, at, tenant_id, event, position, state, next_attempt_at)
    VALUES (gen_random_uuid(), $1, $2, $3, 'completed', 3, $4::text, CASE $4::text WHEN 'pending' THEN now() END)
"""


@pytest.fixture(scope="module")
async def tenants(gateway: Gateway) -> None:
    for number, name in enumerate(TENANTS):
        await gateway.tenants.create_tenant(name, name=name)
        sid = f"AC{number:032x}"
        key_sid = f"SK{number:032x}" if name == WITHOUT_TOKEN else None
        await gateway.tenants.add_credential(name, account_sid=sid, secret="t" * 32, key_sid=key_sid, base_url=None)


@pytest.fixture
async def database(gateway: Gateway, tenants: None) -> Database:
    """The database, without calls. The roll-up has to begin seven days ago."""
    for table in ("scheduled_dial", "delivery", "call_event", "call", "rollup"):
        await gateway.database.fetch(f"DELETE FROM {table}")  # noqa: S608  # names of tables
    await gateway.database.fetch("UPDATE rollup_progress SET rolled_until = date_trunc('minute', now()) - interval '7 days'")
    return gateway.database


def _rollup(
    database: Database, *, keep: timedelta = timedelta(days=30), calls_kept_for: timedelta | None = None
) -> CallCountRollUp:
    return CallCountRollUp(database, keep, calls_kept_for, has_public_url=True)


async def _roll_up_all(rollup: CallCountRollUp) -> None:
    while await rollup.step():
        pass


async def _let_an_hour_pass(database: Database) -> None:
    """Moves the roll-up's progress back by an hour, as if an hour had passed since."""
    await database.fetch("UPDATE rollup_progress SET rolled_until = rolled_until - interval '1 hour'")


async def _now(database: Database) -> datetime:
    ((now,),) = await database.fetch("SELECT date_trunc('minute', clock_timestamp())")
    return now  # type: ignore[no-any-return]


def _chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  # the same in every run


async def _plant(database: Database, chance: random.Random, number: int, *, oldest: timedelta) -> list[UUID]:
    """Inserts calls with random states, events and deliveries. Most calls are young. Returns the calls' ids."""
    now, ids = await _now(database), []
    for _ in range(number):
        moment = now - oldest * chance.random() ** 3
        moment -= timedelta(microseconds=moment.microsecond % 1000)
        call_id = UUID(int=lowest_call_id_at(moment).int + chance.getrandbits(64))
        if (first := lowest_call_id_at(_minute_of(moment))) not in ids and chance.random() < 0.2:
            moment, call_id = _minute_of(moment), first
        tenant = chance.choice(TENANTS)
        execution = chance.choice(["scheduled", "pending", "started", "started", "started", "not_started", "unknown"])
        settled = execution in ("started", "not_started")
        ways = ["response", "response", "callback", "list"] if execution == "started" else ["response", "canceled", "expired"]
        by = chance.choice(ways) if settled else None
        is_priced, is_over = chance.random() < 0.6, chance.random() < 0.7
        started = execution == "started"
        await database.fetch(
            CALL,
            *(call_id, tenant, moment, execution, by),
            timedelta(milliseconds=chance.choice([20, 50, 99, 120, 700, 9_999, 60_000])) if settled else None,
            f"CA{call_id.hex}" if started else None,
            chance.choice(["completed", "busy"]) if started and is_over else None,
            Decimal(chance.choice(["-0.00750", "-0.03000", "-1.5", "0.10000"])) if started and is_over and is_priced else None,
            chance.choice(["USD", "EUR"]) if started else None,
            [f"{each}" for each in range(chance.randrange(5))] if started else [],
            json.dumps(chance.choice([{}, {}, {"application_sid": "AP"}])),
            now if started and not is_priced and chance.random() < 0.5 else None,
            json.dumps(chance.choice(PROBLEMS)) if execution == "not_started" else None,
        )
        if execution == "unknown" or by in ("callback", "list"):
            attempts = [{"status": chance.choice([None, 503, 302, 500])}]
            await database.fetch(EVENT, call_id, moment + timedelta(seconds=1), json.dumps({"attempts": attempts}))
        for _ in range(chance.randrange(3)):
            written = moment + timedelta(seconds=chance.randrange(90))
            if written < now:
                await database.fetch(DELIVERY, call_id, written, tenant, chance.choice(["pending", "delivered", "gave_up"]))
        ids.append(call_id)
    return ids


Figures = dict[str, Any]


def _zero() -> Figures:
    names = (
        "scheduled",
        "pending",
        "started",
        "not_started",
        "unknown",
        "canceled",
        "server_errors",
        "callbacks",
        "called_back",
        "callback_missing",
        "unpriced",
        "price_given_up",
    )
    numbers = dict.fromkeys((*names, "delivered", "gave_up", "undelivered"), 0)
    return {**numbers, "spent": {}, "latency": [0] * (len(LATENCY_BOUNDS_MS) + 1)}


async def _counted(database: Database, floor: Callable[[datetime], datetime]) -> dict[tuple[str, datetime], Figures]:
    """Counts all calls and deliveries directly. Returns the figures by tenant (`''` for all) and by start of the period."""
    counted: dict[tuple[str, datetime], Figures] = {}
    unknown = await database.fetch("SELECT call_id, data FROM call_event WHERE type = 'call.unknown'")
    attempts = [(row["call_id"], each) for row in unknown for each in json.loads(row["data"]).get("attempts", ())]
    errors = {call_id for call_id, attempt in attempts if (attempt["status"] or 0) >= 500}
    for call in await database.fetch("SELECT * FROM call"):
        for tenant in (call["tenant_id"], ""):
            figures = counted.setdefault((tenant, floor(call["created_at"])), _zero())
            figures[call["execution"]] += 1
            figures["canceled"] += call["settled_by"] == "canceled"
            figures["server_errors"] += call["id"] in errors
            figures["callbacks"] += len(call["callbacks_seen"])
            figures["called_back"] += bool(call["callbacks_seen"])
            is_expected = call["tenant_id"] != WITHOUT_TOKEN and "application_sid" not in json.loads(call["parameters"])
            figures["callback_missing"] += call["execution"] == "started" and is_expected and not call["callbacks_seen"]
            is_unpriced = call["status"] == "completed" and call["price"] is None
            figures["unpriced"] += is_unpriced
            figures["price_given_up"] += is_unpriced and call["refresh_at"] is None
            if call["price"] is not None:
                figures["spent"][call["price_unit"]] = figures["spent"].get(call["price_unit"], 0) - call["price"]
            was_answered = call["execution"] == "started" or "upstream" in json.loads(call["problem"] or "{}")
            if call["settled_by"] == "response" and was_answered:
                waited = (call["settled_at"] - call["pending_since"]) / timedelta(milliseconds=1)
                figures["latency"][sum(bound <= waited for bound in LATENCY_BOUNDS_MS)] += 1
    for delivery in await database.fetch("SELECT * FROM delivery"):
        for tenant in (delivery["tenant_id"], ""):
            figures = counted.setdefault((tenant, floor(delivery["at"])), _zero())
            figures["undelivered" if delivery["state"] == "pending" else delivery["state"]] += 1
    return counted


async def _rolled_up(database: Database, seconds: int) -> dict[tuple[str, datetime], Figures]:
    """Returns the stored figures of all periods with this length, by tenant and start. Leaves out figures that are all zero."""
    rows = await database.fetch("SELECT * FROM rollup WHERE seconds = $1 AND latency IS NOT NULL", seconds)
    found = {}
    for row in rows:
        figures = {name: row[name] for name in _zero()}
        figures["spent"] = json.loads(row["spent"], parse_float=Decimal, parse_int=Decimal)
        if figures != _zero():
            found[row["tenant_id"], row["start"]] = figures
    return found


def _minute_of(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


async def _assert_counted(database: Database) -> None:
    """Asserts that the figures of the last day's minutes, and of the hours until 12 hours ago, equal a direct count."""
    ((until,),) = await database.fetch("SELECT rolled_until FROM rollup_progress")
    minutes, oldest = await _counted(database, _minute_of), until - timedelta(hours=24)
    rolled_up = {key: value for key, value in (await _rolled_up(database, 60)).items() if key[1] >= oldest}
    assert rolled_up == {key: value for key, value in minutes.items() if oldest <= key[1] < until}
    hours = await _counted(database, _hour_of)
    assert await _rolled_up(database, 3600) == {key: value for key, value in hours.items() if key[1] <= until - 12 * HOUR}


@pytest.mark.parametrize("seed", range(3))
async def test_the_figures_are_those_of_a_direct_count(database: Database, seed: int) -> None:
    await _plant(database, _chance(seed), 150, oldest=timedelta(days=6))
    await _roll_up_all(_rollup(database))
    await _assert_counted(database)
    assert len(await _rolled_up(database, 60)) > 20
    assert len(await _rolled_up(database, 3600)) > 20


@pytest.mark.parametrize(("problem", "answered"), [(PROBLEMS[0], 1), (PROBLEMS[1], 0)])
async def test_only_calls_that_twilio_answered_have_a_latency(
    database: Database, problem: dict[str, Any], answered: int
) -> None:
    now = await _now(database)
    call_id = UUID(int=lowest_call_id_at(now - MINUTE).int + 1)
    waited = timedelta(milliseconds=1_700)
    call = (call_id, "blue", now - MINUTE, "not_started", "response", waited)
    await database.fetch(CALL, *call, None, None, None, None, [], "{}", None, json.dumps(problem))
    await _roll_up_all(_rollup(database))
    rows = await database.fetch("SELECT latency FROM rollup WHERE tenant_id = 'blue' AND seconds = 60 AND not_started = 1")
    assert [sum(row["latency"]) for row in rows] == [answered]


async def test_rolling_up_again_changes_nothing(database: Database) -> None:
    await _plant(database, _chance(7), 60, oldest=timedelta(hours=2))
    rollup = _rollup(database)
    await _roll_up_all(rollup)
    before = await database.fetch("SELECT * FROM rollup WHERE latency IS NOT NULL ORDER BY tenant_id, seconds, start")
    await _let_an_hour_pass(database)
    await _roll_up_all(rollup)
    after = await database.fetch("SELECT * FROM rollup WHERE latency IS NOT NULL ORDER BY tenant_id, seconds, start")
    first = {(row["tenant_id"], row["seconds"], row["start"]): row for row in before}
    assert {key: value for key, value in first.items() if key[1] == 60}.items() <= {
        (row["tenant_id"], row["seconds"], row["start"]): row for row in after
    }.items()
    await _assert_counted(database)


async def test_late_prices_outcomes_and_deliveries_are_counted(database: Database) -> None:
    await _plant(database, _chance(8), 60, oldest=MINUTE * 40)
    rollup = _rollup(database)
    await _roll_up_all(rollup)
    await database.fetch("UPDATE call SET price = -0.02, price_unit = 'USD' WHERE execution = 'started' AND price IS NULL")
    await database.fetch(
        "UPDATE call SET execution = 'started', sid = id::text, settled_by = 'callback', settled_at = now() "
        "WHERE execution = 'unknown'"
    )
    await database.fetch("UPDATE delivery SET state = 'delivered', next_attempt_at = NULL WHERE state = 'pending'")
    await _let_an_hour_pass(database)
    await _roll_up_all(rollup)
    await _assert_counted(database)
    assert sum(figures["unpriced"] for figures in (await _rolled_up(database, 60)).values()) == 0


async def test_two_workers_at_once_count_everything_once(database: Database, gateway: Gateway) -> None:
    await _plant(database, _chance(9), 80, oldest=timedelta(hours=30))
    url = gateway.settings.require_database_url()
    others = [Database(url, pool_size=1) for _ in range(3)]
    try:
        await asyncio.gather(*(_roll_up_all(_rollup(each)) for each in (database, *others)))
        await _roll_up_all(_rollup(database))
    finally:
        for each in others:
            await each.close()
    await _assert_counted(database)


async def test_a_worker_that_is_cut_off_leaves_nothing_half_done_and_keeps_none_waiting(database: Database) -> None:
    await _plant(database, _chance(10), 60, oldest=timedelta(hours=1))
    rollup = _rollup(database)
    async with _stopping_in_the_middle(database) as stopped:
        step = asyncio.create_task(rollup.step())
        await stopped()
        assert await _rollup(database).step() is False
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
    assert await database.fetch("SELECT FROM rollup") == []
    await _roll_up_all(rollup)
    await _assert_counted(database)


@asynccontextmanager
async def _stopping_in_the_middle(database: Database) -> AsyncIterator[Callable[[], Any]]:
    """Makes a roll-up wait for a row lock after it has written some periods. Yields a function that waits for this moment."""
    now = await _now(database)
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO rollup (tenant_id, seconds, start) VALUES ('', 60, $1)", now - 30 * MINUTE)

        async def stopped() -> None:
            while not (await database.fetch(SESSION_WAITS_FOR_LOCK_SQL))[0][0]:
                await asyncio.sleep(0.01)

        yield stopped
        await connection.execute("DELETE FROM rollup")


async def test_waiting_calls_are_counted_once_a_minute_and_an_hour_keeps_the_most(database: Database) -> None:
    ids = await _plant(database, _chance(11), 20, oldest=MINUTE)
    await database.fetch(
        """INSERT INTO scheduled_dial
            (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
        SELECT id, tenant_id, account_id, id, id, 1, now(), now() + interval '1 day', now() FROM call WHERE id = ANY ($1)""",
        ids,
    )
    by_tenant = dict(await database.fetch("SELECT tenant_id, count(*) FROM call GROUP BY 1"))
    rollup = _rollup(database)
    await rollup.step()
    assert dict(await database.fetch("SELECT tenant_id, waiting FROM rollup WHERE waiting IS NOT NULL")) == {
        **by_tenant,
        "": 20,
    }
    # As 13 hours later, and again when the minutes are deleted.
    await database.fetch("UPDATE call SET created_at = created_at - interval '14 hours'")
    ((hour,),) = await database.fetch("SELECT date_trunc('hour', now()) - interval '13 hours'")
    await database.fetch("DELETE FROM rollup WHERE start = $1", hour + 5 * MINUTE)
    await database.fetch("UPDATE rollup SET start = $1 WHERE waiting IS NOT NULL", hour + 5 * MINUTE)
    for _ in range(2):
        await database.fetch("UPDATE rollup_progress SET rolled_until = rolled_until - interval '2 hours'")
        await _roll_up_all(rollup)
        kept = await database.fetch("SELECT tenant_id, waiting FROM rollup WHERE seconds = 3600 AND start = $1", hour)
        assert dict(kept) == {**by_tenant, "": 20}
        await database.fetch("DELETE FROM rollup WHERE seconds = 60 AND waiting IS NOT NULL")


async def test_old_figures_are_deleted(database: Database) -> None:
    now = await _now(database)
    ages = {60: (25, 27), 3600: (24 * 29, 24 * 31)}
    for seconds, hours in ages.items():
        for age in hours:
            await database.fetch(
                "INSERT INTO rollup (tenant_id, seconds, start) VALUES ('old', $1, $2)", seconds, now - age * HOUR
            )
    await _roll_up_all(_rollup(database))
    left = await database.fetch("SELECT seconds, start FROM rollup WHERE tenant_id = 'old'")
    assert {(row["seconds"], (now - row["start"]) // HOUR) for row in left} == {(60, 25), (3600, 24 * 29)}


async def test_before_the_first_call_there_was_nothing_which_is_not_a_gap(database: Database) -> None:
    rollup = _rollup(database)
    await rollup.step()
    ((until,),) = await database.fetch("SELECT rolled_until FROM rollup_progress")
    counted = await database.fetch("SELECT start FROM rollup WHERE seconds = 60 AND tenant_id = '' AND latency IS NOT NULL")
    assert {row["start"] for row in counted} >= {until - age * MINUTE for age in range(1, 24 * 60)}
    await database.fetch("UPDATE rollup_progress SET rolled_until = rolled_until - interval '1 day'")
    await _plant(database, _chance(17), 5, oldest=timedelta(minutes=30))
    await _roll_up_all(rollup)
    await _assert_counted(database)


async def test_figures_outlive_the_calls(database: Database) -> None:
    """An hour is not counted again when some of its calls may already be deleted."""
    await _plant(database, _chance(12), 60, oldest=timedelta(days=3))
    rollup = _rollup(database, calls_kept_for=timedelta(days=4))
    await _roll_up_all(rollup)
    before = await _rolled_up(database, 3600)
    assert len(before) > 5
    await database.fetch("DELETE FROM call")
    await database.fetch("UPDATE rollup_progress SET rolled_until = rolled_until - interval '7 days'")
    await _roll_up_all(_rollup(database, calls_kept_for=timedelta(hours=12)))
    assert await _rolled_up(database, 3600) == before


async def test_a_clock_that_was_set_back_stops_nothing(database: Database) -> None:
    rollup = _rollup(database)
    await _roll_up_all(rollup)
    await database.fetch("UPDATE rollup_progress SET rolled_until = rolled_until + interval '3 hours'")
    await rollup.step()
    await _plant(database, _chance(13), 20, oldest=MINUTE * 30)
    await _let_an_hour_pass(database)
    await _roll_up_all(rollup)
    await _assert_counted(database)


async def test_a_period_that_cannot_be_counted_in_time_is_skipped(database: Database) -> None:
    """Checks that a period whose count takes too long is skipped, and that all other periods are counted."""
    await _plant(database, _chance(14), 20, oldest=timedelta(hours=1))
    rollup = _rollup(database)
    slow = (await _now(database)) - 16 * MINUTE
    await database.fetch(f"""
        CREATE OR REPLACE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.start = '{slow.isoformat()}' THEN RAISE query_canceled; END IF; RETURN NEW;
        END $$
    """)
    await database.fetch("CREATE TRIGGER be_slow BEFORE INSERT ON rollup FOR EACH ROW EXECUTE FUNCTION be_slow()")
    try:
        await _roll_up_all(rollup)
    finally:
        await database.fetch("DROP TRIGGER be_slow ON rollup")
    assert await database.fetch("SELECT FROM rollup WHERE start = $1 AND seconds = 60", slow) == []
    await _let_an_hour_pass(database)
    await _roll_up_all(rollup)
    await _assert_counted(database)


async def test_what_happens_outside_of_the_periods_is_not_read(database: Database) -> None:
    """Checks in the query plan that the count of a minute reads the calls by a range of ids, and not the whole table."""
    await _plant(database, _chance(15), 300, oldest=timedelta(days=2))
    await database.fetch("ANALYZE call")
    now = await _now(database)
    async with database.transaction() as connection:
        ids = lowest_call_id_at(now - 31 * MINUTE), lowest_call_id_at(now - 30 * MINUTE)
        arguments = (now - 31 * MINUTE, now - 30 * MINUTE, *ids, 60, True)
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + ROLL_UP_PERIOD_SQL, *arguments))
    assert "Seq Scan on call" not in plan
    assert "Index Cond: ((id >= " in plan
    assert "Seq Scan on delivery" not in plan


async def test_workers_roll_up_by_themselves(database: Database, gateway: Gateway) -> None:
    """Runs two real workers at the same time."""
    await _plant(database, _chance(16), 40, oldest=timedelta(minutes=50))
    stop = asyncio.Event()
    working = [asyncio.create_task(run_worker(gateway.settings, Metrics(), stop)) for _ in range(2)]
    try:
        started = await _now(database)
        while (await database.fetch("SELECT rolled_until FROM rollup_progress"))[0][0] < started:
            await asyncio.sleep(0.05)
    finally:
        stop.set()
        await asyncio.gather(*working)
    # What the workers have changed since then, such as the outcome of a pending call, is counted once an hour has passed.
    await _let_an_hour_pass(database)
    await _roll_up_all(_rollup(database))
    await _assert_counted(database)
