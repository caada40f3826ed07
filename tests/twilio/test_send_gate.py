"""Tests that a request that was not written before its deadline is never written, and that its error says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from app.clock import monotonic_seconds
from app.twilio.client import TwilioClient, make_http_client
from app.twilio.errors import TwilioNotSent, TwilioOutcomeUnknown
from app.twilio.schemas import Credential, Form
from tests.support.upstream import created, created_after_release, hang, running_upstream

ACCESS = Credential("AC" + "0" * 32, "user", SecretStr("password"))
SMALL = Form.from_parameters({"to": "sip:kate@example.com"})
LARGE = Form.from_parameters({"to": "sip:kate@example.com", "call_reason": "x" * 100_000})


@asynccontextmanager
async def running_client(url: str, *, max_connections: int = 10) -> AsyncIterator[TwilioClient]:
    http = make_http_client(
        connect_timeout=20,
        read_timeout=20,
        pool_timeout=20,
        max_connections=max_connections,
        user_agent="tests",
        keepalive=60,
    )
    async with http:
        yield TwilioClient(http, base_url=url)


@pytest.mark.parametrize("form", [SMALL, LARGE], ids=["small", "large"])
async def test_nothing_is_written_after_the_deadline_even_over_an_open_connection(form: Form) -> None:
    async with running_upstream(created()) as upstream, running_client(upstream.url) as client:
        assert await client.create_call(ACCESS, form, deadline_s=20, send_before=monotonic_seconds() + 20)
        with pytest.raises(TwilioNotSent, match="too_late"):
            await client.create_call(ACCESS, form, deadline_s=20, send_before=monotonic_seconds())
        assert await client.create_call(ACCESS, form, deadline_s=20, send_before=monotonic_seconds() + 20)
        assert len(upstream.posts) == 2


async def test_a_request_that_waited_too_long_for_its_connection_is_not_written() -> None:
    async with (
        running_upstream(created_after_release(), created()) as upstream,
        running_client(upstream.url, max_connections=1) as client,
    ):
        first = asyncio.create_task(client.create_call(ACCESS, SMALL, deadline_s=20))
        async with asyncio.timeout(60):
            await upstream.wait_for_post()
        asyncio.get_running_loop().call_later(0.5, upstream.released.set)
        with pytest.raises(TwilioNotSent, match="too_late"):
            await client.create_call(ACCESS, SMALL, deadline_s=20, send_before=monotonic_seconds() + 0.2)
        assert await first
        assert len(upstream.posts) == 1


async def test_a_deadline_before_the_first_write_proves_that_nothing_was_sent() -> None:
    """The client begins a TLS handshake with a server that does not speak TLS and never answers it."""
    async with running_upstream(created()) as upstream, running_client(upstream.url.replace("http:", "https:")) as client:
        with pytest.raises(TwilioNotSent, match="deadline"):
            await client.create_call(ACCESS, SMALL, deadline_s=0.3)


async def test_a_deadline_after_the_first_write_proves_nothing() -> None:
    async with running_upstream(created(), hang) as upstream, running_client(upstream.url) as client:
        # Over its connection, the next request is sent at once.
        assert await client.create_call(ACCESS, SMALL, deadline_s=20)
        with pytest.raises(TwilioOutcomeUnknown, match="deadline"):
            await client.create_call(ACCESS, SMALL, deadline_s=0.3)
        async with asyncio.timeout(60):
            while len(upstream.posts) < 2:
                await asyncio.sleep(0.01)


async def test_any_failure_before_the_first_write_proves_that_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP_PROXY has a value that is not a URL. aiohttp raises an error for it only when it sends a request."""
    monkeypatch.setenv("HTTP_PROXY", "http://[x")
    async with running_upstream(created()) as upstream, running_client("http://twilio.example") as client:
        with pytest.raises(TwilioNotSent):
            await client.create_call(ACCESS, SMALL, deadline_s=20)
        assert upstream.posts == []
