"""Every response says what happened to the call: without Postgres, with clients that disconnect, and under overload."""

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import jsonschema
import pytest
import yaml
from sqlalchemy import text

from app import __version__
from app.database.engine import Session
from app.database.partitions import create_missing_partitions
from app.errors import DatabaseUnavailable
from app.local.postgres import EmbeddedPostgres
from app.observability.metrics import EXPOSITION_INTERVAL_S
from app.queues.router import NDJSON_MEDIA_TYPE
from app.schema import migrate
from app.tenants.administration_store import TenantSettings
from app.tenants.errors import InvalidValue
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for, wait_until_ready
from tests.support.locks import SESSION_WAITS_FOR_LOCK_SQL
from tests.support.raw import raw_connection, request_head
from tests.support.refusals import refused_by_postgres
from tests.support.upstream import created, created_after_release, hang, refused_url, running_upstream

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "monitoring" / "alerts.yaml"
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres server for this module alone, because the tests stop and start it."""
    with tempfile.TemporaryDirectory(prefix="callgate-trouble-") as name:
        Path(name).chmod(0o755)
        with EmbeddedPostgres(Path(name)) as server:
            yield server


@pytest.fixture(scope="module")
async def fragile(postgres: EmbeddedPostgres) -> AsyncIterator[Gateway]:
    await asyncio.to_thread(migrate, postgres.url)
    async with running_gateway(settings_for(postgres.url)) as running:
        yield running


async def _settled(tenant: Tenant, call_id: str) -> str:
    """Waits until the call can be read and is not pending any more, and returns its `execution`."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            response = await tenant.http.get(f"/v1/calls/{call_id}")
            if response.is_success and response.json()["execution"] != "pending":
                return str(response.json()["execution"])
            await asyncio.sleep(0.05)


async def _ready(gateway: Gateway) -> None:
    """Waits until the gateway and the test's own pool are connected to Postgres again."""
    async with asyncio.timeout(TIMEOUT_S), http_client(base_url=gateway.url) as http:
        await wait_until_ready(http)
        while True:
            with contextlib.suppress(DatabaseUnavailable):
                await gateway.database.ping()
                return


async def test_a_creation_while_postgres_is_down_is_not_sent(fragile: Gateway, postgres: EmbeddedPostgres) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await fragile.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        await _ready(fragile)
        postgres.stop()
        try:
            for key in (None, "k"):
                response = await tenant.create(key)
                assert response.status_code == 503
                assert response.json()["type"] == "urn:callgate:problem:database-unavailable"
                assert response.json()["execution"] == "not_started"
                assert int(response.headers["Retry-After"]) > 0
            async with http_client(base_url=fragile.url) as http:
                assert (await http.get("/livez")).status_code == 200
                readiness = await http.get("/readyz")
                answered = readiness.json()
                assert answered.pop("version") == __version__
                assert answered.pop("reason") in ("unreachable", "connection_lost")
                assert (readiness.status_code, answered) == (200, {"status": "degraded", "database": "unavailable"})
            assert len(upstream.posts) == 1
        finally:
            postgres.start()
        await _ready(fragile)
        assert (await tenant.create("k")).status_code == 201


