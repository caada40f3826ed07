"""Tests both transports over real sockets: limits, timeouts, TLS, proxies, and which errors prove that nothing was sent."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from pydantic import SecretStr

from app.twilio.client import TwilioClient, make_http_client
from app.twilio.direct_transport import DirectTransport
from app.twilio.errors import TwilioOutcomeUnknown
from app.twilio.schemas import Credential, Form
from app.twilio.transport import AiohttpTransport
from tests.support.certificates import write_self_signed_certificate
from tests.support.upstream import (
    Upstream,
    answer,
    close,
    created,
    created_after_release,
    dripping,
    half_an_answer,
    hang,
    refused_url,
    reset,
    running_upstream,
)

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
TIMEOUT = {"connect": 20, "read": 20, "write": 20, "pool": 20}
CALL = b'{"sid": "CA%032d"}' % 0
MORE_THAN_SOCKET_BUFFERS = 32 * 1024 * 1024
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PROXY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)


RunningTransport = Callable[..., AbstractAsyncContextManager[httpx.AsyncBaseTransport]]


@pytest.fixture(params=[AiohttpTransport, DirectTransport])
def running_transport(request: pytest.FixtureRequest) -> RunningTransport:
    """Returns a function that runs a transport. Each test runs with AiohttpTransport and with DirectTransport."""

    @asynccontextmanager
    async def run(*, max_connections: int = 10, keepalive_s: float = 2) -> AsyncIterator[httpx.AsyncBaseTransport]:
        transport = request.param(max_connections=max_connections, keepalive_s=keepalive_s)
        try:
            yield transport
        finally:
            await transport.aclose()

    return run


def request(method: str, url: str, content: Any = None, **timeouts: float) -> httpx.Request:
    return httpx.Request(method, url, content=content, extensions={"timeout": TIMEOUT | timeouts})


async def status_of(transport: httpx.AsyncBaseTransport, method: str, url: str, content: Any = None, **timeouts: float) -> int:
    response = await transport.handle_async_request(request(method, url, content, **timeouts))
    await response.aread()
    await response.aclose()
    return response.status_code


@asynccontextmanager
async def serving(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """Yields the URL of a server whose connections `handler` handles, for example by breaking HTTP."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # for the sockets to be closed


async def arrived(upstream: Upstream, number: int) -> None:
    async with asyncio.timeout(60):
        while len(upstream.received) < number:
            await asyncio.sleep(0.01)


async def test_no_free_connection_in_time_is_a_pool_timeout_and_sends_nothing(running_transport: RunningTransport) -> None:
    async with running_upstream(created_after_release()) as upstream, running_transport(max_connections=1) as transport:
        first = asyncio.create_task(status_of(transport, "POST", upstream.url, b"a=1"))
        await arrived(upstream, 1)
        with pytest.raises(httpx.PoolTimeout):
            await transport.handle_async_request(request("POST", upstream.url, b"a=2", pool=0.1))
        upstream.released.set()
        assert await first == 201
        assert await status_of(transport, "POST", upstream.url, b"a=3") == 201
        assert [post.form for post in upstream.posts] == [[("a", "1")], [("a", "3")]]


async def test_every_end_of_a_request_releases_its_connection(running_transport: RunningTransport) -> None:
    script = (close, reset, half_an_answer, hang, answer(201, body=b"x" * 500_000), created())
    async with running_upstream(*script) as upstream, running_transport(max_connections=1) as transport:
        with pytest.raises(NOT_SENT):
            await status_of(transport, "POST", refused_url())
        for _ in range(3):
            with pytest.raises(httpx.TransportError):
                await status_of(transport, "POST", upstream.url, b"a=1")
        cancelled = asyncio.create_task(status_of(transport, "POST", upstream.url, b"a=1"))
        await arrived(upstream, 4)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        unread = await transport.handle_async_request(request("POST", upstream.url, b"a=1"))
        await unread.aclose()
        assert await status_of(transport, "POST", upstream.url, b"a=1") == 201


