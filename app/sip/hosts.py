"""Normalizes hosts for comparison, and checks whether Twilio can reach them."""

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

from app.sip.findings import FindingReport

# First address, last address and IP version of each range. IANA IPv4 and IPv6 Special-Purpose Address Registries: what is
# not globally reachable, and multicast. The blocks that are set aside for documentation are left out: in examples and
# tests they stand for public addresses.
_NON_PUBLIC_RANGES: Final = [
    (int(network.network_address), int(network.broadcast_address), network.version)
    for network in map(
        ip_network,
        [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/127",
            "::ffff:0:0:0/96",
            "100::/63",
            "2001:2::/48",
            "2001:10::/28",
            "2001:20::/28",
            "5f00::/16",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ],
    )
]
_IPV4_COMPATIBLE_NETWORK: Final = ip_network("::/96")  # RFC 4291 §2.5.5.1, deprecated
_NAT64_NETWORKS: Final = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))  # RFC 6052, RFC 8215

# Names that are reserved never to exist in the public DNS: RFC 2606 and 6761, 6762, 7686, 8375, 9476, ICANN 2024.
_RESERVED_TOP_LABELS: Final = frozenset({"invalid", "test", "local", "onion", "alt", "internal"})
_SPECIAL_TOP_LABELS: Final = _RESERVED_TOP_LABELS | {"localhost", "arpa"}


def canonical_host(host: str) -> str:
    """Returns the host in a normal form, so that equal hosts are equal texts.

    A name is in lower case, without a trailing dot. An IPv6 address is in the format of RFC 5952. An IPv4-mapped IPv6 address
    is written as the IPv4 address.
    """
    if host[0] == "[":
        address = IPv6Address(host[1:-1])
        mapped = address.ipv4_mapped
        return f"[{address.compressed}]" if mapped is None else str(mapped)
    return host.lower().removesuffix(".")


def check_and_normalize_host(host: str, start: int, has_user: bool, report: FindingReport) -> str:
    """Checks whether Twilio can reach the host, adds findings to `report`, and returns the host as `canonical_host` does.

    The host begins at `start` in the URI. `has_user` says whether the URI has a user, which some of Twilio's own hosts need.
    """
    end = start + len(host)
    if host[0] == "[":
        _check_ipv6(IPv6Address(host[1:-1]), start, end, report)
        return canonical_host(host)
    canonical = host.lower().removesuffix(".")
    rest, _, top = canonical.rpartition(".")
    # toplabel starts with ALPHA, so a last label that starts with a digit belongs to an IPv4address.
    if top[0] <= "9":
        _check_ipv4(IPv4Address(host), start, end, report)
        return canonical
    if rest and top not in _SPECIAL_TOP_LABELS and len(host) <= 63 and host[-1] != "." and not rest.endswith("twilio"):
        return canonical  # most hosts
    if host[-1] == ".":
        report.add("TRAILING_DOT", end - 1, end, "Leave out the dot at the end of the host.")
    if top == "localhost":
        _report_non_public(start, end, report)
    elif not rest or top in _RESERVED_TOP_LABELS or canonical.endswith(".home.arpa"):
        detail = "Use a name that the public DNS knows: Twilio cannot resolve this one (13254)."
        report.add("NOT_A_PUBLIC_NAME", start, end, detail)
    elif canonical.endswith(".twilio.com"):
        _check_twilio_host(rest.split("."), start, end, has_user, report)
    if len(canonical) > 63 and any(len(label) > 63 for label in canonical.split(".")):
        report.add("LABEL_TOO_LONG", start, end, "Check the host: between two dots there are at most 63 characters.")
    return canonical


def _check_ipv4(address: IPv4Address, start: int, end: int, report: FindingReport) -> None:
    if not _is_public(address):
        return _report_non_public(start, end, report)
    detail = "Prefer a host name: a bare IP address cannot move, and TLS cannot check it against a certificate."
    return report.add("IP_LITERAL_HOST", start, end, detail)


def _check_ipv6(address: IPv6Address, start: int, end: int, report: FindingReport) -> None:
    inner: IPv4Address | None = address.ipv4_mapped or address.sixtofour
    if address.teredo is not None:
        inner = address.teredo[1]
    if not _is_public(address) or (inner is not None and not _is_public(inner)):
        return _report_non_public(start, end, report)
    if address in _IPV4_COMPATIBLE_NETWORK:
        detail = "Write the IPv4 address itself: this form of embedding it is deprecated and reaches nothing."
        return report.add("IPV4_COMPATIBLE_IPV6", start, end, detail)
    if any(address in network for network in _NAT64_NETWORKS):
        detail = "Write the IPv4 address itself: a NAT64 prefix means something only inside its own network."
        return report.add("NAT64_EMBEDDED_IPV4", start, end, detail)
    detail = "Use a host name or an IPv4 address: Twilio does not document IPv6 hosts."
    return report.add("IPV6_HOST", start, end, detail)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    number, version = int(address), address.version
    return not any(first <= number <= last and version == of for first, last, of in _NON_PUBLIC_RANGES)


def _report_non_public(start: int, end: int, report: FindingReport) -> None:
    detail = "Use a host on the public internet: Twilio calls none that is private, local or multicast (13254)."
    report.add("NON_PUBLIC_HOST", start, end, detail)


def _check_twilio_host(labels: list[str], start: int, end: int, has_user: bool, report: FindingReport) -> None:
    """Adds a finding to `report` if Twilio does not dial this host below twilio.com, or only for old registrations.

    The rules are those of Twilio's errors 32220 and 32223 (<https://www.twilio.com/docs/api/errors/32220>). `labels` are the
    labels of the host without the last one, `com`. `start` and `end` are the host's position in the URI. `has_user` says
    whether the URI has a user, which Twilio's SIP domains (`….sip.twilio.com`) need.
    """
    match labels[:-1]:
        case [_, "sip"]:
            pass
        case [_, "sip", "us1" | "us1-ix"] | [_, _, "sip"]:
            detail = "Dial user@domain.sip.twilio.com: this form is only kept for old registrations (32220)."
            report.add("TWILIO_LEGACY_HOST", start, end, detail)
        case [_, "sip", _]:
            detail = "Dial user@domain.sip.twilio.com: an edge in the host is only for registering (32220)."
            return report.add("TWILIO_EDGE_IN_HOST", start, end, detail)
        case [_, "pstn", *_]:
            detail = "Dial the phone number itself: calling a trunk's pstn.twilio.com host is not documented."
            return report.add("TWILIO_PSTN_HOST", start, end, detail)
        case _:
            return None
    if not has_user:
        detail = "Name the registered user before the host, as in sip:user@domain.sip.twilio.com (32223)."
        report.add("TWILIO_DOMAIN_WITHOUT_USER", start, end, detail)
    return None
