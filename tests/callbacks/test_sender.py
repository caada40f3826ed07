"""The sender of deliveries over real sockets: the addresses that it dials, its checks of TLS and answers, and its timeouts."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.deliveries.addresses import AllowList
from app.deliveries.lookups import MAX_LOOKUPS_PER_TENANT
from app.deliveries.sender import (
    KEEPALIVE_S,
    MAX_ANSWER_BYTES,
    MAX_BODY_READ_BYTES,
    MAX_CONNECTIONS_PER_HOST,
    DeliveryHttpClient,
    SendError,
    SendResult,
)

LOOPBACK = AllowList.parse("127.0.0.0/8, ::1")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)
    """The IP address that the sender dialled, for each connection."""
    open: int = 0
    max_open: int = 0


@asynccontextmanager
async def receiving(answer: Answer, *, host: str = "127.0.0.1", port: int = 0, **listen: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        receiver.dialled.append(writer.get_extra_info("sockname")[0])
        receiver.open += 1
        receiver.max_open = max(receiver.max_open, receiver.open)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].partition(b":")[2])) if length else b""
            receiver.requests.append(head + body)
            await answer(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # asyncio would log the end of a test as an error
        finally:
            receiver.open -= 1
            writer.close()

    server = await asyncio.start_server(serve, host, port, **listen)
    async with server:
        receiver.port = server.sockets[0].getsockname()[1]
        try:
            yield receiver
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


def reply(text: str) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        await writer.drain()

    return answer


NO_CONTENT = reply("HTTP/1.1 204 No Content\r\nSet-Cookie: a=b\r\n\r\n")


async def never_answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def send(sender: DeliveryHttpClient, url: str, body: bytes = b"a=b", *, tenant_id: str = "acme") -> SendResult:
    return await sender.send("POST", url, {"X-Mine": "1"}, body, tenant_id=tenant_id)


class FakeResolver:
    """A resolver of host names that returns the given answers one after another, and the last answer again and again."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


