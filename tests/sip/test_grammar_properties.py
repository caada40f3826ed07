"""Property tests of the SIP grammar, with generated URIs, a second grammar, and errors of one character."""

import json
import re
from functools import cache
from pathlib import Path
from string import ascii_letters, digits, hexdigits

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lark import Lark
from lark.exceptions import LarkError

from app.sip import Severity, SipUri
from app.sip.findings import MAX_FINDINGS
from app.sip.grammar import SIP_URI
from app.sip.header_names import HEADERS_DROPPED_BY_TWILIO
from app.sip.rules import HEADERS_WITHOUT_FINDINGS_PATTERN, PARAMS_WITHOUT_FINDINGS_BY_TEXT, USER_WITHOUT_FINDINGS_PATTERN

few = settings(max_examples=50)
many = settings(max_examples=200)

UNRESERVED = ascii_letters + digits + "-_.!~*'()"
PUBLIC = Path(__file__).parents[1] / "data" / "sip" / "public.jsonl"


def run_of(characters: str, least: int = 1, most: int = 8) -> st.SearchStrategy[str]:
    escaped = st.tuples(st.sampled_from(hexdigits), st.sampled_from(hexdigits)).map(lambda two: f"%{two[0]}{two[1]}")
    return st.lists(st.sampled_from(characters) | escaped, min_size=least, max_size=most).map("".join)


def label(first: str) -> st.SearchStrategy[str]:
    tail = st.text(ascii_letters + digits + "-", max_size=6).filter(lambda text: not text.endswith("-"))
    return st.tuples(st.sampled_from(first), tail).map("".join)


hostnames = st.tuples(
    st.lists(label(ascii_letters + digits), max_size=3).map(lambda labels: "".join(f"{one}." for one in labels)),
    label(ascii_letters),
    st.sampled_from(["", "."]),
).map("".join)
hosts = (
    hostnames
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
    | st.ip_addresses(v=6).map(lambda address: f"[{address.exploded.upper()}]")
    | st.ip_addresses(v=4).map(lambda address: f"[::ffff:{address}]")
)
users = run_of(UNRESERVED + "&=+$,;?/")
passwords = run_of(UNRESERVED + "&=+$,", least=0)
parameter_text = run_of(UNRESERVED + "[]/:&+$")
tokens = st.text(ascii_letters + digits + "-.!%*_+`'~", min_size=1, max_size=6)
parameters = (
    st.tuples(parameter_text, st.just("") | parameter_text.map(lambda value: f"={value}")).map("".join)
    | st.tuples(st.sampled_from(["transport=", "Method=", "user="]), tokens).map("".join)
    | st.sampled_from(
        ["lr", "ttl=1", "maddr=192.0.2.1", "secure=true", *(written[1:] for written in PARAMS_WITHOUT_FINDINGS_BY_TEXT)]
    )
)
header_text = UNRESERVED + "[]/?:+$"
header_names = run_of(header_text) | st.sampled_from(["X-A", "X-B", "x-a", "X-Twilio-A", "Subject", "User-to-User"])
headers = st.tuples(header_names, run_of(header_text, least=0)).map("=".join)


@st.composite
def sip_uris(draw: st.DrawFn) -> str:
    parts = [draw(st.sampled_from(["sip:", "sips:", "SIP:", "sIpS:"]))]
    if draw(st.booleans()):
        parts.append(draw(users))
        if draw(st.booleans()):
            parts.append(f":{draw(passwords)}")
        parts.append("@")
    parts.append(draw(hosts))
    if draw(st.booleans()):
        parts.append(f":{draw(st.text(digits, min_size=1, max_size=6))}")
    parts += [f";{one}" for one in draw(st.lists(parameters, max_size=3))]
    if listed := draw(st.lists(headers, max_size=3)):
        parts.append("?" + "&".join(listed))
    return "".join(parts)


