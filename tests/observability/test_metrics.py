"""Labels in /metrics come from short, fixed sets. A worker measures the work that waits in the database."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from app.calls.callback_urls import CALLBACK_PATH
from app.database.engine import Database
from app.database.pool import MAX_CONNECTIONS
from app.errors import DatabaseUnavailable, error_classes_by_slug
from app.http.request_log import count_error
from app.http.worker_gauges import WorkerGauges
from app.jobs.gauges import BacklogGauges
from app.observability import Metrics
from app.observability.metrics import EXPOSITION_INTERVAL_S
from app.scheduling.grant_counters import KnownGrantCounts
from app.schema import migrate
from app.services import open_services
from app.twilio.client import TwilioClient, make_http_client
from app.twilio.errors import TwilioError
from app.twilio.instrumentation import operation_label
from app.twilio.schemas import Credential, Form
from tests.support.clients import http_client
from tests.support.gateway import Gateway, running_gateway
from tests.support.jobs import dial_all, make_dialer
from tests.support.upstream import Behaviour, answer, created, error, proxy_page, refused_url, reset, running_upstream

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
CREDENTIAL = Credential("AC" + "0" * 32, "user", SecretStr("password"))
LABELS = {"answer", "by", "execution", "generation", "le", "method", "operation", "python", "result", "route", "slug"}
LABELS |= {"destination", "pool", "priority", "reason", "state", "status", "version"}
WAITING = ["oldest_pending_seconds", "oldest_unknown_seconds", "refresh_lag_seconds", "active_calls", "unpriced_calls"]
WAITING += ["pending_deliveries", "oldest_delivery_seconds", "delivery_lag_seconds", "update_lag_seconds"]

INSERT_DELIVERY = """
    INSERT INTO delivery
        (id, call_id, at, tenant_id, event, position, webhook_id, url, method, fields, pending_since, next_attempt_at)
    VALUES
        (gen_random_uuid(), :id, now(), '', '', 1, '', '', '', '{}', now() - interval '200 s', now() + :wait * interval '1 s')
"""

INSERT_PENDING_UPDATE = """
    INSERT INTO wanted_update (call_id, attempt, status, due_at)
    VALUES (:id, 1, 'canceled', now() - :overdue * interval '1 s')
