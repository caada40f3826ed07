"""Keep secrets out of text that others have written, and out of URLs.

Twilio's errors and resources may repeat what was sent. `redact` replaces a secret in each spelling in which it may return:
as it is, percent-encoded, escaped for HTML or JSON, and as the value of a Basic header.
"""

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote

_REDACTED = "***"
# A shorter secret stands in half of all words and numbers: it is replaced where it stands alone.
_SHORT = 4
# A shorter secret may be the name of a member.
_LONGER_THAN_NAMES = 12
# As far as the last "@" before the path.
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<userinfo>[^\s/\"'<>]*)@", re.IGNORECASE)
_ENDS = re.compile(r"[@?#]")
_HEX = re.compile(r"%[0-9A-F]{2}")


class Secrets:
    """Secrets that must not be repeated, in all their spellings."""

    def __init__(self, secrets: Iterable[str] = (), *, more: "Secrets | None" = None) -> None:
        spellings: set[str] = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        if more is not None:
            spellings |= set(more._spellings)
        # The longest first: one may be part of another.
        self._spellings: list[str] = sorted(spellings, key=len, reverse=True)
        self._encoded = [spelling.encode("utf-8", "surrogatepass") for spelling in self._spellings]

    def __repr__(self) -> str:
        return "Secrets(***)"

    def may_be_in(self, body: bytes) -> bool:
        """Whether JSON may hold one. An escape sequence may hide anything."""
        return b"\\" in body or any(spelling in body for spelling in self._encoded)

    def out_of(self, text: str) -> str:
        for spelling in self._spellings:
            if spelling in text:
                text = _replaced(text, spelling)
        return text

    async def out_of_stream(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Bytes as they arrive, but for an end with which a secret may begin: that waits for the next ones."""
        held = b""
        async for chunk in chunks:
            held += chunk
            for spelling in self._encoded:
                held = held.replace(spelling, _REDACTED.encode())
            ready = len(held) - self._begun_at_the_end_of(held)
            if ready:
                yield held[:ready]
                held = held[ready:]
        if held:
            yield held

    def _begun_at_the_end_of(self, data: bytes) -> int:
        """How many of the last bytes may be the beginning of a secret."""
        return max(
            (
                length
                for spelling in self._encoded
                for length in range(min(len(spelling) - 1, len(data)), 0, -1)
                if data.endswith(spelling[:length])
            ),
            default=0,
        )


def redact(value: Any, secrets: Secrets, *, keep: Callable[[str], bool] = lambda _: False) -> Any:
    """Text or JSON without the secrets. `keep` tells values that hold none, whatever they look like."""
    match value:
        case str():
            return value if keep(value) else secrets.out_of(value)
        case dict():
            return {
                secrets.out_of(key) if len(key) > _LONGER_THAN_NAMES else key: redact(item, secrets, keep=keep)
                for key, item in value.items()
            }
        case list():
            return [redact(item, secrets, keep=keep) for item in value]
    return value


def without_userinfo(text: str) -> str:
    """The text with `***` for user and password in every URL."""
    return _USERINFO.sub(rf"\g<scheme>{_REDACTED}@", text) if "://" in text and "@" in text else text


def userinfo_in(text: str) -> Iterator[str]:
    """User names and passwords of every URL in a text, and the Basic values that are made of them."""
    if "://" not in text or "@" not in text:
        return
    for written in {text, html.unescape(text)}:
        for found in _USERINFO.finditer(written):
            longest = found["userinfo"]
            # Readers differ where a URL is none: a password may end at the first "@", "?" or "#".
            for userinfo in {longest, _ENDS.split(longest)[0]} if ":" in longest else {longest}:
                user, colon, password = userinfo.partition(":")
                yield from (user, password, unquote(user), unquote(password))
                if colon:
                    yield from basic_values(unquote(user), unquote(password))


def basic_values(user: str, password: str) -> Iterator[str]:
    """What stands after `Basic` in a header, without the padding."""
    pair = f"{user}:{password}".encode("utf-8", "replace")
    yield b64encode(pair).decode().rstrip("=")
    yield urlsafe_b64encode(pair).decode().rstrip("=")


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    encodable = secret.encode("utf-8", "replace").decode()
    for encoded in (quote(encodable), quote(encodable, safe=""), quote_plus(encodable)):
        yield encoded
        yield _HEX.sub(lambda escape: escape[0].lower(), encoded)
    for escaped in (secret, html.escape(secret), html.escape(secret, quote=False)):
        for in_json in (json.dumps(escaped)[1:-1], json.dumps(escaped, ensure_ascii=False)[1:-1]):
            yield in_json
            yield in_json.replace("/", r"\/")
        yield escaped


def _replaced(text: str, spelling: str) -> str:
    if len(spelling) >= _SHORT:
        return text.replace(spelling, _REDACTED)
    return re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", _REDACTED, text)
