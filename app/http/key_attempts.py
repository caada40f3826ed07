"""Limits how many wrong API keys and tokens one client address may send.

Clients often share the address of a proxy. A key that this process has found valid before is therefore not subject to the
limit, even if many wrong keys come from the same address. All other keys are refused when the address has sent too many wrong
keys, so a flood of wrong keys does not reach the database.
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
_MAX_VALID_KEYS = 10_000
_IPV6_NETWORK_BITS = 64
_UNKNOWN_ADDRESS = "unknown"
# How many addresses of X-Forwarded-For are read: more than there are proxies on the way.
_MAX_FORWARDED_ADDRESSES = 32


class FailedAuthenticationLimiter:
    """Limits the wrong API keys and tokens that one client address may send, on average to `per_minute` in a minute.

    An address that has sent no wrong key for a minute may send `per_minute` of them at once. Remembers the last 10,000
    addresses that sent wrong keys, and the hashes of the last 10,000 keys that were valid.
    """

    def __init__(
        self,
        *,
        per_minute: int,
        proxies: Sequence[IPv4Network | IPv6Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_per_key = _MINUTE_S / per_minute
        self._trusted_proxies = proxies
        self._clock = clock
        # By address: the time at which its wrong keys are forgotten. Each wrong key adds `_seconds_per_key`.
        self._forgotten_at: OrderedDict[str, float] = OrderedDict()
        self._valid_keys: OrderedDict[bytes, None] = OrderedDict()

    def require_below_failure_limit(self, address: str, key_hash: bytes) -> None:
        """Raises TooManyAttempts if the address has sent too many wrong keys, unless the hash is that of a known valid key."""
        if key_hash in self._valid_keys:
            return
        forgotten_at = self._forgotten_at.get(address)
        if forgotten_at is None:
            return
        wait_s = forgotten_at + self._seconds_per_key - _MINUTE_S - self._clock()
        if wait_s > 0:
            raise TooManyAttempts(retry_after_s=ceil(wait_s))

    def record_wrong_key(self, address: str, key_hash: bytes) -> None:
        """Counts a wrong key for the client address. Removes the key's hash from the remembered hashes of valid keys."""
        self._valid_keys.pop(key_hash, None)
        now = self._clock()
        forgotten_at = max(self._forgotten_at.get(address, now), now) + self._seconds_per_key
        self._forgotten_at[address] = min(forgotten_at, now + _MINUTE_S)
        self._forgotten_at.move_to_end(address)
        if len(self._forgotten_at) > _MAX_ADDRESSES:
            self._forgotten_at.popitem(last=False)

    def record_valid_key(self, key_hash: bytes) -> None:
        """Remembers the hash of a valid key, so that this key is never refused because of wrong keys from the same address."""
        self._valid_keys[key_hash] = None
        self._valid_keys.move_to_end(key_hash)
        if len(self._valid_keys) > _MAX_VALID_KEYS:
            self._valid_keys.popitem(last=False)

    def rate_limit_address(self, scope: Scope) -> str:
        """Returns the client's IPv4 address, or the /64 network of its IPv6 address, because one client often has a whole /64.

        The client is the peer of the connection. If the peer is a trusted proxy, the client is the last address in
        `X-Forwarded-For` that is not a trusted proxy. Earlier addresses in this header are ignored, because a client can invent
        them.
        """
        hop = client = _parse_address(scope["client"][0]) if scope.get("client") else None
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        # The addresses are parsed one at a time, because a client can invent thousands.
        for _ in range(_MAX_FORWARDED_ADDRESSES):
            if not forwarded or not self._is_trusted_proxy(hop):
                break
            forwarded, _, text = forwarded.rpartition(",")
            hop = _parse_address(text)
            client = hop or client
        return _rate_limit_key(client)

    def _is_trusted_proxy(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted_proxies)


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Returns the IP address in the text, which may have a port; None if it is no address.

    Returns an IPv4-mapped IPv6 address (::ffff:192.0.2.1) as the IPv4 address.
    """
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


def _rate_limit_key(address: IPv4Address | IPv6Address | None) -> str:
    """Returns the IPv4 address, or the /64 network of an IPv6 address, as text. Returns "unknown" for None.

    FailedAuthenticationLimiter counts wrong keys by this text.
    """
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _IPV6_NETWORK_BITS), strict=False))
    return _UNKNOWN_ADDRESS if address is None else str(address)
