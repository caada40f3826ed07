"""Tests limits for clients before authentication, and requests that the HTTP parser alone would handle wrongly."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.limits import MAX_OPERATIONS_CONNECTIONS, ServerLimits
from app.http.listening import open_listening_sockets
from app.http.server import server_config
from app.observability.metrics import EXPOSITION_INTERVAL_S
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, running_server, settings_for
from tests.support.raw import TIMEOUT_S, Connection, raw_connection, request_head
from tests.support.tools import needs_program
from tests.support.upstream import Upstream, created_after_release, running_upstream

BODY = json.dumps(BASIC_CALL).encode()
JSON = ("Content-Type: application/json", f"Content-Length: {len(BODY)}")
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")


@pytest.fixture(scope="module")
async def quick_timeouts(database_url: str) -> AsyncIterator[Gateway]:
    """A gateway whose head and body timeouts are half a second."""
    async with running_gateway(settings_for(database_url, head_timeout=0.5, body_timeout=0.5)) as running:
        yield running


def key_of(tenant: Tenant) -> str:
    return f"Authorization: Bearer {tenant.key}"


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([request_head("GET", "/livez", "A: " + "a" * 65_536)], id="one long line"),
        pytest.param([b"GET /livez HTTP/1.1\r\nA: ", *[b"a" * 20_000] * 8], id="a line without an end"),
        pytest.param([b"GET /", *[b"a" * 20_000] * 8], id="a target without an end"),
        pytest.param([request_head("GET", "/" + "a" * 65_536)], id="a long target"),
        pytest.param([request_head("GET", "/livez", *["A: b"] * 100)], id="101 lines"),
        pytest.param([b"GET /livez HTTP/1.1\r\n", *[b"A: " + b"a" * 700 + b"\r\n"] * 100], id="many middling lines"),
        pytest.param(
            [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + request_head("GET", "/livez", *["A: b"] * 100)], id="a second request"
        ),
    ],
)
async def test_a_head_beyond_64_kib_or_100_lines_is_431(gateway: Gateway, pieces: list[bytes]) -> None:
    async with raw_connection(gateway.url) as connection:
        sending = asyncio.create_task(connection.send(*pieces, pause_s=0))
        answer = await connection.answer()
        if answer.status == 200:
            assert await connection.end() == b"", "the first of two answers is the last"
        else:
            assert (answer.status, answer.slug, answer.headers["connection"]) == (431, "head-too-large", "close")
            assert await connection.end() == b""
        await asyncio.wait([sending])


async def test_a_head_of_the_maximum_size_is_accepted(gateway: Gateway) -> None:
    async with raw_connection(gateway.url) as connection:
        for lines in (["A: b"] * 99, [f"A{number}: " + "a" * 6_400 for number in range(10)]):
            await connection.send(request_head("GET", "/livez", *lines))
            assert (await connection.answer()).status == 200


async def test_megabytes_of_header_lines_get_431_while_they_are_sent(gateway: Gateway) -> None:
    """The client receives the response although it is still sending."""
    async with raw_connection(gateway.url) as connection:
        sending = asyncio.create_task(
            connection.send(b"GET /livez HTTP/1.1\r\n", *[b"A: " + b"a" * 997 + b"\r\n"] * 8_000, pause_s=0)
        )
        assert (await connection.answer()).status == 431
        await asyncio.wait([sending])


async def test_silent_connections_are_closed_after_the_head_timeout(quick_timeouts: Gateway) -> None:
    async with AsyncExitStack() as opened:
        silent = [await opened.enter_async_context(raw_connection(quick_timeouts.url)) for _ in range(300)]
        answered = await opened.enter_async_context(raw_connection(quick_timeouts.url))
        await answered.send(request_head("GET", "/livez"))
        assert (await answered.answer()).status == 200
        await answered.send(b"\r\n")  # some clients send this after a body; it starts no request
        assert await asyncio.gather(*(connection.end() for connection in [*silent, answered])) == [b""] * 301


@pytest.mark.parametrize("begun", [b"G", b"GET /livez HTTP/1.1\r\nHost", b"GET /livez HTTP/1.1\r\nHost: x\r\n"])
async def test_an_incomplete_head_is_408_after_the_head_timeout(quick_timeouts: Gateway, begun: bytes) -> None:
    async with raw_connection(quick_timeouts.url) as connection:
        await connection.send(request_head("GET", "/livez"))
        assert (await connection.answer()).status == 200
        await connection.send(begun)
        answer = await connection.answer()
        assert (answer.status, answer.slug) == (408, "request-timeout")
        assert await connection.end() == b""


async def test_a_slowly_sent_head_does_not_extend_the_deadline(quick_timeouts: Gateway) -> None:
    began = time.monotonic()
    async with raw_connection(quick_timeouts.url) as connection:
        sending = asyncio.create_task(connection.send(b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 90, pause_s=0.2))
        assert (await connection.answer()).status == 408
        sending.cancel()
        await asyncio.wait([sending])
    assert time.monotonic() - began < 10, "18 s is what all of it would take"


async def test_a_connection_whose_responses_are_not_read_is_closed(database_url: str) -> None:
    large = request_head("GET", "/static-offline-docs/redoc.standalone.js")
    async with (
        running_gateway(settings_for(database_url, write_timeout=0.5)) as gateway,
        raw_connection(gateway.url) as connection,
    ):
        await connection.send(large * 10)
        await asyncio.sleep(2)
        answered = 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while answered < 10:
                await connection.answer()
                answered += 1
        assert answered < 10


async def test_trailer_fields_are_not_headers(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Trailer: Authorization, Idempotency-Key")
    async with raw_connection(gateway.url) as connection:
        await connection.send(request_head("POST", "/v1/calls", *lines) + chunked + f"{key_of(tenant)}\r\n\r\n".encode())
        assert (await connection.answer()).status == 401
        for _ in range(2):
            await connection.send(
                request_head("POST", "/v1/calls", *lines, key_of(tenant)) + chunked + b"Idempotency-Key: k\r\n\r\n"
            )
            assert (await connection.answer()).status == 201
    assert len(upstream.posts) == 2


async def test_white_space_around_a_header_value_does_not_count(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    lines = ("Expect: 100-continue ", *(f"{line} \t" for line in JSON), key_of(tenant))
    async with raw_connection(gateway.url) as connection:
        for key, status in (("order-1 ", 201), ("order-1", 200), (" \torder-1\t", 200)):
            await connection.send(request_head("POST", "/v1/calls", *lines, f"Idempotency-Key: {key}", "X-Request-Id: mine "))
            assert (await connection.answer()).status == 100
            await connection.send(BODY)
            answer = await connection.answer()
            assert (answer.status, answer.headers["x-request-id"]) == (status, "mine")
    assert len(upstream.posts) == 1


@pytest.mark.parametrize("endless", [b"A: " + b"a" * 50_000, b"A: " + b"a" * 40_000 + b"\r\n"], ids=["a line", "lines"])
async def test_an_endless_trailer_is_431(gateway: Gateway, tenant: Tenant, upstream: Upstream, endless: bytes) -> None:
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", key_of(tenant))
    async with raw_connection(gateway.url) as connection:
        body = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
        await connection.send(request_head("POST", "/v1/calls", *lines) + body, *[endless] * 5)
        answer = await connection.answer()
        assert (answer.status, answer.slug, answer.problem["execution"]) == (431, "head-too-large", "not_started")
    assert upstream.posts == []


async def test_an_endless_chunk_extension_is_431(gateway: Gateway, tenant: Tenant) -> None:
    async with raw_connection(gateway.url) as connection:
        lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", key_of(tenant))
        await connection.send(request_head("POST", "/v1/calls", *lines), b"5;a=", *[b"a" * 40_000] * 3)
        assert (await connection.answer()).status == 431


@pytest.mark.parametrize("cut", [0, 1, 40])
async def test_an_upgrade_is_declined_and_the_body_is_read(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, cut: int
) -> None:
    async with raw_connection(gateway.url) as connection:
        await connection.send(request_head("POST", "/v1/calls", *H2C, *JSON, key_of(tenant)) + BODY[:cut], BODY[cut:])
        assert (await connection.answer()).status == 201
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", key_of(tenant))
        await connection.send(request_head("POST", "/v1/calls", *H2C, *lines) + chunked)
        assert (await connection.answer()).status == 201
        await connection.send(
            request_head("GET", "/livez", *H2C)
            + request_head("GET", "/v1/nothing", "Connection: upgrade, close", "Upgrade: foo")
        )
        assert (await connection.answer()).status == 200
        last = await connection.answer()
        assert (last.status, last.headers["connection"]) == (404, "close")
    assert len(upstream.posts) == 2


@pytest.mark.parametrize("keys", [["Idempotency-Key:"], ["Idempotency-Key: a", "Idempotency-Key:"]])
@pytest.mark.parametrize("offer", [(), H2C], ids=["plain", "with an offer to upgrade"])
async def test_an_empty_idempotency_key_is_refused_with_and_without_an_offer_to_upgrade(
    gateway: Gateway, tenant: Tenant, upstream: Upstream, offer: tuple[str, ...], keys: list[str]
) -> None:
    async with raw_connection(gateway.url) as connection:
        await connection.send(request_head("POST", "/v1/calls", *offer, *JSON, key_of(tenant), *keys) + BODY)
        assert (await connection.answer()).slug == "invalid-request"
    assert not upstream.posts


@needs_program("curl")
async def test_curl_with_http2_places_a_call(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    command = ["curl", "--http2", "--silent", "--show-error", "--json", BODY.decode(), "--header", key_of(tenant)]
    ended = await asyncio.to_thread(
        subprocess.run, [*command, f"{gateway.url}/v1/calls"], capture_output=True, timeout=TIMEOUT_S, check=True
    )
    assert json.loads(ended.stdout)["execution"] == "started"
    assert len(upstream.posts) == 1


@needs_program("java")
async def test_javas_http_client_places_a_call(gateway: Gateway, tenant: Tenant, upstream: Upstream, tmp_path: Path) -> None:
    source = tmp_path / "Place.java"
    source.write_text(
        """
        import java.net.URI;
        import java.net.http.*;

        public class Place {
            public static void main(String[] args) throws Exception {
                var request = HttpRequest.newBuilder(URI.create(args[0])).header("Authorization", args[1])
                    .header("Content-Type", "application/json").POST(HttpRequest.BodyPublishers.ofString(args[2])).build();
                System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
            }
        }
        """
    )
    command = ["java", "-Xmx128m", str(source), f"{gateway.url}/v1/calls", f"Bearer {tenant.key}", BODY.decode()]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=120, check=True)
    assert json.loads(ended.stdout)["execution"] == "started"
    assert len(upstream.posts) == 1


async def test_a_websocket_handshake_is_an_ordinary_request_and_its_target_is_not_logged(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    async with raw_connection(gateway.url) as connection:
        lines = (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
        )
        await connection.send(request_head("GET", "/v1/nothing?To=%2B14155550100", *lines))
        assert (await connection.answer()).slug == "not-found"
    assert "4155550100" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        request_head("CONNECT", "x:1"),
        request_head("GET", "/\xff"),
    ],
    ids=["TLS", "HTTP/2", "CONNECT", "a target that is not ASCII"],
)
async def test_data_that_is_not_http_gets_a_problem(gateway: Gateway, sent: bytes) -> None:
    async with raw_connection(gateway.url) as connection:
        await connection.send(sent)
        answer = await connection.answer()
        assert (answer.status, answer.slug, answer.headers["connection"]) == (400, "malformed-request", "close")
        assert len(answer.headers["x-request-id"]) == 32
        assert await connection.end() == b""


async def test_garbage_after_a_creation_does_not_replace_its_response(database_url: str) -> None:
    """A response 400 in place of the 201 would tell the client that no call was started."""
    settings = settings_for(database_url, twilio_read_timeout=30, request_budget=40)
    async with (
        running_upstream(created_after_release()) as slow,
        running_gateway(settings) as patient,
        raw_connection(patient.url) as connection,
    ):
        tenant = await patient.add_tenant(slow.url)
        await connection.send(request_head("POST", "/v1/calls", *JSON, key_of(tenant)) + BODY + b"rubbish\r\n\r\n")
        async with asyncio.timeout(TIMEOUT_S):
            while not slow.posts:
                await asyncio.sleep(0.01)
        slow.released.set()
        assert (await connection.answer()).status == 201
        assert await connection.end() == b""
        assert len(slow.posts) == 1


async def test_requests_are_answered_after_their_client_has_ended_its_side(
    gateway: Gateway, tenant: Tenant, upstream: Upstream
) -> None:
    creation = request_head("POST", "/v1/calls", *JSON, key_of(tenant)) + BODY
    for sent, statuses in (
        (creation, [201]),
        (creation + request_head("GET", "/livez") + request_head("GET", "/v1/nothing"), [201, 200, 404]),
        (creation + b"GET /li", [201]),
        (creation[:-1], []),
        (b"", []),
    ):
        async with raw_connection(gateway.url) as connection:
            await connection.send(sent)
            connection.writer.write_eof()
            assert [(await connection.answer()).status for _ in statuses] == statuses
            assert await connection.end() == b""
    assert len(upstream.posts) == 3


async def test_a_request_that_is_not_read_yet_does_not_time_out(database_url: str) -> None:
    """While an earlier request is in progress, the server reads no more than the head of the next one."""
    settings = settings_for(database_url, body_timeout=0.1, twilio_read_timeout=30, request_budget=40)
    async with (
        running_upstream(created_after_release()) as slow,
        running_gateway(settings) as running,
        raw_connection(running.url) as connection,
    ):
        tenant = await running.add_tenant(slow.url)
        await connection.send(request_head("POST", "/v1/calls", *JSON, key_of(tenant)) + BODY)
        await slow.wait_for_post()
        await connection.send(request_head("POST", "/v1/nothing", *JSON, key_of(tenant)))
        await asyncio.sleep(1.5)  # longer than the time for a body, which has a margin of a second
        await connection.send(BODY)
        slow.released.set()
        assert [(await connection.answer()).status for _ in range(2)] == [201, 404]


async def test_a_limited_number_of_pipelined_requests_is_answered_in_order(gateway: Gateway) -> None:
    async with raw_connection(gateway.url) as connection:
        await connection.send(b"".join(request_head("GET", f"/v1/nothing/{number}") for number in range(10)))
        for number in range(10):
            assert (await connection.answer()).problem["instance"] == f"/v1/nothing/{number}"
        await connection.send(request_head("GET", "/livez") * 1_000)
        assert (await connection.end()).count(b"HTTP/1.1 200") < 100


async def test_waiting_connections_make_room_for_new_ones(database_url: str, upstream: Upstream) -> None:
    """Checks that silent, half-sent and idle connections are closed. A connection with a request in progress is not closed."""
    settings = settings_for(database_url, max_connections=20, max_in_flight=10)
    async with running_gateway(settings) as small, AsyncExitStack() as opened:
        tenant = await small.add_tenant(upstream.url)
        for number in range(60):
            connection = await opened.enter_async_context(raw_connection(small.url))
            await connection.send(
                [b"", b"GET", request_head("POST", "/v1/calls", *JSON) + b"{", request_head("GET", "/livez")][number % 4]
                or b"\r"
            )
        for _ in range(3):
            async with http_client(base_url=small.url, headers=tenant.http.headers) as fresh:
                assert (await fresh.post("/v1/calls", json=BASIC_CALL)).status_code == 201


async def test_a_connection_is_refused_while_all_others_are_busy(database_url: str) -> None:
    settings = settings_for(database_url, twilio_read_timeout=30, request_budget=40)
    settings = settings.model_copy(update={"max_connections": 10})  # too few for a real process, so that creations use up all
    async with (
        running_upstream(created_after_release()) as slow,
        running_gateway(settings) as small,
        AsyncExitStack() as opened,
    ):
        tenant = await small.add_tenant(slow.url)
        busy = [await opened.enter_async_context(raw_connection(small.url)) for _ in range(10)]
        for connection in busy:
            await connection.send(request_head("POST", "/v1/calls", *JSON, key_of(tenant)) + BODY)
        async with asyncio.timeout(TIMEOUT_S):
            while len(slow.posts) < 10:
                await asyncio.sleep(0.01)
        async with raw_connection(small.url) as one_more:
            await one_more.send(request_head("POST", "/v1/calls", *JSON, key_of(tenant)) + BODY)
            answer = await one_more.answer()
            assert (answer.status, answer.slug, answer.headers["retry-after"]) == (503, "too-many-connections", "1")
            assert await one_more.end() == b""
        slow.released.set()
        assert [(await connection.answer()).status for connection in busy] == [201] * 10
        async with raw_connection(small.url) as after:
            await after.send(request_head("GET", "/livez"))
            assert (await after.answer()).status == 200


async def test_connections_at_the_operations_port_are_counted_apart() -> None:
    """Clients that use up their connections must not make the probes of a busy process fail."""
    released = asyncio.Event()

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with served_with_operations(app, connections=3) as (url, operations), AsyncExitStack() as opened:

        async def connect(where: str, path: str) -> Connection:
            connection = await opened.enter_async_context(raw_connection(where))
            await connection.send(request_head("GET", path))
            return connection

        scraper = await connect(operations, "/metrics")
        assert (await scraper.answer()).status == 200
        busy = [await connect(url, "/wait") for _ in range(3)]
        assert (await (await connect(url, "/wait")).answer()).slug == "too-many-connections"
        assert (await (await connect(operations, "/livez")).answer()).status == 200
        await scraper.send(request_head("GET", "/metrics"))
        assert (await scraper.answer()).status == 200
        # They have a limit, too, and use up no connection of the clients.
        for _ in range(MAX_OPERATIONS_CONNECTIONS):
            assert (await (await connect(operations, "/livez")).answer()).status == 200
        assert await scraper.end() == b""
        released.set()
        assert [(await connection.answer()).status for connection in busy] == [200] * 3


@asynccontextmanager
async def served_with_operations(app: ASGIApp, *, connections: int) -> AsyncIterator[tuple[str, str]]:
    """Serves the app on two ports, and yields the URLs of the clients' port and of the operations port."""
    with ExitStack() as closing:
        listeners = [closing.enter_context(listener) for _ in range(2) for listener in open_listening_sockets("127.0.0.1", 0)]
        urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        limits = ServerLimits(connections, ops_port=listeners[1].getsockname()[1])
        async with running_server(server_config(app, limits, lifespan="off"), listeners):
            yield urls[0], urls[1]


async def test_requests_refused_by_the_protocol_are_counted(gateway: Gateway) -> None:
    async with raw_connection(gateway.url) as connection:
        await connection.send(b"rubbish\r\n\r\n")
        assert (await connection.answer()).status == 400
    async with raw_connection(gateway.url) as connection:
        chunked = request_head("POST", "/v1/calls", "Transfer-Encoding: chunked", "Expect: 100-continue")
        await connection.send(chunked + b"no size\r\n")
        assert (await connection.answer()).status == 400
    await asyncio.sleep(EXPOSITION_INTERVAL_S)
    async with http_client(base_url=gateway.url) as http:
        counted = (await http.get("/metrics")).text
    assert 'callgate_refused_total{slug="malformed-request"} 0.0' not in counted
    assert 'callgate_refused_total{slug="internal-error"} 0.0' in counted
