"""Opens listening sockets."""

import contextlib
import socket

from app.errors import CommandFailed

_MAX_PENDING_CONNECTIONS = 2048


class CannotListen(CommandFailed):
    """A socket cannot listen on the host and port, usually because another process uses the port."""


def open_listening_sockets(host: str, port: int, *, option: str = "--port") -> list[socket.socket]:
    """Returns a listening socket for every address of `host`. The socket for `::` also accepts IPv4.

    Raises CannotListen if the host is unknown, or if one of the sockets cannot be opened.

    Each socket is created with its protocol number: asyncio sets TCP_NODELAY only on such sockets. Without TCP_NODELAY a
    response can take 40 ms longer.

    `option` is the command line option that the error message suggests for choosing another port.
    """
    with contextlib.ExitStack() as close_on_error:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = []
            for family, kind, protocol, _, address in dict.fromkeys(addresses):
                listener = close_on_error.enter_context(socket.socket(family, kind, protocol))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # The wildcard accepts IPv4 too. Other hosts, such as `localhost`, have an IPv4 address of their own.
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
                listener.bind(address)
                listener.listen(_MAX_PENDING_CONNECTIONS)
                sockets.append(listener)
        except OSError as error:
            raise CannotListen(f"cannot listen on {host}:{port} ({error.strerror}): choose another with {option}") from error
        close_on_error.pop_all()
    return sockets