async def test_only_the_routes_that_create_calls_fire_the_critical_alert(fragile: Gateway, postgres: EmbeddedPostgres) -> None:
    """Checks that CallgateDatabaseUnavailable counts refused creations on each path, and no other requests."""
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    (expression,) = (rule["expr"] for rule in rules if rule["alert"] == "CallgateDatabaseUnavailable")
    (method, routes) = re.findall(r'(?:method=|route=~)"([^"]+)"', expression)
    tenant = await fragile.add_tenant(refused_url())
    by_twilio = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls"
    basic = (tenant.account_sid, tenant.key)
    await _ready(fragile)
    async with http_client(base_url=fragile.url) as prometheus:
        exposed = (await prometheus.get("/metrics")).text
    from_the_beginning = re.findall(r'^callgate_database_unavailable_total{method="POST",route="(\S+)"}', exposed, re.MULTILINE)
    postgres.stop()
    try:
        answers = [
            await tenant.create(),
            await tenant.http.post(by_twilio, data={}, auth=basic),
            await tenant.http.post(f"{by_twilio}.json", data={}, auth=basic),
            await tenant.http.post("/v1/queues/default/calls", content="{}", headers={"Content-Type": NDJSON_MEDIA_TYPE}),
            await tenant.http.get("/v1/calls"),
            await tenant.http.post("/v1/deliveries/replay", json={}),
        ]
        assert [answer.status_code for answer in answers] == [503] * 6
        await asyncio.sleep(EXPOSITION_INTERVAL_S)
        async with http_client(base_url=fragile.url) as prometheus:
            counted = re.findall(
                r'^callgate_database_unavailable_total{method="(\w+)",route="(\S+)"}',
                (await prometheus.get("/metrics")).text,
                re.MULTILINE,
            )
    finally:
        postgres.start()
    await _ready(fragile)
    of_creations = {route for verb, route in counted if verb == method and re.fullmatch(routes, route)}
    assert len(of_creations) == 4
    assert of_creations <= {*from_the_beginning}
    assert {("GET", "/v1/calls"), ("POST", "/v1/deliveries/replay")} <= {*counted} - {("POST", route) for route in of_creations}


async def test_an_outcome_while_postgres_is_down_is_reported_as_unknown_and_committed_later(
    fragile: Gateway, postgres: EmbeddedPostgres
) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await fragile.add_tenant(upstream.url)
        creating = asyncio.create_task(tenant.create("k"))
        await upstream.wait_for_post()
        postgres.stop()
        try:
            upstream.released.set()
            response = await creating
            assert (response.status_code, response.json()["execution"]) == (202, "unknown")
        finally:
            postgres.start()
        assert await _settled(tenant, response.json()["id"]) == "started"
        assert (await tenant.create("k")).status_code == 200
        assert len(upstream.posts) == 1


