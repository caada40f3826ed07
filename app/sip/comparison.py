"""Compares SIP URIs by RFC 3261 §19.1.4, and IPv6 hosts in them by RFC 5954 §4.2."""

import re
from typing import Final, NamedTuple

from app.sip.grammar import SIP_URI, split_name_value_list
from app.sip.hosts import canonical_host

# "Characters other than those in the 'reserved' set (see RFC 2396) are equivalent to their encoding."
_RESERVED_CHARACTERS: Final = ";/?:@&=+$,"
_PERCENT_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
# If only one of two URIs has one of these parameters, the URIs are not equal. The RFC's text names user, ttl, method and maddr,
# and its examples add transport.
_PARAMS_REQUIRED_IN_BOTH: Final = ("transport", "user", "ttl", "method", "maddr")

_ParamValue = str | None


class ComparableUri(NamedTuple):
    """The parts of a SIP URI that decide whether it equals another one, normalized."""

    exact_parts: tuple[object, ...]
    """The parts that must be the same in equal URIs. The hash uses only these: equal URIs may differ in other parts."""
    parameters: dict[str, _ParamValue]
    """The values of the parameters by name. A parameter that both URIs have must have the same value in both."""


def to_comparable_uri(text: str) -> ComparableUri | None:
    """Returns the parts of a SIP URI that `are_equal_uris` compares.

    Returns None for a text that is not a SIP URI: it does not match the grammar, or repeats a parameter (§19.1.1).
    """
    match = SIP_URI.fullmatch(text)
    if match is None:
        return None
    scheme, user, password, host, port, written_parameters, written_headers = match.groups()
    items = [(_normalize_escapes_and_case(name), value) for name, value in split_name_value_list(written_parameters[1:], ";")]
    # Method names are case-sensitive (§7.1); every other value is not, unless its definition says otherwise.
    parameters = {
        name: _normalize_escapes(value) if name == "method" else _normalize_escapes_and_case(value) for name, value in items
    }
    if len(parameters) < len(items):
        return None
    # Order only matters among headers of one name. Values stay case-sensitive: the headers that Twilio passes contain
    # case-sensitive users, or are the client's own, whose rules are unknown.
    headers = sorted(
        (
            (_normalize_escapes_and_case(name), _normalize_escapes(value))
            for name, value in split_name_value_list(written_headers, "&")
        ),
        key=lambda header: str(header[0]),
    )
    exact_parts = (
        scheme.lower(),
        _normalize_escapes(user),
        _normalize_escapes(password),
        canonical_host(host),
        port and (port.lstrip("0") or "0"),
        tuple((name, parameters[name]) for name in _PARAMS_REQUIRED_IN_BOTH if name in parameters),
        tuple(headers),
    )
    return ComparableUri(exact_parts, {name or "": value for name, value in parameters.items()})


def are_equal_uris(a: str, b: str) -> bool:
    """Returns whether two texts are equal SIP URIs. A text that is not a SIP URI equals only the same text."""
    if a == b:
        return True
    left, right = to_comparable_uri(a), to_comparable_uri(b)
    if left is None or right is None or left.exact_parts != right.exact_parts:
        return False
    shared = left.parameters.keys() & right.parameters.keys()
    return all(left.parameters[name] == right.parameters[name] for name in shared)


def _normalize_escapes(text: _ParamValue) -> _ParamValue:
    return None if text is None else _PERCENT_ESCAPE.sub(_normalize_escape, text)


def _normalize_escapes_and_case(text: _ParamValue) -> _ParamValue:
    return None if text is None else _PERCENT_ESCAPE.sub(_normalize_escape, text).lower()


def _normalize_escape(escape: re.Match[str]) -> str:
    """Returns the escaped character if it is equivalent to its escape (RFC 3261 §19.1.4); else the escape in upper case."""
    character = chr(int(escape[0][1:], 16))
    if not "!" <= character <= "~" or character in _RESERVED_CHARACTERS or character == "%":
        return escape[0].upper()
    return character