"""


async def scraped(gateway: Gateway) -> list[Metric]:
    await asyncio.sleep(EXPOSITION_INTERVAL_S)
    async with http_client(base_url=gateway.url) as prometheus:
        response = await prometheus.get("/metrics")
    return list(text_string_to_metric_families(response.text))


def value(families: list[Metric], name: str, **labels: str) -> float:
    """Returns the sample's value; 0 if it does not exist yet."""
    found = [s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
    assert len(found) <= 1
    return float(sum(found))


async def test_labels_come_from_short_fixed_sets_for_any_request(gateway: Gateway) -> None:
    async with running_upstream(
        created(), error(400, 21211), error(429, 20429), error(500, 20500), reset, created()
    ) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        unreachable = await gateway.add_tenant(refused_url())
        nobody = await gateway.add_tenant(with_account=False)
        for number in range(7):
            await tenant.create(to=f"sip:user{number}@host{number}.example.com")
        for to in ("sips:kate@example.com", "client:kate", "+14155550123"):
            await tenant.create(to=to, **{"from": "+14155550199"})
        for one in (unreachable, nobody):
            await one.create()
    for number in range(5):
        for path in (f"/{number}", f"//{number}", f"/v1/calls/{number}", f"/v1/calls?a{number}=1", f"{CALLBACK_PATH}/{number}"):
            for method in ("GET", "POST", "PROPFIND", "DELETE"):
                await tenant.http.request(method, path)
        await tenant.http.post("/v1/calls", json={f"odd{number}": number})
        await tenant.http.post("/v1/calls", content=b"\xff", headers={"Content-Type": f"text/{number}"})
        await tenant.http.get("/v1/calls", headers={"Authorization": f"Bearer cgk_{number}_x"})
    documented = (await gateway.clients[0].get("/openapi.json")).json()["paths"].keys() | {"/openapi.json"}
    seen: dict[str, set[str]] = defaultdict(set)
    families = await scraped(gateway)
    for sample in (sample for family in families for sample in family.samples):
        for label, shown in sample.labels.items():
            seen[label].add(shown)
    assert seen.keys() <= LABELS
    assert seen["method"] == {"GET", "POST", "DELETE", "other"} <= METHODS
    assert "unmatched" in seen["route"]
    by_twilio = "/2010-04-01/Accounts/{account_sid}/Calls"
    assert seen["route"] <= {"unmatched", "/", f"{CALLBACK_PATH}/{{call_id}}", by_twilio, f"{by_twilio}.json", *documented}
    assert seen["slug"] == error_classes_by_slug().keys()
    assert seen["answer"] == {"2xx", "4xx", "429", "5xx", "lost", "not_sent"}
    assert seen["destination"] == {"sip", "sips", "client", "phone"}
    assert seen["operation"] == {"POST Calls"}
    assert seen["execution"] == {"started", "not_started", "unknown"}
    assert all(len(values) <= 50 for values in seen.values())
    series = sum(len(family.samples) for family in families)
    assert series < 700, "a scrape stays small"


def test_an_operation_label_has_no_name_or_sid() -> None:
    sid = "CA" + "0" * 32
    assert operation_label("GET", f"Calls/{sid}/Recordings.json?PageSize=50") == "GET Calls/{}/Recordings"
    assert operation_label("POST", f"Calls/{sid}/Streams/kate.json") == "POST Calls/{}/Streams/{}"
    assert operation_label("GET", "a/b/c/d/e/f/g/h") == "GET {}/{}/{}/{}/{}"


async def test_requests_to_twilio_settlements_and_the_pool_are_measured(gateway: Gateway) -> None:
    before = await scraped(gateway)
    async with running_upstream(created(), answer(201, body=b"<html>")) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert [(await tenant.create()).status_code for _ in range(2)] == [201, 202]
    after = await scraped(gateway)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("callgate_upstream_seconds_count", operation="POST Calls") == 2
    assert more("callgate_upstream_answers_total", operation="POST Calls", answer="2xx") == 1
    assert more("callgate_upstream_answers_total", operation="POST Calls", answer="lost") == 1
    assert more("callgate_settle_seconds_count", by="response") == more("callgate_settled_total", by="response") == 1
    assert value(after, "callgate_upstream_in_flight") == value(after, "callgate_creations_in_flight") == 0
    pool_size = gateway.settings.database_pool_size
    assert value(after, "callgate_database_connections", pool="sessions", state="allowed") == pool_size
    assert value(after, "callgate_database_connections", pool="statements", state="allowed") == MAX_CONNECTIONS
    assert value(after, "process_resident_memory_bytes") > 1_000_000


async def test_the_connections_in_use_are_counted_for_each_pool(gateway: Gateway) -> None:
    database = Database(gateway.settings.require_database_url(), pool_size=2)

    def in_use() -> tuple[int, int]:
        return database.session_connections_in_use, database.statement_connections_in_use

    async with database.begin() as session:
        await session.execute(text("SELECT 1"))
        assert in_use() == (1, 0)
        async with database.transaction():
            assert in_use() == (1, 1)
            waiting = asyncio.create_task(database.fetch("SELECT pg_sleep(60)"))
            while in_use() != (1, 2):
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert in_use() == (1, 1)
    assert in_use() == (0, 0)
    await database.close()


@asynccontextmanager
async def measured_client(*script: Behaviour) -> AsyncIterator[tuple[TwilioClient, Callable[..., float]]]:
    """Yields a client of a server in place of Twilio, and a function that reads its metrics."""
    metrics = Metrics()
    http = make_http_client(connect_timeout=20, read_timeout=20, pool_timeout=20, max_connections=1, user_agent="tests")

    def read(name: str, **labels: str) -> float:
        return value(list(text_string_to_metric_families(metrics.exposition().decode())), name, **labels)

    async with running_upstream(*script) as upstream, http:
        yield TwilioClient(http, base_url=upstream.url, metrics=metrics), read


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        (proxy_page(302), "lost"),
        (proxy_page(403), "lost"),
        (error(408, 20408), "lost"),
        (answer(201, {"status": "queued"}), "lost"),
        (proxy_page(502), "5xx"),
        (error(403, 20003), "4xx"),
    ],
)
async def test_only_trustworthy_answers_are_counted_by_their_status(given: Behaviour, counted: str) -> None:
    async with measured_client(given) as (client, read):
        with pytest.raises(TwilioError):
            await client.create_call(CREDENTIAL, Form.from_parameters({"to": "sip:kate@example.com"}), deadline_s=20)
        assert read("callgate_upstream_answers_total", operation="POST Calls") == 1
        assert read("callgate_upstream_answers_total", operation="POST Calls", answer=counted) == 1


async def test_a_page_without_calls_and_a_call_of_another_sid_are_counted_as_lost() -> None:
    async with measured_client(answer(200, {}), answer(200, {"sid": "CA" + "1" * 32})) as (client, read):
        with pytest.raises(TwilioError, match="unreadable_list"):
            await client.list_calls(CREDENTIAL, {}, deadline_s=20)
        with pytest.raises(TwilioError, match="answer_of_another_call"):
            await client.fetch_call(CREDENTIAL, "CA" + "0" * 32, deadline_s=20)
        assert read("callgate_upstream_answers_total", operation="GET Calls", answer="lost") == 1
        assert read("callgate_upstream_answers_total", operation="GET Calls/{}", answer="lost") == 1


