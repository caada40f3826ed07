"""Limits how many wrong API keys and tokens one address may send. A valid one is not affected once this process has seen it.

A key that is cached, or was valid before, is never refused here, however many wrong ones come from its address: clients often
share the address of a proxy. Only a key that this process does not know counts, and only if it is wrong. So the limit keeps
a flood of wrong keys from the database, and costs a request with a known key nothing.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from math import ceil

from starlette.datastructures import Headers
from starlette.types import Scope

from app.errors import TooManyAttempts

_MINUTE_S = 60.0
_MAX_ADDRESSES = 10_000
_MAX_KNOWN_KEYS = 10_000
_IPV6_NETWORK_BITS = 64
_UNKNOWN_ADDRESS = "unknown"


class KeyAttempts:
    """Counts wrong keys by address: at most `per_minute` at once, then as many in each minute.

    Remembers the 10,000 addresses with the latest wrong keys, and the 10,000 keys that were last found valid as their hashes.
    """

    def __init__(
        self,
        *,
        per_minute: int,
        proxies: Sequence[IPv4Network | IPv6Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share_s = _MINUTE_S / per_minute
        self._proxies = proxies
        self._clock = clock
        # By address, the time at which all its attempts are forgotten. Each one adds its share of a minute.
        self._forgotten_at: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def require(self, address: str, key_hash: bytes) -> None:
        """Raises TooManyAttempts if the address has no attempt left, unless the key is known to have been valid."""
        if key_hash in self._known:
            return
        forgotten_at = self._forgotten_at.get(address)
        if forgotten_at is None:
            return
        wait_s = forgotten_at + self._share_s - _MINUTE_S - self._clock()
        if wait_s > 0:
            raise TooManyAttempts(after_s=ceil(wait_s))

    def failed(self, address: str, key_hash: bytes) -> None:
        """Counts a wrong key."""
        self._known.pop(key_hash, None)
        now = self._clock()
        self._forgotten_at[address] = min(max(self._forgotten_at.get(address, now), now) + self._share_s, now + _MINUTE_S)
        self._forgotten_at.move_to_end(address)
        if len(self._forgotten_at) > _MAX_ADDRESSES:
            self._forgotten_at.popitem(last=False)

    def succeeded(self, key_hash: bytes) -> None:
        """Remembers a valid key by its hash."""
        self._known[key_hash] = None
        self._known.move_to_end(key_hash)
        if len(self._known) > _MAX_KNOWN_KEYS:
            self._known.popitem(last=False)

    def address_of(self, scope: Scope) -> str:
        """Returns the client's address: an IPv4 address, or the /64 network of an IPv6 address, which one client often has.

        It is the peer of the connection. If that is a trusted proxy, it is the last address in `X-Forwarded-For` that is no
        trusted proxy: clients can invent the ones before it.
        """
        peer = _parse(scope["client"][0]) if scope.get("client") else None
        hops = [peer]
        if self._is_proxy(peer):
            forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
            hops += [_parse(text) for text in reversed(forwarded)]
        client = peer
        for hop in hops:
            client = hop or client
            if not self._is_proxy(hop):
                break
        return _bucket(client)

    def _is_proxy(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._proxies)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Returns the address, which may have a port, or None. An IPv4 address that is written as IPv6 is one of IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _bucket(address: IPv4Address | IPv6Address | None) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _IPV6_NETWORK_BITS), strict=False))
    return _UNKNOWN_ADDRESS if address is None else str(address)
