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

MAX_USERINFOS: Final = 8
"""The maximum number of different user names and passwords in the URLs of one text or form. Searching for each takes time."""
MAX_USERINFO_LENGTH: Final = 128
TOO_MANY_USERINFOS: Final = (
    f"must not contain URLs with more than {MAX_USERINFOS} different user names and passwords, "
    f"or with one of more than {MAX_USERINFO_LENGTH} characters"
)

_REDACTED = "***"
# A shorter secret occurs in many words and numbers, so it is only replaced as a whole word.
_MIN_LENGTH_INSIDE_WORDS = 4
_MEMBER_NAME = re.compile(r"[a-z]+(?:_[a-z]+)*")
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
        pattern = _pattern_of(self._encoded)
        # `seen` is the last byte before `held`, or empty: it may be a letter before a short secret.
        seen, held = b"", b""
        async for chunk in chunks:
            data = held + chunk
            min_length = len(data) - self._partial_secret_length(data)
            redacted, length = _redact_from(len(seen), min_length, seen + data, pattern)
            seen, held = (seen + data[:length])[-1:], data[length:]
            if redacted:
                yield redacted
        if held:
            yield _redact_from(len(seen), len(held), seen + held, pattern)[0]

    def _partial_secret_length(self, data: bytes) -> int:
        """Returns the length of the longest suffix of `data` that is a secret or may be the start of one."""
        suffix = data[-max(map(len, self._encoded), default=len(data)) :]
        while suffix and not any(spelling.startswith(suffix) for spelling in self._encoded):
            suffix = suffix[1:]
        return len(suffix)


def _redact_from(start: int, min_length: int, data: bytes, pattern: re.Pattern[bytes]) -> tuple[bytes, int]:
    """Redacts the first `min_length` bytes of `data` after `start`. Returns the result, and how many bytes of `data` it covers.

    A secret that begins within these bytes is replaced as a whole, so the result may cover more of them.
    """
    redacted, at = [], start
    for found in pattern.finditer(data, start):
        if found.start() >= start + min_length:
            break
        redacted += [data[at : found.start()], _REDACTED.encode()]
        at = found.end()
    length = max(at - start, min_length)
    return b"".join([*redacted, data[at : start + length]]), length


def redact(value: Any, secrets: Secrets, *, keep: Callable[[str, Any], bool] = lambda _, __: False, member: str = "") -> Any:
    """Returns text or JSON with `***` for each secret.

    `member` is the name of the JSON member that holds the value. A value for which `keep(member, value)` returns true stays
    unchanged, and so does a name in snake_case, because a secret may be a word of it.
    """
    if keep(member, value):
        return value
    match value:
        case str():
            return secrets.redact_text(value)
        case dict():
            return {
                name if _MEMBER_NAME.fullmatch(name) else secrets.redact_text(name): redact(
                    item, secrets, keep=keep, member=name
                )
                for name, item in value.items()
            }
        case list():
            return [redact(item, secrets, keep=keep, member=member) for item in value]
    return value


def mask_userinfo(text: str) -> str:
    """Returns the text with `***` for user and password in every URL."""
    return _USERINFO_PATTERN.sub(f"{_REDACTED}@", text) if "://" in text and "@" in text else text


def has_too_many_userinfos(*texts: str) -> bool:
    """Returns whether the URLs in these texts have more than MAX_USERINFOS different userinfos, or one that is too long."""
    found = {userinfo for text in texts if "://" in text and "@" in text for userinfo in _USERINFO_PATTERN.findall(text)}
    # What follows "?" or "#" is more likely the query of a URL without a path.
    return len(found) > MAX_USERINFOS or any(len(_USERINFO_END.split(each)[0]) > MAX_USERINFO_LENGTH for each in found)


def userinfo_in(text: str) -> Iterator[str]:
    """Yields the user name and password of every URL in a text: as written, percent-decoded, and as a Basic header's value."""
    if "://" not in text or "@" not in text:
        return
    for variant in {text, _unescape_html(text)}:
        for found in _USERINFO_PATTERN.finditer(variant):
            longest = found["userinfo"]
            # Parsers differ for invalid URLs: a password may end at the first "@", "?" or "#".
            for userinfo in {longest, _USERINFO_END.split(longest)[0]} if ":" in longest else {longest}:
                user, colon, password = userinfo.partition(":")
                yield from (user, password, unquote(user), unquote(password))
                if colon:
                    yield from basic_header_values(unquote(user), unquote(password))


def _unescape_html(text: str) -> str:
    """Returns the text without HTML escapes. Returns it unchanged if an escape has thousands of digits."""
    try:
        return html.unescape(text)
    except ValueError:  # Python does not parse numbers of more than 4,300 digits
        return text


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


def _pattern_of(spellings: Iterable[bytes]) -> re.Pattern[bytes]:
    """Returns a pattern that finds the longest spelling at a place, with the rule of `_replace_secret` for short ones.

    Groups spellings by their first bytes, because Python tries the alternatives of a pattern one after the other at each place.
    """
    groups: dict[bytes, list[bytes]] = {}
    for spelling in sorted(spellings, key=len, reverse=True):
        groups.setdefault(spelling[:_MIN_LENGTH_INSIDE_WORDS], []).append(re.escape(spelling[_MIN_LENGTH_INSIDE_WORDS:]))
    alternatives = [
        rb"%b(?:%b)" % (re.escape(start), b"|".join(rests))
        if len(start) == _MIN_LENGTH_INSIDE_WORDS
        else rb"(?<!\w)%b(?!\w)" % re.escape(start)
        for start, rests in groups.items()
    ]
    return re.compile(b"|".join(alternatives) or rb"\Z.")  # the last one never matches


def _replace_secret(text: str, spelling: str) -> str:
    if len(spelling) >= _MIN_LENGTH_INSIDE_WORDS:
        return text.replace(spelling, _REDACTED)
    return re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", _REDACTED, text)