# Characters that separate, end, escape, are invisible, or look like another character.
mutants = st.sampled_from('@:;?&=%[].-/\\"<>,#`^|{} aZ09+*~_\t\r\n\0\x7féſ\u212a\u2028１\u200b😀\ud800')


@st.composite
def almost_sip_uris(draw: st.DrawFn) -> str:
    text = draw(sip_uris() | st.sampled_from(valid_public_uris()))
    at = draw(st.integers(0, len(text) - 1))
    match draw(st.sampled_from(["replace", "insert", "delete", "swap"])):
        case "replace":
            return text[:at] + draw(mutants) + text[at + 1 :]
        case "insert":
            return text[:at] + draw(mutants) + text[at:]
        case "delete":
            return text[:at] + text[at + 1 :]
        case _:
            return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]


@cache
def valid_public_uris() -> list[str]:
    cases = [json.loads(line) for line in PUBLIC.read_text().splitlines()]
    return [case["uri"] for case in cases if case["abnf_match"] and len(case["uri"]) < 80]


@cache
def other_grammar() -> Lark:
    text = (Path(__file__).parent / "sip_uri.lark").read_text()
    return Lark(text, parser="earley", lexer="dynamic", ambiguity="resolve", g_regex_flags=re.ASCII)


def other_grammar_accepts(text: str) -> bool:
    try:
        other_grammar().parse(text)
    except LarkError:
        return False
    return True


def assert_invariants(uri: SipUri, text: str) -> None:
    """Asserts what holds for the parsed URI of any text, such as findings that lie within the text."""
    assert uri.text == text
    assert all(0 <= finding.start <= finding.end <= len(text) for finding in uri.findings)
    assert uri.valid is not any(finding.severity is Severity.ERROR for finding in uri.findings)
    if SIP_URI.fullmatch(text) is None:
        assert not uri.valid
    json.dumps(uri.as_dict(), ensure_ascii=False).encode()
    assert uri == SipUri.parse(text)
    assert hash(uri) == hash(SipUri.parse(text))


@many
@given(sip_uris())
def test_a_generated_uri_is_accepted_by_the_syntax_and_keeps_its_spelling(text: str) -> None:
    uri = SipUri.parse(text)
    assert_invariants(uri, text)
    assert not {finding.code for finding in uri.findings} & {
        *("EMPTY", "BAD_SCHEME", "BAD_USER", "BAD_PASSWORD", "BAD_HOST", "BAD_PORT", "BAD_PARAM", "BAD_HEADER"),
        *("BAD_ESCAPE", "NON_ASCII"),
    }
    match = SIP_URI.fullmatch(text)
    assert match
    scheme, user, password, host, port, listed, asked = match.groups()
    userinfo = "" if user is None else user + ("" if password is None else f":{password}") + "@"
    assert text == (
        f"{scheme}:{userinfo}{host}{'' if port is None else ':' + port}{listed}{'' if asked is None else '?' + asked}"
    )


@few
@given(sip_uris())
def test_the_other_grammar_accepts_a_generated_uri(text: str) -> None:
    assert other_grammar_accepts(text)


@many
@given(almost_sip_uris())
@example("sip:a@example.com\n")
@example("ſip:a@example.com")
@example("sip:a@example.com;tranſport=`")
@example("sip:a@example.com:５０６０")
@example("sip:a@[1:2:3:4:5:6:7::]")
@example("sip:a@[1::2:3:4:5:6:7:8]")
@example("sip:a@example.com;transport=a`:b")
@example("sip:a@example.com;x=`")
@example("sip:a@a..b")
@example("sip:a@a-.b")
@example("sip:a@a.b-")
@example("sip:a@01.2.3.4")
@example("sip:a@1.2.3.04")
@example("sip:a@[::1.2.3.04]")
@example("sip:a@1.2.3.a")
def test_with_one_wrong_character_both_grammars_agree(text: str) -> None:
    uri = SipUri.parse(text)
    assert_invariants(uri, text)
    assert (SIP_URI.fullmatch(text) is not None) is other_grammar_accepts(text)
    # The diagnosis always finds a specific reason.
    assert not any(finding.code == "BAD_SYNTAX" and finding.end == len(text) > 0 == finding.start for finding in uri.findings)


