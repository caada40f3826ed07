"""Looks up the IP addresses of hosts. Connections to a host that begin within ten seconds share one look-up."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

_CACHE_TTL_S = 10.0
_MAX_HOSTS = 1000

Addresses = list[tuple[int, int, int, str, Any]]
"""The addresses of a host, in the format in which `socket.getaddrinfo` returns them."""


async def _get_addresses(host: str, port: int) -> Addresses:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


class NameLookup:
    """Looks up the IP addresses of host names, and caches them for `ttl_s` seconds (ten by default).

    Concurrent lookups of one name share a request. If it fails, the error is raised in each of them, and nothing is cached.
    """

    def __init__(
        self, get_addresses: Callable[[str, int], Awaitable[Addresses]] = _get_addresses, *, ttl_s: float = _CACHE_TTL_S
    ) -> None:
        self._get_addresses = get_addresses
        self._ttl_s = ttl_s
        self._look_ups: dict[tuple[str, int], tuple[float, asyncio.Future[Addresses]]] = {}

    async def look_up_addresses(self, host: str, port: int) -> Addresses:
        """Returns a host's addresses. Raises the errors of `socket.getaddrinfo`. A canceled caller does not end the look-up."""
        now = asyncio.get_running_loop().time()
        began, look_up = self._look_ups.get((host, port), (0.0, None))
        if look_up is None or (look_up.done() and (look_up.exception() is not None or now - began > self._ttl_s)):
            if len(self._look_ups) >= _MAX_HOSTS:
                self._look_ups.clear()
            look_up = asyncio.ensure_future(self._get_addresses(host, port))
            look_up.add_done_callback(_mark_exception_as_read)
            self._look_ups[host, port] = now, look_up
        return await asyncio.shield(look_up)


def _mark_exception_as_read(look_up: "asyncio.Future[Addresses]") -> None:
    """Marks a look-up's exception as read. Otherwise asyncio logs it when all callers that waited for it were canceled."""
    if not look_up.cancelled():
        look_up.exception()
