"""Removes secrets from texts, JSON and URLs.

Twilio's responses may repeat secrets that a request contained. `redact` replaces a secret in each encoding in which it may come
back: plain, percent-encoded, escaped for HTML or JSON, and as the value of a Basic header.
"""

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

from app.security.sip_secrets import find_sip_secrets

MAX_USERINFOS: Final = 8
"""The maximum number of different user names and passwords in the URLs of one text or form. Searching for each takes time."""
MAX_SIP_SECRETS_IN_TWIML: Final = 20
"""The maximum number of different SIP user names and passwords in TwiML: a <Dial> has at most ten <Sip>, each with both."""
MAX_USERINFO_LENGTH: Final = 128
TOO_MANY_USERINFOS_MESSAGE: Final = (
    f"must have at most {MAX_USERINFOS} different user names and passwords in URLs, at most {MAX_SIP_SECRETS_IN_TWIML} "
    f"different SIP user names and passwords in TwiML, and none of more than {MAX_USERINFO_LENGTH} characters"
)

_REDACTED = "***"
# A shorter secret occurs in many words and numbers, so it is only replaced as a whole word.
_MIN_LENGTH_INSIDE_WORDS = 4
_WORD_CHARACTER = re.compile(rb"\w")
_MEMBER_NAME = re.compile(r"[a-z]+(?:_[a-z]+)*")
# A text that begins with a URL, as the value of a URL parameter does.
_URL_AT_START = re.compile(r"[a-z][a-z0-9+.-]*+://(?P<authority>[^\x00-\x20/?#]*+)", re.IGNORECASE | re.ASCII)
# Host and port, and after them the path, the query or the end of a URL within a text. A quote ends a URL only in front of
# characters that may follow it in XML or JSON. Other quotes may belong to a password, and so may a number above 65535.
_PORT_PATTERN = r"0*+(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5]?[0-9]{1,4})?+"
_HOST_AND_END_PATTERN = (
    rf"(?:\[[0-9a-f:.]++\]|[^\x00-\x20/?#@:&\"'<>\[\]]++)(?::{_PORT_PATTERN})?+"
    r"(?=[\x00-\x20/?#<]|(?:[\"']|&(?:quot|apos|#34|#39);)[>,}\])]|\Z)"
)
# A userinfo in a text ends at the first "@" that a host follows or, in an invalid URL, at the last one before the path. It may
# contain all but "/", ASCII white space, and "<", which XML does not allow within a text. Only the last character of the scheme
# is matched: a pattern for the whole scheme would try each letter of a long text as its start, which takes quadratic time.
_USERINFO_IN_TEXT = re.compile(
    rf"(?<=[a-z0-9+.-]://)(?!{_HOST_AND_END_PATTERN})(?P<userinfo>[^\x00-\x20/<]*?(?=@{_HOST_AND_END_PATTERN})|[^\x00-\x20/<]*)@",
    re.IGNORECASE | re.ASCII,
)
_USERINFO_END = re.compile(r"[@?#]")
_PERCENT_ESCAPE = re.compile(r"%[0-9A-F]{2}")


class SecretRedactor:
    """Secrets to remove from texts, in all encodings in which they may occur. `more` adds the secrets of another instance."""

    def __init__(self, secrets: Iterable[str] = (), *, more: "SecretRedactor | None" = None) -> None:
        spellings: set[str] = {spelling for secret in secrets if secret for spelling in _encodings_of_secret(secret)}
        if more is not None:
            spellings |= set(more._spellings)
        # The longest text is replaced first, because a shorter one may be part of it.
        self._spellings: list[str] = sorted(spellings, key=len, reverse=True)
        self._encoded = [spelling.encode("utf-8", "surrogatepass") for spelling in self._spellings]

    def __repr__(self) -> str:
        return "SecretRedactor(***)"

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
        search = _SecretFinder(self._encoded)
        # `seen` is the last byte before `held`, or empty: it may be a letter before a short secret.
        seen, held = b"", b""
        async for chunk in chunks:
            data = held + chunk
            redacted, length = search.redact(seen + data, len(seen), len(data) - search.partial_secret_length(data))
            seen, held = (seen + data[:length])[-1:], data[length:]
            if redacted:
                yield redacted
        if held:
            yield search.redact(seen + held, len(seen), len(held))[0]