@many
@given(st.text(st.characters(exclude_categories=[])))
def test_every_text_is_parsed_without_an_error(text: str) -> None:
    for prefix in ("", "sip:", "sip:a@", "sip:a@b.example;", "sip:a@b.example?"):
        assert_invariants(SipUri.parse(prefix + text), prefix + text)


@many
@given(sip_uris(), sip_uris())
def test_equality_is_symmetric_and_agrees_with_the_hash(a: str, b: str) -> None:
    one, other = SipUri.parse(a), SipUri.parse(b)
    assert (one == other) is (other == one)
    if one == other:
        assert hash(one) == hash(other)


@many
@given(sip_uris())
def test_an_unreserved_character_equals_its_escape(text: str) -> None:
    user = SIP_URI.fullmatch(text)
    assert user
    if user["user"] is None or not any(character.isalnum() for character in user["user"]):
        return
    start = user.start("user")
    found = re.search(r"(?<!%)(?<!%[0-9A-Fa-f])[A-Za-z0-9]", user["user"])
    if found:
        at = start + found.start()
        escaped = f"{text[:at]}%{ord(text[at]):02x}{text[at + 1 :]}"
        assert (SipUri.parse(escaped) == SipUri.parse(text)) is (len(set(names_of(text))) == len(names_of(text)))


def names_of(text: str) -> list[str]:
    return [name.lower() for name, _ in SipUri.parse(text).uri_parameters]


@many
@given(st.from_regex(USER_WITHOUT_FINDINGS_PATTERN, fullmatch=True), st.lists(headers, min_size=1, max_size=2))
def test_the_fast_paths_skip_no_value_with_a_finding(user: str, listed: list[str]) -> None:
    uri = SipUri.parse(f"sip:a{user}@example.com")
    assert uri.findings == ()
    written = "&".join(listed)
    for name, value in HEADERS_WITHOUT_FINDINGS_PATTERN.findall(written):
        assert name.lower().startswith("x-")
        assert not name.lower().startswith("x-twilio")
        assert name.lower() not in HEADERS_DROPPED_BY_TWILIO
        decoded = dict(SipUri.parse(f"sip:a@example.com?{name}={value}").headers)[name]
        assert decoded is not None
        assert decoded.isascii()
        assert decoded.isprintable()
        assert not re.search("%[0-9A-Fa-f]{2}", decoded)
        assert "+" not in value


@many
@given(st.lists(st.tuples(header_names, run_of(header_text, least=0)), min_size=1, max_size=3))
def test_header_lists_are_read_the_same_with_and_without_the_fast_path(listed: list[tuple[str, str]]) -> None:
    written = "&".join(map("=".join, listed))
    # A name that always has a finding disables the fast path for the whole list.
    short, long = SipUri.parse(f"sip:a@example.com?{written}"), SipUri.parse(f"sip:a@example.com?Q=1&{written}")
    assert long.headers[1:] == short.headers
    assume(len(long.findings) < MAX_FINDINGS)
    assert [(finding.code, finding.start + 4) for finding in short.findings] == [
        (finding.code, finding.start) for finding in long.findings[1:]
    ]


@pytest.mark.parametrize("scheme", ["sip", "sips"])
def test_parameter_lists_are_read_the_same_with_and_without_the_fast_path(scheme: str) -> None:
    for written in PARAMS_WITHOUT_FINDINGS_BY_TEXT:
        short, long = SipUri.parse(f"{scheme}:a@example.com{written}"), SipUri.parse(f"{scheme}:a@example.com{written};q")
        assert long.uri_parameters == (*short.uri_parameters, ("q", None))
        assert [finding.code for finding in long.findings if finding.code != "OTHER_PARAM"] == [
            finding.code for finding in short.findings
        ]