async def test_an_answer_that_arrived_with_its_head_holds_no_connection(running_transport: RunningTransport) -> None:
    async with running_upstream(created(), created()) as upstream, running_transport(max_connections=1) as transport:
        first = await transport.handle_async_request(request("POST", upstream.url, b"a=1"))
        assert await status_of(transport, "POST", upstream.url, b"a=2") == 201
        assert b"sid" in await first.aread()
        assert len(upstream.connections) == 1
        await first.aclose()


@pytest.mark.parametrize("encoding", ["identity", "gzip", None])
async def test_an_answer_is_read_up_to_its_limit_however_it_is_encoded(encoding: str | None) -> None:
    http = make_http_client(connect_timeout=20, read_timeout=20, pool_timeout=20, max_connections=1, user_agent="tests")
    headers = {"Content-Encoding": encoding} if encoding else {}
    bodies = (body if encoding != "gzip" else gzip.compress(body) for body in (CALL, b" " * 2**20 + CALL))
    async with running_upstream(*(answer(201, body=body, headers=headers) for body in bodies)) as upstream:
        client = TwilioClient(http, base_url=upstream.url)
        access = Credential("AC" + "0" * 32, "user", SecretStr("password"))
        assert (await client.create_call(access, Form.from_parameters({"to": "Zoë"}), deadline_s=20)).sid == "CA" + "0" * 32
        with pytest.raises(TwilioOutcomeUnknown, match="answer_too_long"):
            await client.create_call(access, Form.from_parameters({"to": "Zoë"}), deadline_s=20)
        assert upstream.posts[0].form == [("To", "Zoë")]
        await http.aclose()


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_no_method_is_repeated_if_a_kept_connection_is_lost(running_transport: RunningTransport, method: str) -> None:
    async with running_upstream(created(), close, created()) as upstream, running_transport() as transport:
        assert await status_of(transport, method, upstream.url) == 201
        with pytest.raises(httpx.RemoteProtocolError):
            await status_of(transport, method, upstream.url)
        assert len(upstream.received) == 2


async def test_redirects_and_cookies_are_ignored(running_transport: RunningTransport) -> None:
    redirect = answer(307, body=b"", headers={"Location": "/elsewhere", "Set-Cookie": "a=b; Path=/"})
    async with running_upstream(redirect, created()) as upstream, running_transport() as transport:
        assert await status_of(transport, "POST", upstream.url) == 307
        assert await status_of(transport, "POST", upstream.url) == 201
        assert [received.path for received in upstream.received] == ["/", "/"]
        assert "cookie" not in upstream.received[-1].headers


async def test_the_request_is_sent_as_httpx_built_it(running_transport: RunningTransport) -> None:
    async with running_upstream(created()) as upstream, running_transport() as transport:
        assert await status_of(transport, "GET", f"{upstream.url}/a%20b/%2F?StartTime%3E=2026-01-01&To=%2B1") == 201
        (received,) = upstream.received
        assert received.path == "/a%20b/%2F?StartTime%3E=2026-01-01&To=%2B1"
        assert set(received.headers) <= {"host", "connection"}