class _SecretFinder:
    """Finds secrets in bytes. `spellings` are the secrets in all encodings in which they may occur.

    A regular expression finds the first bytes of a spelling, and a sorted list tells whether the rest follows. An expression of
    whole spellings would take seconds to compile.
    """

    def __init__(self, spellings: Iterable[bytes]) -> None:
        self._sorted = sorted(spellings)
        self._max_length = max(map(len, self._sorted), default=0)
        self._longest_prefixes = _longest_prefixes(self._sorted)
        starts = sorted({spelling[:_MIN_LENGTH_INSIDE_WORDS] for spelling in self._sorted}, key=len, reverse=True)
        self._start_pattern = re.compile(b"|".join(map(_pattern_of_start, starts)) or rb"\Z.")  # the last one never matches
        self._partial_starts = {start[:length] for start in starts for length in range(1, len(start) + 1)}

    def redact(self, data: bytes, start: int, min_length: int) -> tuple[bytes, int]:
        """Returns the bytes of `data` from `start` on, with `***` for each secret that begins in the first `min_length`.

        Also returns how many bytes of `data` were replaced or copied: `min_length`, or more if a secret ends later.
        """
        redacted, at, place, limit = [], start, start, start + min_length
        while (found := self._start_pattern.search(data, place)) and (begin := found.start()) < limit:
            if length := self._secret_length_at(data, begin):
                redacted += [data[at:begin], _REDACTED.encode()]
                at = begin + length
            place = max(begin + 1, at)
        end = max(at, limit)
        return b"".join([*redacted, data[at:end]]), end - start

    def partial_secret_length(self, data: bytes) -> int:
        """Returns the length of the longest suffix of `data` that is a secret or may be the start of one."""
        for place in range(max(0, len(data) - self._max_length), len(data)):
            if data[place : place + _MIN_LENGTH_INSIDE_WORDS] in self._partial_starts:
                suffix = data[place:]
                index = bisect_left(self._sorted, suffix)
                if index < len(self._sorted) and self._sorted[index].startswith(suffix):
                    return len(suffix)
        return 0

    def _secret_length_at(self, data: bytes, place: int) -> int:
        """Returns the length of the longest spelling of a secret that begins at `place`; 0 if there is none.

        A spelling shorter than _MIN_LENGTH_INSIDE_WORDS counts only if it is not part of a longer word.
        """
        window = data[place : place + self._max_length]
        # If the window starts with spellings, the longest of them is the last one in sort order that is not greater than the
        # window, or a prefix of that one.
        index = bisect_right(self._sorted, window)
        spelling = self._sorted[index - 1] if index else b""
        while spelling:
            if window.startswith(spelling):
                end = place + len(spelling)
                neighbours = data[max(place - 1, 0) : place] + data[end : end + 1]
                if len(spelling) >= _MIN_LENGTH_INSIDE_WORDS or not _WORD_CHARACTER.search(neighbours):
                    return len(spelling)
            spelling = self._longest_prefixes[spelling]
        return 0


def _pattern_of_start(start: bytes) -> bytes:
    return re.escape(start) if len(start) == _MIN_LENGTH_INSIDE_WORDS else rb"(?<!\w)%b(?!\w)" % re.escape(start)


def _longest_prefixes(spellings: Iterable[bytes]) -> dict[bytes, bytes]:
    """Maps each of the sorted `spellings` to the longest other one that is a prefix of it, or to b"" if there is none."""
    prefixes: list[bytes] = []
    found = {}
    for spelling in spellings:
        while prefixes and not spelling.startswith(prefixes[-1]):
            prefixes.pop()
        found[spelling] = prefixes[-1] if prefixes else b""
        prefixes.append(spelling)
    return found


