"""Declines a client's offer to use another protocol by ignoring the headers of the offer (RFC 9110 §7.8)."""

from collections.abc import Iterable

from app.errors import MalformedRequest

_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


def head_without_upgrade(method: str, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Builds the bytes of a request head, without the headers that ask for a protocol upgrade.

    Raises MalformedRequest if the method is CONNECT.
    """
    if method == "CONNECT":
        raise MalformedRequest
    lines = [b"%b %b HTTP/%b" % (method.encode("latin-1"), target, version.encode("latin-1"))]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in _UPGRADE_HEADERS)
        if name not in _UPGRADE_HEADERS and (value or name != b"connection"):
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
