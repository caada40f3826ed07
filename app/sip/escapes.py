"""Decodes percent-escapes (RFC 3261 §25.1 `escaped`, RFC 3986 §2.1), and finds dangerous characters in them."""

import re
from itertools import islice
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from app.sip.findings import FindingReport
from app.sip.grammar import split_name_value_list

NameValuePairs = tuple[tuple[str, str | None], ...]
"""Decoded names and values, in order. A value is None if it is missing or not UTF-8."""

HEADER_IN_VALUE_PATTERN: Final = re.compile(r"%26[^%=&]++(?:=|%3[Dd])")
"""Matches `%26Name=` in the value of a header: probably an `&` between two headers that was escaped."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x84\x86-\x9f]")
_LINE_SEPARATOR = re.compile(r"[\x85\u2028\u2029]")
_CONTROL_OR_LINE_SEPARATOR = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_ESCAPE_LAYERS = 8
"""The maximum number of times that a text is decoded. Each time reads the whole text."""
_ESCAPE_OR_CHARACTER = re.compile(r"%[0-9A-Fa-f]{2}|.", re.DOTALL)


def unescape(text: str) -> str | None:
    """Decodes the percent-escapes of an ASCII text once. Returns None if the octets are not UTF-8."""
    if "%" not in text:
        return text
    spaced = text.replace("%20", " ")  # the most frequent escape, and often the only one
    if "%" not in spaced:
        return spaced
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None


def unescape_repeatedly(text: str) -> str:
    """Decodes percent-escapes until nothing changes, at most 8 times. Octets that are not UTF-8 become U+FFFD."""
    for _ in range(_MAX_ESCAPE_LAYERS):
        if (decoded := unquote(text)) == text:
            break
        text = decoded
    return text


def has_escaped_control(text: str) -> bool:
    """Returns whether decoding the escapes in a text, once or repeatedly, gives a control character or line separator.

    "%0d" and "%250d" become CR, and so does "%%30d", because "%30" is the digit 0. Characters that are not escaped do not
    count. Also returns True for a text that still has escapes after `unescape_repeatedly`.
    """
    decoded = unescape_repeatedly(_CONTROL_OR_LINE_SEPARATOR.sub(" ", text))
    return _CONTROL_OR_LINE_SEPARATOR.search(decoded) is not None or unquote(decoded) != decoded


def decode_name_value_list(items_text: str, separator: str) -> NameValuePairs:
    """Returns the decoded names and values of a list of `name=value` items with this separator.

    A name that is not UTF-8 stays as written. A value that is not UTF-8 or is missing is None.
    """
    items = split_name_value_list(items_text, separator)
    if "%" not in items_text:
        return tuple(items)
    return tuple([(unescape(name) or name, value and unescape(value)) for name, value in items])


def is_control_or_line_separator(character: str) -> bool:
    """Returns whether the character is C0, DEL, C1 or a Unicode line separator, which some software takes for a line end."""
    return bool(_CONTROL_OR_LINE_SEPARATOR.match(character))


def has_line_end_low_byte(character: str) -> bool:
    """Returns whether the low byte of the code point is CR or LF, as in U+560D.

    Software that keeps only this byte would read a line end, which allows header injection.
    """
    return ord(character) > 0xFF and ord(character) & 0xFF in (0x0A, 0x0D)


def check_escapes(text: str, start: int, report: FindingReport) -> None:
    """Reports escapes in `text` that stand for dangerous or non-ASCII characters, or that are not UTF-8.

    `text` begins at `start` in the URI.
    """
    decoded = unescape(text)
    if decoded is None:
        return _report_not_utf8(text, start, report)
    if decoded.isascii() and decoded.isprintable() and "%" not in decoded:
        return None

    def report_at(index: int, code: str, detail: str) -> None:
        first = len(decoded[:index].encode())
        size = len(decoded[index].encode())
        begin, end = _octet_range(text, first, size)
        report.add(code, start + begin, start + end, detail)

    if control := _CONTROL.search(decoded):
        report_at(control.start(), "CONTROL_CHAR", "Remove this escaped control character.")
    if "%" in decoded and has_escaped_control(decoded):
        detail = "Decoded more than once, the text from here on has a control character or still has escapes. Remove them."
        report_at(decoded.index("%"), "DOUBLE_ESCAPED_CONTROL", detail)
    if decoded.isascii():
        return None
    if separator := _LINE_SEPARATOR.search(decoded):
        report_at(separator.start(), "LINE_SEPARATOR", "Remove this character: some software takes it for a line end.")
    truncated = next((i for i, character in enumerate(decoded) if has_line_end_low_byte(character)), None)
    if truncated is not None:
        detail = "Use another character: cut to one byte, this one becomes a line end."
        report_at(truncated, "BYTE_TRUNCATION_CRLF", detail)
    first = next(i for i, character in enumerate(decoded) if not character.isascii())
    detail = "Prefer ASCII: how Twilio and the far end treat other escaped characters is not documented."
    report_at(first, "ESCAPED_NON_ASCII", detail)
    return None


def _report_not_utf8(text: str, start: int, report: FindingReport) -> None:
    try:
        unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        begin, end = _octet_range(text, error.start, error.end - error.start)
        detail = "Escape the octets of UTF-8: these are not a character."
        report.add("NOT_UTF8", start + begin, start + end, detail)


def _octet_range(text: str, first: int, count: int) -> tuple[int, int]:
    """Returns the positions in `text` at which a range of octets starts and ends: `count` octets from number `first` (from 0).

    An escape such as %C3 is one octet, and so is a character that is not escaped.
    """
    written = list(islice(_ESCAPE_OR_CHARACTER.finditer(text), first, first + count))
    return written[0].start(), written[-1].end()
