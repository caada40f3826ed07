"""Tests that a server listens on every address of its host name, and that `::` includes IPv4."""

import asyncio
import socket
from contextlib import ExitStack

import pytest

from app.http.listening import CannotListen, open_listening_sockets
from tests.cli.running import free_port


def reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "ipv4", "ipv6"), [("::", True, True), ("0.0.0.0", True, False), ("::1", False, True), ("127.0.0.1", True, False)]
)
def test_a_server_listens_on_the_addresses_of_its_host(host: str, *, ipv4: bool, ipv6: bool) -> None:
    port = free_port()
    with ExitStack() as held:
        for listener in open_listening_sockets(host, port):
            held.enter_context(listener)
        assert (reachable("127.0.0.1", port), reachable("::1", port)) == (ipv4, ipv6)


async def test_answers_are_sent_at_once_under_the_loop_of_asyncio() -> None:
    """Checks for TCP_NODELAY. Without it, the second part of a response waits up to 40 ms for an acknowledgement."""
    accepted = asyncio.get_running_loop().create_future()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer)

    (listener,) = open_listening_sockets("127.0.0.1", 0)
    async with await asyncio.start_server(accept, sock=listener):
        _, client = await asyncio.open_connection(*listener.getsockname())
        connection = (await accepted).get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()
        (await accepted).close()


def test_localhost_listens_on_all_its_addresses() -> None:
    port = free_port()
    families = {found[0] for found in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    with ExitStack() as held:
        listeners = [held.enter_context(listener) for listener in open_listening_sockets("localhost", port)]
        assert {listener.family for listener in listeners} == families
        assert reachable("localhost", port)


def test_a_port_in_use_is_reported_with_the_option_to_change() -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        with pytest.raises(CannotListen, match="choose another with --ops-port"):
            open_listening_sockets("::", taker.getsockname()[1], option="--ops-port")
