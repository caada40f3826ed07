"""Listening sockets."""

import contextlib
import socket

from app.errors import CommandFailed

_BACKLOG = 2048


class CannotListen(CommandFailed):
    """Most often something else listens there."""


def listen(host: str, port: int, *, option: str = "--port") -> list[socket.socket]:
    """Listening sockets on every address that `host` stands for; `::` takes IPv4 as well. Raises CannotListen."""
    with contextlib.ExitStack() as unless_all_listen:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = []
            for family, kind, _, _, address in dict.fromkeys(found):
                listener = unless_all_listen.enter_context(socket.socket(family, kind))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # Only the wildcard is both; beside it, `localhost` has an IPv4 address of its own.
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
                listener.bind(address)
                listener.listen(_BACKLOG)
                sockets.append(listener)
        except OSError as error:
            raise CannotListen(f"cannot listen on {host}:{port} ({error.strerror}): choose another with {option}") from error
        unless_all_listen.pop_all()
    return sockets