class SilentNameServer:
    """A resolver of host names that blocks until `answers` is set or the block ends, except for the names in `known`."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.answers = Event()
        self.unanswered: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.set()

    def __call__(self, host: str) -> Sequence[str]:
        if host not in self.known:
            self.unanswered.append(host)
            self.answers.wait()
        return ["127.0.0.1"]


async def test_the_request_arrives_as_it_was_signed() -> None:
    async with receiving(NO_CONTENT) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        url = f"http://127.0.0.1:{receiver.port}/a%7eb/%2F?x=%7e&y=+&z#rc=3"
        assert await send(sender, url) == SendResult(204, None)
        assert await sender.send("GET", url, {}, b"", tenant_id="acme") == SendResult(204, None)
    post, get = receiver.requests
    assert post.startswith(b"POST /a%7eb/%2F?x=%7e&y=+&z HTTP/1.1\r\n")
    assert post.endswith(b"\r\n\r\na=b")
    assert b"\r\nX-Mine: 1\r\n" in post
    assert b"\r\nUser-Agent: Callgate/" in post
    assert get.startswith(b"GET /a%7eb/%2F?x=%7e&y=+&z HTTP/1.1\r\n")
    assert b"content-length" not in get.lower()


async def test_only_the_checked_address_is_dialled_even_if_the_name_resolves_differently_later() -> None:
    """Covers DNS rebinding: a second lookup would return the address of another listener on the same port."""
    allowed = AllowList.parse("127.0.0.2/32")
    async with (
        receiving(reply("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"), host="127.0.0.2") as allowed_receiver,
        receiving(NO_CONTENT, host="127.0.0.1", port=allowed_receiver.port) as refused_receiver,
    ):
        names = FakeResolver(["127.0.0.2"], ["127.0.0.1"])
        async with DeliveryHttpClient(allowed, resolve=names) as sender:
            url = f"http://rebinding.example:{allowed_receiver.port}/"
            assert await send(sender, url) == SendResult(204, None)
            assert names.asked == ["rebinding.example"]
            assert allowed_receiver.dialled == ["127.0.0.2"]
            assert f"Host: rebinding.example:{allowed_receiver.port}".encode() in allowed_receiver.requests[0]
            assert await send(sender, url) == SendResult(None, "refused_address")
            assert names.asked == ["rebinding.example"] * 2
        assert refused_receiver.dialled == []


async def test_only_allowed_addresses_of_a_name_are_dialled() -> None:
    async with (
        receiving(NO_CONTENT, host="127.0.0.2") as allowed_receiver,
        receiving(NO_CONTENT, host="127.0.0.1", port=allowed_receiver.port) as refused_receiver,
    ):
        names = FakeResolver(["169.254.169.254", "127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"])
        async with DeliveryHttpClient(AllowList.parse("127.0.0.2"), resolve=names) as sender:
            assert await send(sender, f"http://several.example:{allowed_receiver.port}/") == SendResult(204, None)
        assert (allowed_receiver.dialled, refused_receiver.dialled) == (["127.0.0.2"], [])


async def test_an_allowed_suffix_permits_loopback_only_for_its_names() -> None:
    allowed = AllowList.parse(".svc.cluster.local")
    async with receiving(NO_CONTENT) as receiver, DeliveryHttpClient(allowed, resolve=FakeResolver(["127.0.0.1"])) as sender:
        assert await send(sender, f"http://hooks.svc.cluster.local:{receiver.port}/") == SendResult(204, None)
        assert await send(sender, f"http://hooks.example:{receiver.port}/") == SendResult(None, "refused_address")
    assert len(receiver.dialled) == 1


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:{port}/", "refused_address"),
        ("http://localhost:{port}/", "refused_address"),
        ("http://[::ffff:127.0.0.1]:{port}/", "refused_address"),
        ("http://2130706433:{port}/", "invalid_url"),
        ("http://127.1:{port}/", "invalid_url"),
        ("http://a@example.com:{port}/", "invalid_url"),
        ("ftp://example.com:{port}/", "invalid_url"),
        ("not a url", "invalid_url"),
    ],
)
async def test_an_invalid_url_is_refused_again_without_a_lookup_or_connection(url: str, error: str) -> None:
    """Checks the URL again, because the settings may have changed since the URL was accepted."""
    names = FakeResolver(["127.0.0.1"])
    async with receiving(NO_CONTENT) as receiver, DeliveryHttpClient(AllowList(), resolve=names) as sender:
        assert await send(sender, url.format(port=receiver.port)) == SendResult(None, error)  # type: ignore[arg-type]
    assert (receiver.dialled, names.asked) == ([], [])


async def test_addresses_of_the_system_resolver_are_checked_too() -> None:
    async with receiving(NO_CONTENT) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://localhost:{receiver.port}/") == SendResult(204, None)


@pytest.mark.parametrize("answer", [OSError("no such name"), []])
async def test_a_name_without_an_address_is_a_resolve_error(answer: OSError | list[str]) -> None:
    async with DeliveryHttpClient(LOOPBACK, resolve=FakeResolver(answer)) as sender:
        assert await send(sender, "http://nowhere.example/") == SendResult(None, "resolve")


async def test_a_silent_name_server_times_out() -> None:
    with SilentNameServer() as names:
        async with DeliveryHttpClient(LOOPBACK, resolve=names, connect_timeout_s=0.2) as sender:
            assert await send(sender, "http://silent.example/") == SendResult(None, "resolve")


async def test_lookups_that_hang_for_one_tenant_do_not_delay_those_of_another() -> None:
    closing = reply("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")  # so that each attempt has a lookup
    with SilentNameServer("well.example") as names:
        async with (
            asyncio.timeout(30),
            receiving(closing) as receiver,
            DeliveryHttpClient(LOOPBACK, resolve=names) as sender,
        ):
            url = f"http://well.example:{receiver.port}/"
            for attempt in range(200 // MAX_LOOKUPS_PER_TENANT):
                urls = [f"http://{attempt}-{number}.example:{receiver.port}/" for number in range(MAX_LOOKUPS_PER_TENANT)]
                given_up = [asyncio.create_task(send(sender, hanging)) for hanging in urls]
                # The other tenant's attempt begins last. When it has ended, the lookups of the earlier attempts run or wait.
                other = asyncio.create_task(send(sender, url, tenant_id="other"))
                assert await other == SendResult(204, None)
                while len(names.unanswered) < MAX_LOOKUPS_PER_TENANT:
                    await asyncio.sleep(0.01)
                for task in given_up:
                    task.cancel()
                await asyncio.gather(*given_up, return_exceptions=True)
            waiting = asyncio.create_task(send(sender, url))
            other = asyncio.create_task(send(sender, url, tenant_id="other"))
            assert await other == SendResult(204, None)
            assert len(names.unanswered) == MAX_LOOKUPS_PER_TENANT
            assert not waiting.done()
            names.answers.set()
            assert await waiting == SendResult(204, None)


async def test_a_closed_port_is_a_connect_error() -> None:
    async with receiving(NO_CONTENT) as receiver:
        pass
    async with DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(None, "connect")


@pytest.mark.parametrize("status", [200, 302, 400, 410, 429, 500, 503])
async def test_every_status_is_returned(status: int) -> None:
    async with (
        receiving(reply(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")) as receiver,
        DeliveryHttpClient(LOOPBACK) as sender,
    ):
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(status, None)
    assert len(receiver.requests) == 1


async def _answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers two requests on one connection and closes it."""
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(3)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def test_requests_that_follow_each_other_share_a_connection() -> None:
    async with receiving(_answer_twice) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        assert await send(sender, url) == (204, None)
        assert await send(sender, url) == (200, None)
    assert len(receiver.dialled) == 1


