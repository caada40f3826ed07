"""Tests that a response which the client does not read takes little memory."""

import asyncio
import socket
from collections.abc import Set
from contextlib import ExitStack
from typing import Any

import pytest

from app.http.listening import open_listening_sockets
from app.http.server import server_config
from app.main import create_app
from tests.support.gateway import running_server, settings_for
from tests.support.raw import raw_connection, request_head

_MOST_UNSENT_BYTES = 150_000


@pytest.mark.parametrize("path", ["/redoc.standalone.js", "/openapi.json"])
async def test_a_large_response_waits_for_its_client_in_pieces(database_url: str, path: str) -> None:
    config = server_config(create_app(settings_for(database_url)))
    with ExitStack() as closing:
        listeners = [closing.enter_context(listener) for listener in open_listening_sockets("127.0.0.1", 0)]
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        url = f"http://127.0.0.1:{listeners[0].getsockname()[1]}"
        async with running_server(config, listeners) as server, raw_connection(url) as connection:
            connections: Set[Any] = server.server_state.connections
            await connection.send(request_head("GET", path) * 8)
            async with asyncio.timeout(15):
                while not any(protocol.flow.write_paused for protocol in connections):
                    await asyncio.sleep(0.01)
            [protocol] = connections
            assert protocol.transport.get_write_buffer_size() < _MOST_UNSENT_BYTES
            answers = [await connection.answer() for _ in range(8)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(answers[0].body) > 2 * _MOST_UNSENT_BYTES