async def test_refused_credentials_are_counted_whatever_the_request() -> None:
    async with measured_client(*[error(401, 20003)] * 3) as (client, read):
        for request in (
            client.create_call(CREDENTIAL, Form.from_parameters({"to": "sip:kate@example.com"}), deadline_s=20),
            client.list_calls(CREDENTIAL, {}, deadline_s=20),
            client.delete_call(CREDENTIAL, "CA" + "0" * 32, deadline_s=20),
        ):
            with pytest.raises(TwilioError, match="credential_rejected"):
                await request
        assert read("callgate_credentials_rejected_total") == 3


def test_a_body_of_many_calls_counts_once_as_unavailable_like_any_request() -> None:
    """The alert CallgateRouteUnavailable divides this number by that of the requests."""
    metrics, of_body, of_another = Metrics(), {"method": "POST"}, {"method": "POST"}
    for scope in (of_body, of_body, of_another):
        count_error(metrics, scope, DatabaseUnavailable())
    families = list(text_string_to_metric_families(metrics.exposition().decode()))
    assert value(families, "callgate_database_unavailable_total", method="POST", route="unmatched") == 2
    assert value(families, "callgate_refused_total", slug="database-unavailable") == 3


async def test_a_worker_measures_the_work_that_waits_in_the_database(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        ids = [(await tenant.create()).json()["id"] for _ in range(6)]
    made = (
        "execution = 'pending', sid = NULL, pending_since = now() - interval '100 s'",
        "execution = 'unknown', sid = NULL, search_at = now(), pending_since = now() - interval '1000 s'",
        # Is not searched for any more.
        "execution = 'unknown', sid = NULL, pending_since = now() - interval '8 days'",
        "refresh_at = now() - interval '50 s'",
        "status = 'completed', refresh_at = now() + interval '50 s'",
        "status = 'completed', price = -0.01",
    )
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET execution = 'not_started', sid = NULL, refresh_at = NULL"))
        for id_, change in zip(ids, made, strict=True):
            await session.execute(text("UPDATE call SET execution = 'started', sid = id::text WHERE id = :id"), {"id": id_})
            await session.execute(text(f"UPDATE call SET {change} WHERE id = :id"), {"id": id_})  # noqa: S608
        for wait in (-70, 70):
            await session.execute(text(INSERT_DELIVERY), {"id": ids[0], "wait": wait})
        # The outcome of the second call is still unknown, so its request to end the call waits for it.
        for id_, overdue in ((ids[1], 300), (ids[3], 30), (ids[4], -30)):
            await session.execute(text(INSERT_PENDING_UPDATE), {"id": id_, "overdue": overdue})
    metrics = Metrics()
    gauges = BacklogGauges(gateway.database, metrics, KnownGrantCounts())
    assert await gauges.step() is False
    families = list(text_string_to_metric_families(metrics.exposition().decode()))
    minute = timedelta(minutes=1).total_seconds()
    assert 100 <= value(families, "callgate_oldest_pending_seconds") < 100 + minute
    assert 1000 <= value(families, "callgate_oldest_unknown_seconds") < 1000 + minute
    assert 50 <= value(families, "callgate_refresh_lag_seconds") < 50 + minute
    assert value(families, "callgate_active_calls") == 1
    assert value(families, "callgate_unpriced_calls") == 1
    assert value(families, "callgate_pending_deliveries") == 2
    assert 200 <= value(families, "callgate_oldest_delivery_seconds") < 200 + minute
    assert 70 <= value(families, "callgate_delivery_lag_seconds") < 70 + minute
    assert 30 <= value(families, "callgate_update_lag_seconds") < 30 + minute
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM delivery"))
        await session.execute(text("DELETE FROM call"))
    await gauges.step()
    families = list(text_string_to_metric_families(metrics.exposition().decode()))
    assert [value(families, f"callgate_{name}") for name in WAITING] == [0] * len(WAITING)


async def test_scheduled_calls_are_measured_and_counted(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream, open_services(gateway.settings, Metrics()) as state:
        tenant = await gateway.add_tenant(upstream.url)
        before = await scraped(gateway)
        ids = [(await tenant.create(priority=priority)).json()["id"] for priority in ("urgent", "bulk", "bulk", "bulk")]
        assert (await tenant.http.patch(f"/v1/calls/{ids[1]}", json={"status": "canceled"})).status_code == 200
        after = await scraped(gateway)
        canceled = [value(families, "callgate_settled_total", by="canceled") for families in (before, after)]
        async with gateway.database.begin() as session:
            due = "UPDATE scheduled_dial SET due_at = now() - interval '100 s' WHERE call_id = :id"
            await session.execute(text(due), {"id": ids[2]})
            expired = "UPDATE scheduled_dial SET not_before = to_timestamp(0), ring_by = now() WHERE call_id = :id"
            await session.execute(text(expired), {"id": ids[3]})
        metrics = state["settlement"].metrics
        gauges = BacklogGauges(gateway.database, metrics, KnownGrantCounts())
        dialer = make_dialer(state)
        await gauges.step()
        waiting = list(text_string_to_metric_families(metrics.exposition().decode()))
        await dial_all(dialer)
        await gauges.step()
        dialled = list(text_string_to_metric_families(metrics.exposition().decode()))
    priorities = ("urgent", "normal", "bulk")
    assert canceled[1] - canceled[0] == 1
    assert [value(waiting, "callgate_scheduled_calls", priority=each) for each in priorities] == [1, 0, 2]
    assert 100 <= value(waiting, "callgate_oldest_due_seconds", priority="bulk") < 160
    assert value(waiting, "callgate_oldest_due_seconds", priority="normal") == 0
    assert [value(dialled, "callgate_grants_total", priority=each) for each in priorities] == [1, 0, 1]
    assert value(dialled, "callgate_settled_total", by="expired") == 1
    assert value(dialled, "callgate_dial_slots") - value(waiting, "callgate_dial_slots") == 2
    assert [value(dialled, "callgate_scheduled_calls", priority=each) for each in priorities] == [0, 0, 0]
    assert [value(dialled, "callgate_oldest_due_seconds", priority=each) for each in priorities] == [0, 0, 0]


async def test_the_api_shows_whether_workers_run(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    database, metrics = Database(empty_database_url, pool_size=1), Metrics()
    gauges = WorkerGauges(database, metrics)

    async def shown(*reported: float) -> list[float]:
        async with database.begin() as session:
            await session.execute(text("DELETE FROM worker_heartbeat"))
            for at in reported:
                await session.execute(
                    text("INSERT INTO worker_heartbeat VALUES (gen_random_uuid(), '1', to_timestamp(:at))"), {"at": at}
                )
        await gauges.measure()
        families = list(text_string_to_metric_families(metrics.exposition().decode()))
        return [value(families, f"callgate_{name}") for name in ("workers", "worker_heartbeat_timestamp_seconds")]

    try:
        moment = time.time()
        assert await shown() == [0, 0]
        assert await shown(moment, moment - 20, moment - 120) == pytest.approx([2, moment], abs=0.01)
        assert await shown(moment - 120) == pytest.approx([0, moment - 120], abs=0.01)
    finally:
        await database.close()


async def test_workers_are_counted_again_after_an_unexpected_error(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.http.worker_gauges.MEASURE_INTERVAL_S", 0.01)
    await asyncio.to_thread(migrate, empty_database_url)
    database, metrics = Database(empty_database_url, pool_size=2), Metrics()
    await database.fetch("ALTER TABLE worker_heartbeat RENAME TO kept")
    await database.fetch("CREATE TABLE worker_heartbeat (seen_at text)")
    async with WorkerGauges(database, metrics).measuring_in_background(), asyncio.timeout(60):
        while "worker_gauges_failed" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
        await database.fetch("DROP TABLE worker_heartbeat")
        await database.fetch("ALTER TABLE kept RENAME TO worker_heartbeat")
        await database.fetch("INSERT INTO worker_heartbeat VALUES (gen_random_uuid(), '1', now())")
        while value(list(text_string_to_metric_families(metrics.exposition().decode())), "callgate_workers") != 1:
            await asyncio.sleep(0.01)
    await database.close()


async def test_an_api_process_counts_the_workers_when_it_starts(gateway: Gateway) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("INSERT INTO worker_heartbeat VALUES (gen_random_uuid(), '1', now())"))
    async with running_gateway(gateway.settings) as other, asyncio.timeout(30):
        while value(await scraped(other), "callgate_workers") != 1:
            pass


async def test_the_measurements_use_small_indexes(gateway: Gateway) -> None:
    async with gateway.database.begin() as session:
        for execution in ("pending", "unknown"):
            await session.execute(text("SET LOCAL enable_seqscan = off"))
            plan = await session.scalars(
                text(f"EXPLAIN SELECT min(pending_since) FROM call WHERE execution = '{execution}'")  # noqa: S608
            )
            assert f"ix_call_{execution}_since" in "\n".join(plan)
