"""Compares SIP URIs: RFC 3261 §19.1.4, with RFC 5954 §4.2 for IPv6 hosts."""

import re
from typing import Final, NamedTuple

from app.sip.grammar import SIP_URI, parse_items
from app.sip.hosts import canonical_host

# "Characters other than those in the 'reserved' set (see RFC 2396) are equivalent to their encoding."
_RESERVED: Final = ";/?:@&=+$,"
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
# The parameters that never match when only one URI has them. The RFC's text names user, ttl, method and maddr, and
# its examples add transport.
_NEVER_IGNORED: Final = ("transport", "user", "ttl", "method", "maddr")

_Value = str | None


class ComparableUri(NamedTuple):
    fixed: tuple[object, ...]
    """Equal URIs have the same value. Only this is hashed, because equality ignores a parameter that only one URI has."""
    parameters: dict[str, _Value]
    """Parameters that must match if both URIs have them."""


def comparable_form(text: str) -> ComparableUri | None:
    """Returns the parts of a SIP URI that `equal` compares.

    Returns None for a text that is not a SIP URI: it does not match the grammar, or repeats a parameter (§19.1.1).
    """
    match = SIP_URI.fullmatch(text)
    if match is None:
        return None
    scheme, user, password, host, port, written_parameters, written_headers = match.groups()
    items = [(_normalise_lower(name), value) for name, value in parse_items(written_parameters[1:], ";")]
    # Method names are case-sensitive (§7.1); every other value is not, unless its definition says otherwise.
    parameters = {name: _normalise(value) if name == "method" else _normalise_lower(value) for name, value in items}
    if len(parameters) < len(items):
        return None
    # Order only matters among headers of one name. Values stay case-sensitive: the headers that Twilio passes contain
    # case-sensitive users, or are the caller's own, whose rules are unknown.
    headers = sorted(
        ((_normalise_lower(name), _normalise(value)) for name, value in parse_items(written_headers, "&")),
        key=lambda header: str(header[0]),
    )
    fixed = (
        scheme.lower(),
        _normalise(user),
        _normalise(password),
        canonical_host(host),
        port and (port.lstrip("0") or "0"),
        tuple((name, parameters[name]) for name in _NEVER_IGNORED if name in parameters),
        tuple(headers),
    )
    return ComparableUri(fixed, {name or "": value for name, value in parameters.items()})


def equal(a: str, b: str) -> bool:
    """Returns whether two texts are equal SIP URIs. A text that is not a SIP URI equals only the same text."""
    if a == b:
        return True
    left, right = comparable_form(a), comparable_form(b)
    if left is None or right is None or left.fixed != right.fixed:
        return False
    shared = left.parameters.keys() & right.parameters.keys()
    return all(left.parameters[name] == right.parameters[name] for name in shared)


def _normalise(text: _Value) -> _Value:
    return None if text is None else _ESCAPE.sub(_normalise_escape, text)


def _normalise_lower(text: _Value) -> _Value:
    return None if text is None else _ESCAPE.sub(_normalise_escape, text).lower()


def _normalise_escape(escape: re.Match[str]) -> str:
    """Returns the character if it is equivalent to its escape; else the escape in upper case."""
    character = chr(int(escape[0][1:], 16))
    if not "!" <= character <= "~" or character in _RESERVED or character == "%":
        return escape[0].upper()
    return character