async def test_bodies_stream_in_both_directions(running_transport: RunningTransport) -> None:
    arrived = bytearray()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Transfer-Encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
        while size := int(await reader.readline(), 16):
            piece = await reader.readexactly(size)
            await reader.readline()
            if not arrived:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            arrived.extend(piece)
            writer.write(b"%x\r\n%b\r\n" % (size, piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def pieces() -> AsyncIterator[bytes]:
        for letter in (b"a", b"b", b"c"):
            yield letter * 1000

    async with serving(echo) as url, running_transport() as transport:
        response = await transport.handle_async_request(request("POST", url, pieces()))
        assert await response.aread() == b"a" * 1000 + b"b" * 1000 + b"c" * 1000 == bytes(arrived)
        await response.aclose()


async def test_a_server_that_does_not_read_causes_a_write_timeout(running_transport: RunningTransport) -> None:
    release = asyncio.Event()

    async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()

    async with serving(never_read) as url, running_transport() as transport:
        with pytest.raises(httpx.WriteTimeout):
            await transport.handle_async_request(request("POST", url, b"x" * MORE_THAN_SOCKET_BUFFERS, write=0.5))
        release.set()


@pytest.mark.parametrize("then_reset", [False, True])
async def test_an_answer_before_the_body_was_read_never_counts_as_not_sent(
    running_transport: RunningTransport, then_reset: bool
) -> None:
    release = asyncio.Event()

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        if then_reset:
            writer.transport.abort()
        await release.wait()

    async with serving(answer_early) as url, running_transport() as transport:
        sending = asyncio.create_task(status_of(transport, "POST", url, b"x" * MORE_THAN_SOCKET_BUFFERS))
        await asyncio.wait([sending])
        assert not isinstance(sending.exception(), NOT_SENT)
        assert sending.exception() or sending.result() == 413
        release.set()


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "http:///path", "http://127.0.0.1:0/", "http://a..b/", "http://\u00e9\u00e9.invalid/"]
)
async def test_a_request_to_an_invalid_url_is_not_sent(running_transport: RunningTransport, url: str) -> None:
    async with running_transport() as transport:
        with pytest.raises(NOT_SENT):
            await status_of(transport, "POST", url, b"a=1")


async def test_an_endless_slow_answer_ends_at_the_deadline() -> None:
    http = make_http_client(
        connect_timeout=20, read_timeout=20, pool_timeout=20, max_connections=1, user_agent="tests", keepalive=60
    )
    access = Credential("AC" + "0" * 32, "user", SecretStr("password"))
    form = Form.from_parameters({"to": "sip:kate@example.com"})
    async with running_upstream(created(), dripping, created()) as upstream:
        client = TwilioClient(http, base_url=upstream.url)
        # Over its connection, the next request is sent at once.
        assert await client.create_call(access, form, deadline_s=20)
        with pytest.raises(TwilioOutcomeUnknown, match="deadline"):
            await client.create_call(access, form, deadline_s=0.3)
        assert await client.create_call(access, form, deadline_s=20)
        await http.aclose()


