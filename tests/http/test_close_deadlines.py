"""Tests that no client can keep a connection open for ever by not reading what the server sends before it closes it."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.http.limits import ServerLimits
from app.http.listening import open_listening_sockets
from app.http.server import server_config
from tests.support.gateway import running_server
from tests.support.raw import TIMEOUT_S, raw_connection, request_head

# More than the buffers of both kernels take.
_LARGE = b"x" * 20_000_000
_PIECE = _LARGE[:16_384]


async def app(scope: Scope, _: Receive, send: Any) -> None:
    """Sends a large body at once. `/full-socket` and `/broken-off` stop when a piece of their body cannot be sent any more."""
    if scope["path"] == "/large":
        await _start(send, len(_LARGE))
        await send({"type": "http.response.body", "body": _LARGE})
        return
    await _start(send, None)
    while not send.__self__.transport.get_write_buffer_size():
        await send({"type": "http.response.body", "body": _PIECE, "more_body": True})
    if scope["path"] == "/full-socket":
        await send({"type": "http.response.body"})


async def _start(send: Send, length: int | None) -> None:
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


@asynccontextmanager
async def served(limits: ServerLimits) -> AsyncIterator[tuple[str, ServerState]]:
    with ExitStack() as closing:
        listeners = [closing.enter_context(listener) for listener in open_listening_sockets("127.0.0.1", 0)]
        async with running_server(server_config(app, limits, lifespan="off"), listeners) as server:
            yield f"http://127.0.0.1:{listeners[0].getsockname()[1]}", server.server_state


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S / 4):
        while not condition():
            await asyncio.sleep(0.01)


def has_unsent_bytes(state: ServerState) -> bool:
    return any(protocol.transport.get_write_buffer_size() for protocol in state.connections)


async def test_a_refused_client_that_reads_late_is_disconnected() -> None:
    async with served(ServerLimits()) as (url, state), raw_connection(url) as connection:
        await connection.send(request_head("GET", "/large"))
        await until(lambda: has_unsent_bytes(state))
        await connection.send(b"rubbish\r\n\r\n")
        await connection.end()
        await until(lambda: not state.connections)


async def test_a_connection_with_an_unread_response_makes_room_at_once() -> None:
    limits = ServerLimits(connections=1, write_timeout_s=600)
    async with served(limits) as (url, state), raw_connection(url) as unread:
        await unread.send(request_head("GET", "/large"))
        await until(lambda: has_unsent_bytes(state))
        async with raw_connection(url):
            await until(lambda: len(state.connections) == 1 and not has_unsent_bytes(state))


async def test_an_unread_response_is_dropped_when_no_further_request_begins() -> None:
    """Lines between requests end the wait for the next request and begin that for its head."""
    limits = ServerLimits(head_timeout_s=0.2, write_timeout_s=0.2)
    async with served(limits) as (url, state), raw_connection(url) as connection:
        await connection.send(request_head("GET", "/full-socket"))
        await until(lambda: has_unsent_bytes(state))
        await connection.send(b"\r\n")
        await until(lambda: not state.connections)


async def test_an_unread_response_is_dropped_when_the_client_ends_its_side() -> None:
    async with served(ServerLimits(write_timeout_s=0.2)) as (url, state), raw_connection(url) as connection:
        await connection.send(request_head("GET", "/full-socket"))
        await until(lambda: has_unsent_bytes(state))
        connection.writer.write_eof()
        await until(lambda: not state.connections)


async def test_an_unread_response_that_broke_off_is_dropped() -> None:
    async with served(ServerLimits(write_timeout_s=0.2)) as (url, state), raw_connection(url) as connection:
        await connection.send(request_head("GET", "/broken-off"))
        await until(lambda: not state.connections)


async def test_a_closed_connection_is_freed_without_the_cyclic_garbage_collector() -> None:
    async with served(ServerLimits()) as (url, state):
        gc.disable()
        try:
            async with raw_connection(url) as connection:
                await connection.send(request_head("GET", "/large"))
                await until(lambda: bool(state.connections))
                [protocol] = (weakref.ref(each) for each in state.connections)
            await until(lambda: protocol() is None)
        finally:
            gc.enable()
