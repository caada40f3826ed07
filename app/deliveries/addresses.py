"""Validates the URLs of deliveries, and the addresses to which they resolve.

A tenant chooses a URL, and Callgate connects to it from inside the operator's network. So private addresses need the operator's
permission (CALLGATE_DELIVERY_ALLOW), and reserved and metadata addresses are always refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, Self

from app.setting_values import parse_delivery_allow

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_LENGTH: Final = 2048
"""The limit for a URL that a tenant sets. A GET adds the fields of the event, so the URL that is requested may be longer."""

# From IANA's registries of special-purpose addresses: link-local, and ranges that no receiver can use.
_RESERVED_V4 = ["0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"]
_RESERVED_V4 += ["198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"]
_RESERVED_V6 = ["2001::/23", "2001:db8::/32", "3fff::/20"]
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")  # all that IANA has allocated; Teredo, 2001::/32, is reserved above
# Metadata services of Azure, Alibaba, Amazon, Google, Scaleway, in addition to 169.254.169.254.
_CLOUD_METADATA_ADDRESSES = ["168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42"]
_ALWAYS_REFUSED_NETWORKS: Final = [ip_network(network) for network in _RESERVED_V4 + _RESERVED_V6 + _CLOUD_METADATA_ADDRESSES]
# Loopback, RFC 1918, RFC 6598, RFC 4193: normal for receivers in the same cluster, but a way into the network for others.
_PRIVATE_RANGES = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1", "fc00::/7"]
_PRIVATE_NETWORKS: Final = [ip_network(network) for network in _PRIVATE_RANGES]
_LOOPBACK: Final = IPv4Address("127.0.0.1")
_NAT64: Final = IPv6Network("64:ff9b::/96")

# The URLs of RFC 3986 without parts that parsers read differently: userinfo, backslashes, control characters, non-ASCII.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>(?:/[!$&-;=@-Z_a-z~%]*)?(?:\?[!$&-;=?-Z_a-z~%]*)?(?:\#[!-~]*)?)",
    re.IGNORECASE | re.ASCII,
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UrlError(NamedTuple):
    """The reason why a URL is refused. `code` never changes, so that programs can use it.

    `detail` says how to fix the URL, and contains no part of the URL.
    """

    code: str
    detail: str


class DeliveryTarget(NamedTuple):
    """The destination of a connection. `host` is lower case; an IPv6 address has no brackets."""

    scheme: str
    host: str
    port: int
    address: Address | None
    """The host, if it is an address; None for a name, which has to be resolved."""


@dataclass(frozen=True, slots=True)
class AllowList:
    """The private and loopback destinations that the operator allows. Reserved ranges are refused even if they are listed."""

    networks: Sequence[Network] = ()
    hosts: Sequence[str] = ()
    """Host names. An entry that begins with a dot, such as `.example.com`, stands for all names below that domain."""

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Parses a comma-separated list of networks and host names. For None, returns an empty AllowList.

        Raises ValueError if an entry is neither a network nor a host name.
        """
        return cls(*parse_delivery_allow(text or ""))

    def includes_host(self, host: str) -> bool:
        """Returns whether an entry of `hosts` is `host`, or is a domain that contains the host.

        A domain begins with a dot: `.example.com` contains `a.example.com`.
        """
        return any(host.endswith(entry) if entry.startswith(".") else host == entry for entry in self.hosts)

    def includes_address(self, address: Address) -> bool:
        """Returns whether one of the list's networks contains the address."""
        return any(address in network for network in self.networks)


