"""Removes secrets from texts, JSON and URLs.

Twilio's errors and resources may repeat what was sent. `redact` replaces a secret in each encoding in which it may come back:
plain, percent-encoded, escaped for HTML or JSON, and as the value of a Basic header.
"""

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

MAX_USERINFOS: Final = 20
"""The number of URLs with a user name (`https://user@host`) that a request's text or form may contain. Each takes time."""

_REDACTED = "***"
# A shorter secret occurs in many words and numbers, so it is only replaced as a whole word.
_MIN_LENGTH_INSIDE_WORDS = 4
# Names of JSON members up to this length are not redacted: a short secret may equal the name of a member.
_MAX_UNREDACTED_NAME_LENGTH = 12
# The userinfo of a URL: up to the last "@" before the path. Only the last character of the scheme is matched: a pattern for the
# whole scheme would try each letter of a long text as its start, which takes quadratic time.
_USERINFO_PATTERN = re.compile(r"(?<=[a-z0-9+.-]://)(?P<userinfo>[^\s/\"'<>]*)@", re.IGNORECASE)
_USERINFO_END = re.compile(r"[@?#]")
_PERCENT_ESCAPE = re.compile(r"%[0-9A-F]{2}")


class Secrets:
    """Secrets to remove from texts, in all encodings in which they may occur. `more` adds the secrets of another instance."""

    def __init__(self, secrets: Iterable[str] = (), *, more: "Secrets | None" = None) -> None:
        spellings: set[str] = {spelling for secret in secrets if secret for spelling in _encodings(secret)}
        if more is not None:
            spellings |= set(more._spellings)
        # The longest text is replaced first, because a shorter one may be part of it.
        self._spellings: list[str] = sorted(spellings, key=len, reverse=True)
        self._encoded = [spelling.encode("utf-8", "surrogatepass") for spelling in self._spellings]

    def __repr__(self) -> str:
        return "Secrets(***)"

    def may_occur_in(self, body: bytes) -> bool:
        """Returns whether a JSON body may contain a secret. True for each body with a backslash: escapes may hide a secret."""
        return b"\\" in body or any(spelling in body for spelling in self._encoded)

    def redact_text(self, text: str) -> str:
        """Returns the text with `***` for each secret."""
        for spelling in self._spellings:
            if spelling in text:
                text = _replace_secret(text, spelling)
        return text

    async def redact_stream(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yields the bytes with `***` for each secret. Holds back the end of a chunk while it may be the start of a secret."""
        held = b""
        async for chunk in chunks:
            redacted, held = self._redact_chunk(held + chunk)
            if redacted:
                yield redacted
        if held:
            yield self._redact_chunk(held, is_last=True)[0]

    def _redact_chunk(self, data: bytes, *, is_last: bool = False) -> tuple[bytes, bytes]:
        """Returns the redacted beginning of `data`, and the end to hold back; with `is_last`, nothing is held back.

        The end is held back unredacted: even if it is a whole secret, it may be the start of a longer one.
        """
        redacted, at = b"", 0
        while True:
            start, length = self._find_secret(data, at)
            end = len(data) if is_last else len(data) - self._partial_secret_length(data[at:])
            if start >= end:
                return redacted + data[at:end], data[end:]
            redacted += data[at:start] + _REDACTED.encode()
            at = start + length

    def _find_secret(self, data: bytes, at: int) -> tuple[int, int]:
        """Returns the start and the length of the first secret in `data` that does not start before `at`.

        If several secrets start at the same place, returns the longest. If there is no secret, the start is the end of `data`.
        """
        found = [(start, len(spelling)) for spelling in self._encoded if (start := data.find(spelling, at)) >= 0]
        # Of secrets with the same start, `min` returns the first, which is the longest.
        return min(found, key=lambda place: place[0], default=(len(data), 0))

    def _partial_secret_length(self, data: bytes) -> int:
        """Returns the length of the longest suffix of `data` that may be the start of a secret."""
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
    """Returns text or JSON with `***` for each secret. Texts for which `keep` returns true stay unchanged.

    Names of JSON members with at most 12 characters stay unchanged, too.
    """
    match value:
        case str():
            return value if keep(value) else secrets.redact_text(value)
        case dict():
            return {
                secrets.redact_text(name) if len(name) > _MAX_UNREDACTED_NAME_LENGTH else name: redact(item, secrets, keep=keep)
                for name, item in value.items()
            }
        case list():
            return [redact(item, secrets, keep=keep) for item in value]
    return value


def mask_userinfo(text: str) -> str:
    """Returns the text with `***` for user and password in every URL."""
    return _USERINFO_PATTERN.sub(f"{_REDACTED}@", text) if "://" in text and "@" in text else text


def count_userinfo(text: str) -> int:
    """Returns how many URLs in a text have a user name, with or without a password."""
    return len(_USERINFO_PATTERN.findall(text)) if "://" in text and "@" in text else 0


def userinfo_in(text: str) -> Iterator[str]:
    """Yields the user name and password of every URL in a text: as written, percent-decoded, and as a Basic header's value."""
    if "://" not in text or "@" not in text:
        return
    for variant in {text, html.unescape(text)}:
        for found in _USERINFO_PATTERN.finditer(variant):
            longest = found["userinfo"]
            # Parsers differ for invalid URLs: a password may end at the first "@", "?" or "#".
            for userinfo in {longest, _USERINFO_END.split(longest)[0]} if ":" in longest else {longest}:
                user, colon, password = userinfo.partition(":")
                yield from (user, password, unquote(user), unquote(password))
                if colon:
                    yield from basic_header_values(unquote(user), unquote(password))


def basic_header_values(user: str, password: str) -> Iterator[str]:
    """Yields the base64 text of `user:password` that follows `Basic` in a header, without padding.

    Yields one text in the standard alphabet and one in the URL-safe alphabet.
    """
    pair = f"{user}:{password}".encode("utf-8", "replace")
    yield b64encode(pair).decode().rstrip("=")
    yield urlsafe_b64encode(pair).decode().rstrip("=")


def _encodings(secret: str) -> Iterator[str]:
    yield secret
    encodable = secret.encode("utf-8", "replace").decode()
    for encoded in (quote(encodable), quote(encodable, safe=""), quote_plus(encodable)):
        yield encoded
        yield _PERCENT_ESCAPE.sub(lambda escape: escape[0].lower(), encoded)
    for escaped in (secret, html.escape(secret), html.escape(secret, quote=False)):
        for in_json in (json.dumps(escaped)[1:-1], json.dumps(escaped, ensure_ascii=False)[1:-1]):
            yield in_json
            yield in_json.replace("/", r"\/")
        yield escaped


def _replace_secret(text: str, spelling: str) -> str:
    if len(spelling) >= _MIN_LENGTH_INSIDE_WORDS:
        return text.replace(spelling, _REDACTED)
    return re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", _REDACTED, text)