async def _close_on_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a request, waits for the next one on the connection, and closes it without an answer."""
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")


async def test_a_request_that_meets_a_closed_connection_is_sent_on_another() -> None:
    async with receiving(_close_on_second) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        assert await send(sender, url) == (204, None)
        assert await send(sender, url) == (204, None)
    assert len(receiver.dialled) == 2


@pytest.mark.parametrize(("later_address", "error"), [(None, "resolve"), ("10.0.0.1", "refused_address")])
async def test_a_request_that_broke_off_and_cannot_be_repeated_may_have_arrived(
    later_address: str | None, error: SendError
) -> None:
    addresses = iter(["127.0.0.1"])

    def resolve(_: str) -> Sequence[str]:
        address = next(addresses, later_address)
        if address is None:
            raise OSError
        return [address]

    async with receiving(_close_on_second) as receiver, DeliveryHttpClient(LOOPBACK, resolve=resolve) as sender:
        url = f"http://receiver.example:{receiver.port}/"
        assert await send(sender, url) == (204, None)
        assert await send(sender, url) == SendResult(None, "lost")
        assert await send(sender, url) == SendResult(None, error)


async def test_a_request_that_is_sent_again_must_end_within_the_time_of_the_attempt() -> None:
    """Each of the attempt's two requests takes less than its time, and both together take longer."""

    async def answer_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(receiver.dialled) == 1:
            await _close_on_second(reader, writer)
            await asyncio.sleep(0.8)
        else:
            await asyncio.sleep(0.8)
            await NO_CONTENT(reader, writer)

    async with receiving(answer_slowly) as receiver, DeliveryHttpClient(LOOPBACK, total_timeout_s=1.5) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        assert await send(sender, url) == (204, None)
        assert await send(sender, url) == SendResult(None, "timeout")


async def test_a_connection_is_not_kept_for_long() -> None:
    async with receiving(_answer_twice) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        assert await send(sender, url) == (204, None)
        await asyncio.sleep(KEEPALIVE_S * 1.5)
        assert await send(sender, url) == (204, None)
    assert len(receiver.dialled) == 2