def test_everything_works_under_uvloop(running_transport: RunningTransport) -> None:
    async def scenario() -> None:
        async with running_upstream(created(), close, hang) as upstream, running_transport() as transport:
            assert await status_of(transport, "POST", upstream.url, b"a=1") == 201
            with pytest.raises(httpx.RemoteProtocolError):
                await status_of(transport, "POST", upstream.url, b"a=1")
            with pytest.raises(httpx.ReadTimeout):
                await status_of(transport, "POST", upstream.url, b"a=1", read=0.5)
            with pytest.raises(httpx.ConnectError):
                await status_of(transport, "POST", refused_url(), b"a=1")
            with pytest.raises(httpx.ConnectTimeout):  # the server without TLS waits for the rest of a handshake
                await status_of(transport, "POST", upstream.url.replace("http:", "https:"), b"a=1", connect=0.5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_self_signed_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def running_tls_upstream(certificate: Path, *script: Any) -> AsyncIterator[Upstream]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with running_upstream(*script, tls=tls) as upstream:
        yield upstream


async def test_nothing_is_sent_to_a_server_with_an_untrusted_certificate(
    running_transport: RunningTransport, certificate: Path
) -> None:
    async with running_tls_upstream(certificate, created()) as upstream, running_transport() as transport:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await status_of(transport, "POST", upstream.url, b"a=1")
        assert upstream.received == []


async def test_nothing_is_sent_to_a_server_with_a_certificate_for_another_name(
    running_transport: RunningTransport, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with running_tls_upstream(certificate, created()) as upstream, running_transport() as transport:
        with pytest.raises(httpx.ConnectError):
            await status_of(transport, "POST", upstream.url.replace("127.0.0.1", "localhost"), b"a=1")
        assert upstream.received == []


async def test_tls_with_a_valid_certificate_keeps_its_connection_and_reports_losses(
    running_transport: RunningTransport, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    script = (created(), created(), close, half_an_answer)
    async with running_tls_upstream(certificate, *script) as upstream, running_transport() as transport:
        assert await status_of(transport, "POST", upstream.url, b"a=1") == 201
        assert await status_of(transport, "POST", upstream.url, b"a=1") == 201
        assert len(upstream.connections) == 1
        for _ in range(2):
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await status_of(transport, "POST", upstream.url, b"a=1")


def proxied(url: str) -> str:
    """Returns the URL of a server on this machine with a host that is no loopback address, so that proxies apply to it."""
    return url.replace("127.0.0.1", "0.0.0.0")  # Linux connects it to this machine


@asynccontextmanager
async def running_proxy(answer_to_connect: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Yields a proxy's URL and the request lines that it receives. `answer_to_connect` is its answer to CONNECT."""
    lines: list[str] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines.append(head.split("\r\n")[0] + "".join(" +auth" for line in head.split("\r\n") if line == AUTHORIZED))
        writer.write(answer_to_connect)
        if b" 200 " in answer_to_connect:
            host, port = head.split(" ")[1].split(":")
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))
        writer.close()

    async with serving(handle) as url:
        yield url.replace("//", "//user:secret@"), lines


AUTHORIZED = "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ="
OPENED = b"HTTP/1.1 200 Opened\r\n\r\n"
REFUSED = b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n"


async def test_https_goes_through_the_proxy_of_the_environment(
    running_transport: RunningTransport, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with running_tls_upstream(certificate, created()) as upstream, running_proxy(OPENED) as (proxy, lines):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        url = proxied(upstream.url)
        async with running_transport() as transport:
            assert await status_of(transport, "POST", url, b"a=1") == 201
            assert await status_of(transport, "POST", url, b"a=1") == 201
        assert lines == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1 +auth"]


async def test_nothing_is_sent_if_the_tunnel_is_refused(
    running_transport: RunningTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_proxy(REFUSED) as (proxy, lines):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        async with running_transport() as transport:
            with pytest.raises(httpx.ProxyError):
                await status_of(transport, "POST", "https://twilio.invalid/", b"a=1")
        assert lines == ["CONNECT twilio.invalid:443 HTTP/1.1 +auth"]


@pytest.mark.parametrize("hosts", ["0.0.0.0", "example.com, 0.0.0.0", "*"])
async def test_the_variable_no_proxy_is_respected(
    running_transport: RunningTransport, hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", refused_url())
    monkeypatch.setenv("NO_PROXY", hosts)
    async with running_upstream(created()) as upstream, running_transport() as transport:
        assert await status_of(transport, "POST", proxied(upstream.url), b"a=1") == 201


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_server_on_this_machine_gets_its_requests_without_a_proxy(
    running_transport: RunningTransport, variable: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, refused_url())
    async with running_upstream(created()) as upstream, running_transport() as transport:
        assert await status_of(transport, "POST", upstream.url.replace("127.0.0.1", host), b"a=1") == 201


async def test_nothing_is_sent_if_the_proxy_cannot_be_reached(
    running_transport: RunningTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", refused_url())
    async with running_upstream(created()) as upstream, running_transport() as transport:
        with pytest.raises(NOT_SENT):
            await status_of(transport, "POST", proxied(upstream.url), b"a=1")
        assert upstream.received == []


async def test_nothing_is_sent_if_the_proxy_closes_the_connection_during_the_handshake(
    running_transport: RunningTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_proxy(b"") as (proxy, lines):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        async with running_transport() as transport:
            with pytest.raises(httpx.ConnectError):
                await status_of(transport, "POST", "https://twilio.invalid/", b"a=1")
        assert len(lines) == 1
