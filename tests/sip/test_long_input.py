"""Parsing takes linear time for any text, and a text that is too long is refused early.

No test decides by the clock. Three things are shown: no pattern can backtrack without bound; the number of lines of
Python executed grows no faster than the text; and every hostile shape gets its answer.
"""

import importlib
import pkgutil
import re
import sys
from types import FrameType
from typing import Any

import pytest

import app.sip
from app.sip import SipUri
from app.sip.findings import MAX_FINDINGS
from app.sip.grammar import SIP_URI
from app.sip.uri import MAX_PARSED_LENGTH

# The start of a text, its repeated part, and its end.
SHAPES = {
    "labels": ("sip:a@", "a.", "com"),
    "dashes in a label": ("sip:a@", "a-", "!"),
    "labels of dashes": ("sip:a@", "-.", "com"),
    "numeric labels": ("sip:a@", "1.", "1"),
    "no host": ("sip:", "a", ""),
    "user without host": ("sip:", "a;", "@"),
    "digits of a port": ("sip:a@example.com:", "9", ""),
    "parameters": ("sip:a@example.com", ";a", ""),
    "parameters with values": ("sip:a@example.com", ";a=b", "="),
    "transports": ("sip:a@example.com", ";transport=%", "\n"),
    "transport of token characters": ("sip:a@example.com;transport=", "a`", ":"),
    "empty parameters": ("sip:a@example.com", ";", ""),
    "headers": ("sip:a@example.com?a=", "&a=", ""),
    "headers without values": ("sip:a@example.com?a", "&a", ""),
    "escaped line ends": ("sip:a@example.com?X-A=", "%0d%0a", ""),
    "double escapes": ("sip:a@example.com?X-A=", "%25", "0d"),
    "not UTF-8": ("sip:a@example.com?X-A=", "%ff", ""),
    "plus signs": ("sip:a@example.com?X-A=a", "+a", ""),
    "bad escapes": ("sip:", "%0", "@example.com"),
    "at signs": ("sip:a", "@", "example.com"),
    "colons": ("sip:a@", ":", ""),
    "brackets": ("sip:a@", "[", ""),
    "IPv6 groups": ("sip:a@[", "1:", "]"),
    "illegal here and there": ("sip:", "a^", "@example.com"),
    "control here and there": ("sip:", "a\n", "@example.com"),
    "emoji": ("sip:", "\U0001f600", "@example.com"),
    "surrogates": ("sip:", "a\ud800", "@example.com"),
    "white space": (" ", " ", "sip:a@example.com"),
    "schemes": ("", "sip:", "a@example.com"),
    "scheme characters": ("", "s", ""),
}


def text_of(shape: str, length: int) -> str:
    head, period, tail = SHAPES[shape]
    return head + period * ((length - len(head) - len(tail)) // len(period)) + tail


MODULES = [importlib.import_module(f"app.sip.{module.name}") for module in pkgutil.iter_modules(app.sip.__path__)]
PATTERNS = [
    pytest.param(value, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
]


def unbounded_repeats(parsed: Any) -> list[str]:
    """Returns the repeats of a parsed pattern that are not possessive and may backtrack over more than eight matches."""
    if isinstance(parsed, list | tuple) or type(parsed).__name__ == "SubPattern":
        found = [name for part in parsed for name in unbounded_repeats(part)]
        if len(parsed) == 2 and str(parsed[0]) in ("MAX_REPEAT", "MIN_REPEAT") and int(parsed[1][1]) > 8:
            found.append(f"{parsed[0]} up to {parsed[1][1]}")
        return found
    return []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_pattern_can_backtrack_over_more_than_a_few_characters(pattern: re.Pattern[str]) -> None:
    """Every repeat is possessive or bounded, so a pattern tries a fixed number of ways at each place."""
    parser = importlib.import_module("re._parser")
    assert unbounded_repeats(parser.parse(pattern.pattern, pattern.flags)) == []


def test_the_search_for_unbounded_repeats_finds_them() -> None:
    parser = importlib.import_module("re._parser")
    for pattern in ("(a+)+b", "(?:x|(?:a|b*))c", "(?=a*)b", "a{2,}", "(?>a+?b)"):
        assert unbounded_repeats(parser.parse(pattern))


def lines_executed(text: str) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        SipUri.parse(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_the_text_takes_at_most_twice_the_steps(shape: str) -> None:
    short, long = lines_executed(text_of(shape, 12_000)), lines_executed(text_of(shape, 24_000))
    assert long <= 2.01 * short + 50


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [100, 254, 1_000, 20_000, 60_000, 100_000])
def test_every_hostile_text_gets_a_short_result(shape: str, length: int) -> None:
    text = text_of(shape, length)
    uri = SipUri.parse(text)
    assert uri.text is text
    assert len(uri.findings) <= MAX_FINDINGS
    if length >= 20_000:
        assert {finding.code for finding in uri.findings} <= {"ADDRESS_TOO_LONG", "HEADERS_TOO_LONG"}
        assert not uri.valid
    assert SIP_URI.fullmatch(text) is not None or not uri.valid


def test_a_text_longer_than_a_message_is_refused_without_parsing() -> None:
    longest_read = SipUri.parse(text_of("labels", MAX_PARSED_LENGTH - 1))
    unread = SipUri.parse(text_of("labels", MAX_PARSED_LENGTH + 3))
    assert longest_read.host is not None
    assert (unread.scheme, unread.host) == (None, None)
    assert [finding.code for finding in unread.findings] == ["ADDRESS_TOO_LONG"]
    assert lines_executed(text_of("labels", 100_000)) == lines_executed(text_of("labels", 10_000_000))


def test_an_error_is_always_among_the_findings() -> None:
    many = "".join(f";p{n}" for n in range(MAX_FINDINGS * 2))
    uri = SipUri.parse(f"sip:a@example.com{many};maddr=192.0.2.1")
    assert not uri.valid
    assert [finding.code for finding in uri.findings][-1] == "MADDR_OVERRIDES_HOST"
    assert len(uri.findings) == MAX_FINDINGS
    assert len(uri.uri_parameters) == MAX_FINDINGS * 2 + 1