def redact(
    value: Any, secrets: SecretRedactor, *, keep: Callable[[str, Any], bool] = lambda _, __: False, member_name: str = ""
) -> Any:
    """Returns text or JSON with `***` for each secret.

    `member_name` is the name of the JSON member that holds `value`. Values for which `keep(member_name, value)` is true are not
    changed. Member names in snake_case are not changed either, because a short secret may equal a word in them, such as `user`.
    """
    if keep(member_name, value):
        return value
    match value:
        case str():
            return secrets.redact_text(value)
        case dict():
            return {
                name if _MEMBER_NAME.fullmatch(name) else secrets.redact_text(name): redact(
                    item, secrets, keep=keep, member_name=name
                )
                for name, item in value.items()
            }
        case list():
            return [redact(item, secrets, keep=keep, member_name=member_name) for item in value]
    return value


def mask_userinfo(text: str) -> str:
    """Returns the text with `***` for user and password in every URL, and for SIP user names and passwords in TwiML."""
    parts, at = list[str](), 0
    for start, end in sorted([*_find_userinfos(text), *find_sip_secrets(text)]):
        if start >= at:
            parts += [text[at:start], _REDACTED]
        at = max(at, end)
    return "".join([*parts, text[at:]])


def has_too_many_userinfos(*texts: str) -> bool:
    """Returns whether the texts have too many different user names and passwords in URLs or for SIP, or one that is too long.

    The texts are counted together. The limits are MAX_USERINFOS, MAX_SIP_SECRETS_IN_TWIML and MAX_USERINFO_LENGTH.
    """
    found = {text[start:end] for text in texts for start, end in _find_userinfos(text)}
    of_sip = {text[start:end] for text in texts for start, end in find_sip_secrets(text)}
    is_one_too_long = any(len(each) > MAX_USERINFO_LENGTH for each in found | of_sip)
    return len(found) > MAX_USERINFOS or len(of_sip) > MAX_SIP_SECRETS_IN_TWIML or is_one_too_long


def secrets_in_text(text: str) -> Iterator[str]:
    """Yields the user name and password of every URL in a text: as written, percent-decoded, and as a Basic header's value.

    The text may be XML, so each is yielded with and without HTML escapes. Also yields SIP user names and passwords in TwiML.
    """
    for start, end in find_sip_secrets(text):
        for secret in {text[start:end], _unescape_html(text[start:end])}:
            # A password in a URI that has another "@" may end at the first one.
            yield from (secret, unquote(secret), _USERINFO_END.split(secret)[0])
    written = {variant[start:end] for variant in (text, _unescape_html(text)) for start, end in _find_userinfos(variant)}
    for longest in written | {_unescape_html(userinfo) for userinfo in written}:
        # Parsers differ for invalid URLs: a password may end at the first "@", "?" or "#".
        for userinfo in {longest, _USERINFO_END.split(longest)[0]} if ":" in longest else {longest}:
            user, colon, password = userinfo.partition(":")
            yield from (user, password, unquote(user), unquote(password))
            if colon:
                yield from basic_header_values(unquote(user), unquote(password))


def _find_userinfos(text: str) -> Sequence[tuple[int, int]]:
    """Returns the positions (start, end) of the part `user:password` of every URL in a text."""
    if "://" not in text or "@" not in text:
        return ()
    found, at = list[tuple[int, int]](), 0
    if (url := _URL_AT_START.match(text)) and _has_valid_host(url["authority"]):
        at = url.end()
        if "@" in url["authority"]:
            found.append((url.start("authority"), text.rindex("@", 0, at)))
    return found + [match.span("userinfo") for match in _USERINFO_IN_TEXT.finditer(text, at)]


def _has_valid_host(authority: str) -> bool:
    """Returns whether the part of a URL between `//` and the path has a host and, if it has a port, a valid one."""
    try:
        parts = urlsplit(f"//{authority}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return bool(host)


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


def _encodings_of_secret(secret: str) -> Iterator[str]:
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