async def test_redirects_are_not_followed() -> None:
    async with receiving(NO_CONTENT) as target:
        moved = f"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:{target.port}/\r\nContent-Length: 0\r\n\r\n"
        async with receiving(reply(moved)) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
            assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(307, None)
    assert target.dialled == []


async def test_no_cookie_is_stored_and_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(NO_CONTENT) as proxy, receiving(NO_CONTENT) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for _ in range(2):
            assert await send(sender, f"http://localhost:{receiver.port}/") == SendResult(204, None)
    assert proxy.dialled == []
    assert not any(b"cookie" in request.lower() for request in receiver.requests)


async def test_only_the_beginning_of_a_huge_answer_is_read() -> None:
    written = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with receiving(flood) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(200, None)
    assert MAX_BODY_READ_BYTES <= written < 32 * 2**20  # no more than fits into the buffers of the sockets


CONTINUE, NO_ANSWER = b"HTTP/1.1 100 \r\n\r\n", SendResult(None, "lost")


@dataclass
class Flood:
    """Writes `message` again and again until the sender closes the connection."""

    message: bytes
    written: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        piece = self.message * (1024 // len(self.message))
        try:
            while True:
                writer.write(piece)
                await writer.drain()
                self.written += len(piece)
                await asyncio.sleep(0)  # the sender reads each piece before the next one is written
        finally:
            self.closed.set()


@pytest.mark.parametrize("message", [CONTINUE, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
async def test_interim_answers_without_end_are_an_answer_that_is_lost(message: bytes) -> None:
    flood = Flood(message)
    async with receiving(flood) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == NO_ANSWER
        await flood.closed.wait()
    assert flood.written < 10 * MAX_ANSWER_BYTES
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("message", [CONTINUE, b"HTTP/1.1 204 X\r\n\r\n"])
async def test_a_flood_after_the_answer_ends_the_connection(message: bytes) -> None:
    flood, is_answered = Flood(message), asyncio.Event()

    async def answer_then_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await NO_CONTENT(reader, writer)
        await is_answered.wait()
        await flood(reader, writer)

    async with receiving(answer_then_flood) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(204, None)
        is_answered.set()
        await flood.closed.wait()
    assert flood.written < 10 * MAX_ANSWER_BYTES


async def test_a_request_that_meets_a_flood_on_a_kept_connection_is_not_sent_again() -> None:
    async def answer_then_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _close_on_second(reader, writer)
        await Flood(CONTINUE)(reader, writer)

    async with receiving(answer_then_flood) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        assert await send(sender, url) == SendResult(204, None)
        assert await send(sender, url) == NO_ANSWER
    assert len(receiver.dialled) == 1


async def test_each_answer_on_a_connection_may_be_long() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"Long: header\r\n" * 100 + b"\r\n"
    requests = 2 * MAX_ANSWER_BYTES // len(answer)

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(answer)
            await reader.readuntil(b"\r\n\r\na=b")

    async with receiving(answer_all) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        for _ in range(requests):
            assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(200, None)
    assert len(receiver.dialled) == 1


async def test_a_compressed_answer_is_not_decompressed() -> None:
    answer = reply("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
    async with receiving(answer) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(200, None)


async def test_an_answer_that_breaks_off_after_its_status_counts() -> None:
    answer = reply("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    async with receiving(answer) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(200, None)


@pytest.mark.parametrize(
    "answer", ["", "HTTP/1.1 20", "no HTTP at all\r\n\r\n", f"HTTP/1.1 200 OK\r\nA: {'b' * 100_000}\r\n\r\n"]
)
async def test_an_invalid_answer_counts_as_lost(answer: str) -> None:
    async with receiving(reply(answer)) as receiver, DeliveryHttpClient(LOOPBACK) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(None, "lost")


async def test_a_silent_receiver_times_out() -> None:
    async with receiving(never_answer) as receiver, DeliveryHttpClient(LOOPBACK, read_timeout_s=0.2) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(None, "timeout")


async def test_a_receiver_that_answers_byte_by_byte_times_out() -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"H")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with receiving(trickle) as receiver, DeliveryHttpClient(LOOPBACK, total_timeout_s=0.5) as sender:
        started = monotonic()
        error = await send(sender, f"http://127.0.0.1:{receiver.port}/")
        assert error.error in ("timeout", "lost")
        assert monotonic() - started < 10


async def test_an_endless_body_does_not_change_the_result() -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with receiving(trickle) as receiver, DeliveryHttpClient(LOOPBACK, total_timeout_s=0.5) as sender:
        assert await send(sender, f"http://127.0.0.1:{receiver.port}/") == SendResult(200, None)


async def test_a_receiver_that_hangs_uses_a_limited_number_of_connections() -> None:
    async with receiving(never_answer) as hanging, receiving(NO_CONTENT) as well, DeliveryHttpClient(LOOPBACK) as sender:
        stuck = [asyncio.create_task(send(sender, f"http://127.0.0.1:{hanging.port}/")) for _ in range(150)]
        while hanging.open < MAX_CONNECTIONS_PER_HOST:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(send(sender, f"http://127.0.0.1:{well.port}/") for _ in range(50)))
        assert answers == [SendResult(204, None)] * 50
        assert hanging.max_open == MAX_CONNECTIONS_PER_HOST
        assert well.max_open <= MAX_CONNECTIONS_PER_HOST
        for task in stuck:
            task.cancel()
        assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*stuck, return_exceptions=True))
        assert await send(sender, f"http://127.0.0.1:{well.port}/") == SendResult(204, None)


async def test_closing_aborts_requests_in_flight() -> None:
    async with receiving(never_answer) as receiver:
        async with DeliveryHttpClient(LOOPBACK) as sender:
            under_way = asyncio.create_task(send(sender, f"http://127.0.0.1:{receiver.port}/"))
            while not receiver.requests:
                await asyncio.sleep(0.01)
        assert await under_way == SendResult(None, "lost")


class Authority:
    """A certificate authority for one test, with the extensions that Python 3.13 requires."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = dict.fromkeys(signature(x509.KeyUsage).parameters, False) | {"key_cert_sign": True}
        constraints, may_sign = x509.BasicConstraints(ca=True, path_length=None), x509.KeyUsage(**usage)
        self._certificate = self._signed("Tests", self._key.public_key(), (constraints, True), (may_sign, True))

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self._certificate.public_bytes(serialization.Encoding.PEM).decode())

    def server(self, name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed("Server", key.public_key(), (x509.SubjectAlternativeName([x509.DNSName(name)]), False))
        no_password = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
        pem = self._folder / "server.pem"
        pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context

    def _signed(
        self, name: str, key: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        now, mine = datetime.now(UTC), self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(mine), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


async def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    names = FakeResolver(["127.0.0.1"])
    async with (
        receiving(NO_CONTENT, ssl=authority.server("hooks.example")) as receiver,
        DeliveryHttpClient(LOOPBACK, resolve=names, tls=authority.trusted()) as sender,
        DeliveryHttpClient(LOOPBACK, resolve=names) as intruder,
    ):
        assert await send(sender, f"https://hooks.example:{receiver.port}/") == SendResult(204, None)
        assert await send(sender, f"https://other.example:{receiver.port}/") == SendResult(None, "tls")
        assert await send(sender, f"https://127.0.0.1:{receiver.port}/") == SendResult(None, "tls")
        assert await send(intruder, f"https://hooks.example:{receiver.port}/") == SendResult(None, "tls")
    assert len(receiver.requests) == 1


async def test_nothing_is_sent_in_clear_to_a_receiver_without_tls() -> None:
    received_bytes = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received_bytes
        received_bytes += await reader.read(65536)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, DeliveryHttpClient(LOOPBACK) as sender:
        port = server.sockets[0].getsockname()[1]
        assert await send(sender, f"https://127.0.0.1:{port}/") == SendResult(None, "tls")
    assert received_bytes
    assert b"POST" not in received_bytes