def parse_delivery_url(url: str, allowed: AllowList, *, max_length: int | None = MAX_URL_LENGTH) -> DeliveryTarget | UrlError:
    """Returns the destination of a delivery's URL, or the reason why the URL is refused.

    `max_length` is the longest URL that is accepted, in characters; None: any length. This function resolves no host name.
    `is_address_allowed` checks the addresses of a resolved name.
    """
    match = _URL.fullmatch(url)
    if max_length is not None and len(url) > max_length:
        return UrlError("url_too_long", f"Use at most {max_length} characters.")
    if match is None or not url.isascii() or _BAD_ESCAPE.search(match["rest"]):
        return _explain_invalid_url(url)
    authority = match["authority"]
    if "@" in authority:
        return UrlError("url_credentials", "Leave out the user and password: deliveries are signed, and URLs end up in logs.")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return UrlError("url_host", "Check the host: an IPv6 address is written in brackets, as in http://[2001:db8::1]/.")
    scheme, host = match["scheme"].lower(), parts["host"].lower()
    port = int(parts["port"] or (443 if scheme == "https" else 80)) if len(parts["port"] or "") <= 5 else 0
    if not 1 <= port <= 65535:
        return UrlError("url_port", "Use a port from 1 to 65535.")
    address = _parse_url_host(host)
    if isinstance(address, UrlError):
        return address
    # RFC 6761: these names are always the local machine, whatever a resolver answers.
    is_localhost = host == "localhost" or host.endswith(".localhost")
    checked = _LOOPBACK if is_localhost else address
    if checked is not None and (error := _find_address_error(checked, host, allowed)):
        return error
    return DeliveryTarget(scheme, host.strip("[]"), port, address)


def is_address_allowed(address: str, host: str, allowed: AllowList) -> bool:
    """Returns whether a connection may use the IP address `address`, to which the name `host` was just resolved."""
    return "%" not in address and _find_address_error(ip_address(address), host.lower(), allowed) is None


def _explain_invalid_url(url: str) -> UrlError:
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", url)
    if scheme is None or scheme[0].lower() not in ("http:", "https:"):
        return UrlError("url_scheme", "Use an http:// or https:// URL.")
    if not url[scheme.end() :].startswith("//"):
        return UrlError("url_syntax", "Write two slashes after the scheme, as in https://example.com/path.")
    if not url.isascii():
        return UrlError(
            "url_not_ascii", "Percent-encode characters that are not ASCII; write a host in its form that begins with xn--."
        )
    return UrlError(
        "url_syntax", 'Percent-encode characters that no URL may contain: spaces, controls, and any of \\ " < > [ ] ^ ` { | }.'
    )


def _parse_url_host(host: str) -> Address | UrlError | None:
    """Returns the IP address if the host is one, None if it is a name, and a UrlError if it is neither."""
    if host.startswith("["):
        try:
            return (
                IPv6Address(host[1:-1]) if "%" not in host else UrlError("url_host", "Leave out the zone of the IPv6 address.")
            )
        except ValueError:
            return UrlError("url_host", "Check the IPv6 address between the brackets.")
    if not host:
        return UrlError("url_host", "Name a host.")
    if host.endswith("."):
        return UrlError("url_host", "Leave out the dot at the end of the host.")
    # Resolvers take 127.1, 0177.0.0.1, 2130706433 and 0x7f000001 for addresses, but not all for the same one.
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        try:
            return IPv4Address(host)
        except ValueError:
            return UrlError("url_host", "Write an IPv4 address as four decimal numbers without leading zeros.")
    if not _HOST_NAME.fullmatch(host):
        return UrlError(
            "url_host", "Check the host: letters, digits, - and _ only, between dots at most 63 characters, in all at most 253."
        )
    return None


def _find_address_error(address: Address, host: str, allowed: AllowList) -> UrlError | None:
    """Returns the error if the address is reserved, or if it is private and not allowed; otherwise None."""
    address = _embedded_ipv4(address)
    is_private = _is_in_any_network(_PRIVATE_NETWORKS, address)
    is_allocated = isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST
    if _is_in_any_network(_ALWAYS_REFUSED_NETWORKS, address) or not (is_private or is_allocated):
        return UrlError("url_address_refused", "Use another host: link-local, metadata and reserved addresses are not allowed.")
    if is_private and not allowed.includes_address(address) and not allowed.includes_host(host):
        detail = "Use a public host, or ask the operator to add its network or suffix to CALLGATE_DELIVERY_ALLOW."
        return UrlError("url_address_private", detail)
    return None


def _is_in_any_network(networks: Iterable[Network], address: Address) -> bool:
    return any(address in network for network in networks)


def _embedded_ipv4(address: Address) -> Address:
    """Returns the IPv4 address that is embedded in a mapped, 6to4 or NAT64 (RFC 6052) address; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
