"""Answers are streamed while they arrive, up to a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from app.twilio.forwarding import MAX_JSON_BYTES, MAX_MEDIA_BYTES, MAX_STREAMED_JSON_BYTES
from tests.support.gateway import LONG_TIMEOUTS, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Behaviour, Upstream, answer, call_resource, running_upstream

RECORDING = "RE" + "1" * 32


@dataclass
class Call:
    tenant: Tenant
    id: str
    sid: str
    upstream: Upstream

    @property
    def list_path(self) -> str:
        return f"/2010-04-01/Accounts/{self.tenant.account_sid}/Calls/{self.sid}/Recordings.json"

    @property
    def media_path(self) -> str:
        return f"/v1/calls/{self.id}/recordings/{RECORDING}/media"


@asynccontextmanager
async def call_with(gateway: Gateway, *script: Behaviour) -> AsyncIterator[Call]:
    resource = call_resource()
    async with running_upstream(answer(201, resource), *script) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        yield Call(tenant, record["id"], record["sid"], upstream)


def in_pieces(*pieces: bytes, declared: int | None = None, ends: bool = True) -> Behaviour:
    """Returns a behaviour that sends the first piece at once, and all further pieces when the test sets `released`.

    The body is chunked unless `declared` gives its length. Without `ends`, the connection is closed before the end of the body.
    """

    async def behave(upstream: Upstream, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = "Transfer-Encoding: chunked" if declared is None else f"Content-Length: {declared}"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode())
        for number, piece in enumerate(pieces):
            if number:
                await upstream.released.wait()
            writer.write(piece if declared is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if not ends:
            raise ConnectionError
        if declared is None:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return behave


async def test_a_list_is_streamed_before_it_has_arrived_completely(gateway: Gateway) -> None:
    async with (
        call_with(gateway, in_pieces(b'{"recordings": ', b"[]}")) as call,
        call.tenant.http.stream("GET", call.list_path) as response,
    ):
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b'{"recordings": '
        call.upstream.released.set()
        assert b"".join([piece async for piece in pieces]) == b"[]}"


async def test_media_are_streamed_before_they_have_arrived_completely(gateway: Gateway) -> None:
    recording = answer(200, {"sid": RECORDING})
    async with (
        call_with(gateway, recording, in_pieces(b"ID3", b"sound", declared=8)) as call,
        call.tenant.http.stream("GET", call.media_path) as response,
    ):
        assert response.headers["content-length"] == "8"
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"ID3"
        call.upstream.released.set()
        assert b"".join([piece async for piece in pieces]) == b"sound"


@pytest.mark.parametrize("ends", [True, False], ids=["too long", "broken off"])
async def test_an_incomplete_answer_is_truncated_and_never_looks_complete(gateway: Gateway, ends: bool) -> None:
    pieces = [b"x" * 2**20] * (MAX_STREAMED_JSON_BYTES // 2**20 + 1) if ends else [b'{"recordings": [']
    async with call_with(gateway, in_pieces(*pieces, ends=ends)) as call:
        call.upstream.released.set()
        async with call.tenant.http.stream("GET", call.list_path) as response:
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in response.aiter_bytes():
                    pass


async def test_a_list_that_is_too_long_is_refused_under_v1(gateway: Gateway) -> None:
    async with call_with(gateway, in_pieces(b"x" * (MAX_JSON_BYTES + 1))) as call:
        response = await call.tenant.http.get(f"/v1/calls/{call.id}/recordings")
        (fault,) = response.json()["errors"]
        assert (response.status_code, fault["pointer"], fault["code"]) == (422, "?page_size", "page_too_long")


async def test_child_legs_that_are_too_long_are_refused_in_twilios_format(gateway: Gateway) -> None:
    async with call_with(gateway, in_pieces(b"x" * (MAX_JSON_BYTES + 1))) as call:
        path = f"/2010-04-01/Accounts/{call.tenant.account_sid}/Calls.json"
        response = await call.tenant.http.get(path, params={"ParentCallSid": call.sid})
        assert (response.status_code, response.json()["code"]) == (400, 20007)
        assert response.json()["message"].startswith("PageSize: must be smaller")


async def test_media_longer_than_any_recording_are_refused_before_the_first_byte(gateway: Gateway) -> None:
    recording = answer(200, {"sid": RECORDING})
    async with call_with(gateway, recording, in_pieces(b"ID3", declared=MAX_MEDIA_BYTES + 1)) as call:
        response = await call.tenant.http.get(call.media_path)
        assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:upstream-unreachable")


async def test_a_tenants_slow_downloads_leave_connections_for_others(database_url: str) -> None:
    sid, others_sid = "CA" + "3" * 32, "CA" + "4" * 32
    download = in_pieces(b'{"recordings": ', b"[]}")
    async with (
        running_upstream(answer(201, call_resource(sid)), download) as slow_upstream,
        running_upstream(answer(201, call_resource(others_sid)), answer(200, {"sid": RECORDING})) as upstream,
        running_gateway(settings_for(database_url, max_in_flight=4, **LONG_TIMEOUTS)) as small,
    ):
        slow, other = await small.add_tenant(slow_upstream.url), await small.add_tenant(upstream.url)
        await slow.create()
        await other.create()
        twilios = f"/2010-04-01/Accounts/{slow.account_sid}"
        async with slow.http.stream("GET", f"{twilios}/Calls/{sid}/Recordings.json") as response:
            pieces = response.aiter_bytes()
            await anext(pieces)
            waiting = [
                slow.http.get(f"{twilios}/Calls/{sid}/Recordings.json"),
                slow.http.get(f"{twilios}/Recordings/{RECORDING}.mp3"),
                slow.http.post(f"{twilios}/Calls/{sid}/Recordings.json"),
                *(slow.http.get(f"/v1/calls/{sid}/recordings{rest}") for rest in ("", f"/{RECORDING}", f"/{RECORDING}/media")),
            ]
            refused = asyncio.gather(*waiting)
            assert (await other.http.get(f"/v1/calls/{others_sid}/recordings/{RECORDING}")).status_code == 200
            for each in await refused:
                assert (each.status_code, each.headers["Retry-After"]) == (503, "1")
            assert (await refused)[-1].json()["type"] == "urn:callgate:problem:overloaded"
            assert len(slow_upstream.received) == 2
            assert "call.recording" not in [event["type"] for event in await slow.events(sid)]
            slow_upstream.released.set()
            assert b"".join([piece async for piece in pieces]) == b"[]}"
        assert (await slow.http.get(f"/v1/calls/{sid}/recordings")).json() == {"recordings": []}


async def test_a_client_that_disconnects_frees_the_connection_to_twilio(gateway: Gateway) -> None:
    """Clients that have disconnected must not use up the connections to Twilio."""
    gone = asyncio.Event()

    async def endless(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 4000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"s" * 65536)
                await writer.drain()
        finally:
            gone.set()

    async with call_with(gateway, answer(200, {"sid": RECORDING}), endless) as call:
        async with call.tenant.http.stream("GET", call.media_path) as response:
            assert await anext(response.aiter_bytes())
        async with asyncio.timeout(60):  # on a busy machine the sockets' buffers take seconds to drain
            await gone.wait()
