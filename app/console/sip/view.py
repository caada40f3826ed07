"""Makes what the page of a SIP address shows: the address with its findings marked in it, its parts, and a verdict."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from app.sip import Finding, Severity, SipUri
from app.sip.escapes import NameValuePairs
from app.sip.uri import ADDRESS_LENGTH_LIMIT, HEADERS_LENGTH_LIMIT, password_span

MASK: Final = "•••"
"""The text that is shown instead of a password, whatever the length of the password."""
MAX_SHOWN_LENGTH: Final = ADDRESS_LENGTH_LIMIT + HEADERS_LENGTH_LIMIT
"""Maximum number of characters of an address that the page shows. A valid address is shorter."""
_EXCERPT_LENGTH: Final = 60
_SEVERITIES: Final = tuple(Severity)
# Categories of Unicode: control, format, surrogate, private use, unassigned, and line and paragraph separators.
_INVISIBLE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the address, and the numbers of the findings about this piece.

    `text` is "" at a place where something is missing.
    """

    text: str
    numbers: tuple[int, ...] = ()
    severity: Severity | None = None
    """The highest severity of these findings; None if there are none."""


@dataclass(frozen=True, slots=True)
class NumberedFinding:
    """A problem that was found in the address, as the list below the address shows it.

    `number` counts the findings from 1. The same number marks the part of the address that the finding is about.
    """

    number: int
    code: str
    severity: Severity
    detail: str
    excerpt: str
    """The part of the address that the finding is about, with a password masked.

    It is "" if the finding says that something is missing.
    """


@dataclass(frozen=True, slots=True)
class AddressView:
    segments: tuple[Segment, ...]
    hidden_length: int
    """The number of characters at the end of the address that are not shown."""
    findings: tuple[NumberedFinding, ...]
    valid: bool
    verdict: str
    parts: tuple[tuple[str, str], ...]
    """The name and the value of each part of the address, such as the host. Parameters and headers have their own fields."""
    parameters: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    form_value: str
    """The address to put into the form's field again. A password in it is replaced by `***`."""


def parse_sip_address_for_view(text: str) -> AddressView:
    """Parses an address, which need not be valid, and returns what the page shows of it."""
    uri = SipUri.parse(text)
    span = password_span(text)
    findings = tuple(
        NumberedFinding(number, found.code, found.severity, found.detail, _excerpt(text, found, span))
        for number, found in enumerate(uri.findings, start=1)
    )
    return AddressView(
        segments=tuple(_segments(text, uri.findings, span)),
        hidden_length=max(0, len(text) - MAX_SHOWN_LENGTH),
        findings=findings,
        valid=uri.valid,
        verdict=_verdict(uri.findings),
        parts=tuple(_named_address_parts(uri)),
        parameters=tuple(_printable_pairs(uri.uri_parameters)),
        headers=tuple(_printable_pairs(uri.headers)),
        form_value=text if span is None else f"{text[: span[0]]}***{text[span[1] :]}",
    )


def _verdict(findings: Sequence[Finding]) -> str:
    errors = sum(found.severity is Severity.ERROR for found in findings)
    others = len(findings) - errors
    if errors:
        return f"Calls to this address are refused: {_count_with_noun(errors, 'error')}."
    if others:
        return f"Calls to this address are sent to Twilio. {_count_with_noun(others, 'finding')} to read first."
    return "Calls to this address are sent to Twilio. Nothing was found."


def _count_with_noun(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _segments(text: str, findings: Sequence[Finding], password: tuple[int, int] | None) -> Iterator[Segment]:
    """Yields the text in pieces. A piece ends where a finding begins or ends. The password is one masked piece.

    `password` has the start and the end of the password in the text; None if there is no password.
    """
    masked_from, masked_to = password or (0, 0)
    end = min(len(text), MAX_SHOWN_LENGTH)
    cuts = {0, end, masked_from, masked_to, *(found.start for found in findings), *(found.end for found in findings)}
    in_order = sorted(cut for cut in cuts if 0 <= cut <= end and not masked_from < cut < masked_to)
    for start, stop in zip(in_order, [*in_order[1:], end], strict=True):
        if missing := _finding_numbers(findings, partial(_is_missing_part_at, start)):
            yield Segment("", missing, _highest_severity(findings, missing))
        if start == stop:
            continue
        numbers = _finding_numbers(findings, partial(_is_about_text_range, start, stop))
        shown = MASK if masked_from <= start < masked_to else escape_invisible(text[start:stop])
        if numbers:
            shown = _mark_spaces(shown)
        yield Segment(shown, numbers, _highest_severity(findings, numbers) if numbers else None)


def _is_missing_part_at(place: int, found: Finding) -> bool:
    """Returns whether the finding says that something is missing at the index `place` of the address."""
    return found.start == found.end == place


def _is_about_text_range(start: int, stop: int, found: Finding) -> bool:
    """Returns whether the finding is about at least one character of the text from `start` to before `stop`."""
    return found.start < stop and found.end > start


def _finding_numbers(findings: Sequence[Finding], applies: Callable[[Finding], bool]) -> tuple[int, ...]:
    """Returns the numbers (beginning with 1) of the findings for which `applies` is true."""
    return tuple(number for number, found in enumerate(findings, start=1) if applies(found))


def _highest_severity(findings: Sequence[Finding], numbers: Sequence[int]) -> Severity:
    return min((findings[number - 1].severity for number in numbers), key=_SEVERITIES.index)


def _excerpt(text: str, found: Finding, password: tuple[int, int] | None) -> str:
    """Returns the part of the address `text` to which the finding points, with the password masked.

    Escapes invisible characters, and cuts the part off after _EXCERPT_LENGTH characters. `password` is the start and the end of
    the password in `text`; None if there is none.
    """
    start, end = found.start, found.end
    if password is None or end <= password[0] or start >= password[1]:
        shown = _mark_spaces(escape_invisible(text[start:end]))
    else:
        shown = f"{escape_invisible(text[start : password[0]])}{MASK}{escape_invisible(text[password[1] : end])}"
    return shown if len(shown) <= _EXCERPT_LENGTH else f"{shown[:_EXCERPT_LENGTH]}…"


def _named_address_parts(uri: SipUri) -> Iterator[tuple[str, str]]:
    password = None if uri.password is None else MASK
    named = {"Scheme": uri.scheme, "User": uri.user, "Password": password, "Host": uri.host, "Port": uri.port}
    return ((name, escape_invisible(str(value))) for name, value in named.items() if value is not None)


def _printable_pairs(pairs: NameValuePairs) -> Iterator[tuple[str, str]]:
    return ((escape_invisible(name), "(not UTF-8)" if value is None else escape_invisible(value)) for name, value in pairs)


def _mark_spaces(shown: str) -> str:
    """Returns ␣ for each space if the text has only spaces, so that a reader can see them; otherwise the text itself."""
    return shown if shown.strip(" ") else shown.replace(" ", "␣")


def escape_invisible(text: str) -> str:
    """Returns the text with escape sequences instead of characters that are invisible or change the direction of text."""
    return "".join(_escape_sequence(character) if _is_invisible(character) else character for character in text)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE_CATEGORIES or (character.isspace() and character != " ")


def _escape_sequence(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