async def test_a_client_that_disconnects_does_not_cancel_the_dial(patient_gateway: Gateway) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        creating = asyncio.create_task(tenant.create("k"))
        await upstream.wait_for_post()
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
        (pending,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        upstream.released.set()
        assert await _settled(tenant, pending["id"]) == "started"
        assert (await tenant.create("k")).json()["execution"] == "started"
        assert len(upstream.posts) == 1


async def test_a_process_stops_only_after_its_outcomes_are_committed(database_url: str) -> None:
    async with running_upstream(created_after_release()) as upstream:
        async with running_gateway(settings_for(database_url)) as stopping:
            tenant = await stopping.add_tenant(upstream.url)
            creating = asyncio.create_task(tenant.create())
            await upstream.wait_for_post()
            asyncio.get_running_loop().call_later(0.3, upstream.released.set)
        # The gateway has stopped here. It must have waited for the outcome.
        assert (await asyncio.gather(creating, return_exceptions=True))[0] is not None
        async with (
            running_gateway(settings_for(database_url)) as again,
            http_client(base_url=again.url, headers=tenant.http.headers) as http,
        ):
            (record,) = (await http.get("/v1/calls")).json()["calls"]
    assert record["execution"] == "started"


async def test_creations_beyond_the_limits_are_refused_at_once_and_not_stored(database_url: str) -> None:
    settings = settings_for(database_url, max_in_flight=3, max_in_flight_per_tenant=2)
    async with running_upstream(hang) as upstream, running_gateway(settings) as small:
        slow, other = await small.add_tenant(upstream.url), await small.add_tenant(upstream.url)
        hanging = [asyncio.create_task(slow.create("live")), asyncio.create_task(slow.create())]
        while len(upstream.posts) < 2:
            await asyncio.sleep(0.01)
        refused = await slow.create()
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:callgate:problem:overloaded")
        assert (refused.json()["execution"], refused.headers["Retry-After"]) == ("not_started", "1")
        hanging.append(asyncio.create_task(other.create()))
        while len(upstream.posts) < 3:
            await asyncio.sleep(0.01)
        assert (await other.create()).json()["type"] == "urn:callgate:problem:overloaded"
        assert (await other.create("key")).json()["type"] == "urn:callgate:problem:overloaded"
        assert (await slow.create("live")).json()["type"] == "urn:callgate:problem:call-pending"
        upstream.released.set()
        assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {202}
        assert len((await slow.http.get("/v1/calls")).json()["calls"]) == 2
        assert (await slow.create()).status_code == 202


async def test_requests_about_a_slow_tenants_calls_take_no_connection_from_others(database_url: str) -> None:
    sid, others_sid = "CA" + "1" * 32, "CA" + "2" * 32
    async with (
        running_upstream(created(sid=sid), created_after_release(sid=sid)) as slow_upstream,
        running_upstream(created(sid=others_sid)) as upstream,
        running_gateway(settings_for(database_url, max_in_flight=4, **LONG_TIMEOUTS)) as small,
    ):
        slow, other = await small.add_tenant(slow_upstream.url), await small.add_tenant(upstream.url)
        await slow.create()
        path = f"/2010-04-01/Accounts/{slow.account_sid}/Calls/{sid}.json"
        fetching = asyncio.create_task(slow.http.get(path))
        while len(slow_upstream.received) < 2:
            await asyncio.sleep(0.01)
        waiting = [
            *(slow.http.get(path) for _ in range(4)),
            slow.http.post(path, data={"Status": "completed"}),
            slow.http.delete(path),
            slow.http.patch(f"/v1/calls/{sid}", json={"status": "completed"}),
        ]
        refused = asyncio.gather(*waiting)
        assert (await other.create()).status_code == 201
        fetched = await other.http.get(f"/2010-04-01/Accounts/{other.account_sid}/Calls/{others_sid}.json")
        assert (fetched.status_code, fetched.headers.get("Warning")) == (200, None)
        for answer in await refused:
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert (await refused)[-1].json()["type"] == "urn:callgate:problem:overloaded"
        assert len(slow_upstream.received) == 2
        slow_upstream.released.set()
        assert (await fetching).status_code == 200
        assert (await slow.http.get(path)).status_code == 200


async def test_a_tenants_own_limit_replaces_the_setting(database_url: str) -> None:
    settings = settings_for(database_url, max_in_flight_per_tenant=1)
    async with running_upstream(hang) as upstream, running_gateway(settings) as small:
        tenant = await small.add_tenant(upstream.url)

        async def limit(max_in_flight: int | None) -> None:
            await small.tenants.update_tenant(tenant.id, TenantSettings(max_in_flight=max_in_flight))
            small.invalidate_cache()

        await limit(2)
        hanging = [asyncio.create_task(tenant.create()) for _ in range(2)]
        while len(upstream.posts) < 2:
            await asyncio.sleep(0.01)
        assert (await tenant.create()).json()["type"] == "urn:callgate:problem:overloaded"
        await limit(3)
        hanging.append(asyncio.create_task(tenant.create()))
        while len(upstream.posts) < 3:
            await asyncio.sleep(0.01)
        await limit(None)
        assert (await tenant.create()).json()["type"] == "urn:callgate:problem:overloaded"
        upstream.released.set()
        assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {202}
        for wrong in (0, -1, 10_001):
            with pytest.raises(InvalidValue):
                await small.tenants.update_tenant(tenant.id, TenantSettings(max_in_flight=wrong))


async def test_a_refused_creation_frees_its_slot(database_url: str) -> None:
    settings = settings_for(database_url, max_in_flight=1)
    async with running_upstream(created()) as upstream, running_gateway(settings) as small:
        tenant = await small.add_tenant(upstream.url)
        for _ in range(3):
            assert (await tenant.create(timeout=0)).status_code == 422
            assert (await tenant.create(account_sid="AC" + "0" * 32)).status_code == 409
        assert (await tenant.http.post("/v1/calls", json=BASIC_CALL)).status_code == 201


async def test_a_client_that_disconnects_during_its_request_is_not_an_error(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{".encode())
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        async with asyncio.timeout(TIMEOUT_S):
            while 'status="499"' not in (await tenant.http.get("/metrics")).text:
                await asyncio.sleep(0.05)
        assert upstream.posts == []
    assert "unexpected_error" not in capsys.readouterr().out


async def test_a_creation_cut_off_by_the_drain_timeout_is_never_reported_as_not_started(database_url: str) -> None:
    async with running_upstream(hang) as upstream:
        settings = settings_for(database_url, **LONG_TIMEOUTS)
        async with httpx.AsyncClient(timeout=30) as http:
            async with running_gateway(settings, grace=1) as stopping:
                tenant = await stopping.add_tenant(upstream.url)
                url, headers = f"{stopping.url}/v1/calls", tenant.http.headers
                creating = asyncio.create_task(http.post(url, json=BASIC_CALL, headers=headers))
                await upstream.wait_for_post()
                asyncio.get_running_loop().call_later(2, upstream.released.set)
            response = await creating
        async with running_gateway(settings) as restarted, http_client(base_url=restarted.url, headers=headers) as later:
            [record] = (await later.get("/v1/calls")).json()["calls"]
            openapi = (await later.get("/openapi.json")).json()
    assert (response.status_code, response.json()["execution"]) == (202, "unknown")
    assert response.json()["id"] == record["id"]
    assert response.headers["Location"] == f"/v1/calls/{record['id']}"
    documented = openapi["paths"]["/v1/calls"]["post"]["responses"]["202"]
    jsonschema.validate(
        response.json(), documented["content"]["application/json"]["schema"] | {"components": openapi["components"]}
    )
    assert {name for name in documented["headers"] if name in response.headers} == documented["headers"].keys()


async def test_a_creation_whose_commit_is_cut_off_by_the_drain_timeout_is_unknown_and_not_dialled(
    gateway: Gateway, database_url: str
) -> None:
    async with running_upstream(created()) as upstream, httpx.AsyncClient(timeout=30) as http:
        async with running_gateway(settings_for(database_url), grace=1) as stopping:
            tenant = await stopping.add_tenant(upstream.url)
            url, headers = f"{stopping.url}/v1/calls", tenant.http.headers

            async def create_while_locked() -> httpx.Response:
                async with gateway.database.begin() as session, asyncio.timeout(TIMEOUT_S):
                    await session.execute(text("LOCK TABLE call IN EXCLUSIVE MODE"))
                    creating = asyncio.create_task(http.post(url, json=BASIC_CALL, headers=headers))
                    while not await _waits_for_a_lock(session):
                        await asyncio.sleep(0.01)
                    waiting.set()
                    return await creating

            waiting = asyncio.Event()
            answering = asyncio.create_task(create_while_locked())
            await waiting.wait()
        response = await answering
        assert (response.status_code, response.json()["execution"]) == (202, "unknown")
        async with http_client(base_url=gateway.url, headers=headers) as later:
            record = (await later.get(f"/v1/calls/{response.json()['id']}")).json()
    assert record["execution"] == "not_started"
    assert upstream.posts == []


async def test_a_creation_whose_body_has_not_arrived_at_the_drain_timeout_is_reported_as_not_started(
    database_url: str,
) -> None:
    async with AsyncExitStack() as opened, running_upstream(created()) as upstream:
        async with running_gateway(settings_for(database_url, body_timeout=60), grace=1) as stopping:
            tenant = await stopping.add_tenant(upstream.url)
            begun = []
            for path in ("/v1/calls", f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"):
                connection = await opened.enter_async_context(raw_connection(stopping.url))
                await connection.send(
                    request_head(
                        "POST", path, f"Authorization: Bearer {tenant.key}", "Content-Length: 9", "Expect: 100-continue"
                    )
                )
                assert (await connection.answer()).status == 100  # the request is in progress
                begun.append(connection)
        answer, twilio_answer = [await connection.answer() for connection in begun]
        assert (answer.status, answer.slug, answer.problem["execution"]) == (503, "shutting-down", "not_started")
        assert (twilio_answer.status, twilio_answer.problem["code"]) == (503, 20503)
    assert upstream.posts == []


async def test_a_change_cut_off_by_the_drain_timeout_is_never_reported_as_not_made(database_url: str) -> None:
    """Expects a 409 and not a 503: clients repeat a request after a 503, and a redirect that is made twice may dial twice."""
    async with running_upstream(created(), hang) as upstream:
        settings = settings_for(database_url, **LONG_TIMEOUTS)
        async with httpx.AsyncClient(timeout=30) as http:
            async with running_gateway(settings, grace=1) as stopping:
                tenant = await stopping.add_tenant(upstream.url)
                call = (await tenant.create()).json()
                v1_url = f"{stopping.url}/v1/calls/{call['id']}"
                twilio_url = f"{stopping.url}/2010-04-01/Accounts/{tenant.account_sid}/Calls/{call['sid']}.json"
                url, headers = "https://example.com/next.xml", tenant.http.headers
                changing = asyncio.gather(
                    http.patch(v1_url, json={"url": url}, headers=headers),
                    http.post(twilio_url, data={"Url": url}, headers=headers),
                )
                while len(upstream.posts) < 3:
                    await asyncio.sleep(0.01)
                asyncio.get_running_loop().call_later(2, upstream.released.set)
            response, twilio_response = await changing
    assert (response.status_code, response.json()["type"]) == (409, "urn:callgate:problem:action-unknown")
    assert (twilio_response.status_code, twilio_response.json()["code"]) == (409, 900010)


PASSING_STATES = ["25006", "40P01", "40001", "57014", "53100", "55P03"]


@pytest.mark.parametrize("state", PASSING_STATES)
async def test_an_outcome_that_postgres_refuses_temporarily_is_committed_later(
    fragile: Gateway, postgres: EmbeddedPostgres, state: str
) -> None:
    await _ready(fragile)
    async with running_upstream(created_after_release()) as upstream:
        tenant = await fragile.add_tenant(upstream.url)
        creating = asyncio.create_task(tenant.create())
        await upstream.wait_for_post()
        async with refused_by_postgres(postgres.url, "UPDATE ON call", state):
            upstream.released.set()
            response = await creating
            refused = await tenant.create("k")
        assert (response.status_code, response.json()["execution"]) == (202, "unknown")
        assert refused.status_code == 202
        assert await _settled(tenant, response.json()["id"]) == "started"
        assert len(upstream.posts) == 2


async def test_a_partition_attached_during_an_insert_makes_the_creation_retryable(database_url: str) -> None:
    """Covers an insert into the default partition, which Postgres refuses once a partition for this time is attached.

    The response is a 503, not a 500.
    """
    async with running_gateway(settings_for(database_url)) as gateway, running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        async with gateway.database.begin() as session:
            await session.execute(text(f"DROP TABLE call_event_{datetime.now(UTC):%Y_%m}"))
        async with gateway.database.begin() as session, asyncio.timeout(TIMEOUT_S):
            await create_missing_partitions(session, "call_event", months_ahead=0)
            first = asyncio.create_task(tenant.create("partition-1"))
            while not await _waits_for_a_lock(session):
                await asyncio.sleep(0.01)
        assert (await first).json()["type"] == "urn:callgate:problem:database-unavailable"
        assert (await tenant.create("partition-1")).status_code == 201
    assert len(upstream.posts) == 1


async def _waits_for_a_lock(session: Session) -> bool:
    return bool(await session.scalar(text(SESSION_WAITS_FOR_LOCK_SQL)))
