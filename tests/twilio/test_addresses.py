"""Tests the keys with which addresses are compared: one key for all spellings of an address, another for another party."""

from itertools import product
from urllib.parse import unquote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.sip import SipUri
from app.sip.grammar import SIP_URI
from app.twilio.addresses import (
    address_key,
    address_spellings,
    caller_key,
    has_no_optional_parts,
    is_same_address,
    is_same_caller,
    possible_address_keys,
)

SHOWN = {
    "sip:kate@example.com": [
        "sip:kate@EXAMPLE.com",
        "SIP:Kate@example.com.",
        "sips:kate@example.com",
        "kate@example.com",
        "sip:kate@example.com:5061;transport=tls;edge=dublin",
        "sip:kate:secret@example.com",
        "sip:kate;isub=1@example.com",
        "sip:%6B%61te@example.com?X-a=1&X-b=x%40y",
        "sip:kate@example.com?X-b=x@y",
        '"Kate" <sip:kate@example.com>',
        'Kate <sip:kate@example.com?X-b="a" <c>>',
        r'"K\"a?te: <x>" <kate@example.com>',
    ],
    "sip:a%40b@example.com": ["sip:a@b@example.com"],
    "sip:a%3Fb@example.com": ["sip:a?b@example.com"],
    "sip:a%2541@example.com": ["sip:a%41@example.com", "sip:aA@example.com", "aa@example.com"],
    "sip:a%252541@example.com": ["sip:a%2541@example.com", "sip:a%41@example.com", "sip:aA@example.com"],
    "sip:kate%3Ax@example.com": ["sip:kate:x@example.com", "kate%3Ax@example.com", "kate:x@example.com"],
    "sip:kate@example.com?Remote-Party-ID=%3Csip:foo%40example.org%3E": [
        "sip:kate@example.com",
        "sip:kate@example.com?Remote-Party-ID=<sip:foo@example.org>",
        "kate@example.com?Remote-Party-ID=<sip:foo@example.org>",
        "<sip:kate@example.com?Remote-Party-ID=<sip:foo@example.org>>",
    ],
    "sip:kate@example.com;x=%3Cb%3E": ["sip:kate@example.com;x=<b>", "kate@example.com;x=<b>"],
    "sip:%3Ckate@example.com;x=b%3E": ["sip:<kate@example.com;x=b>", "<kate@example.com;x=b>"],
    "sip:pbx?X-b=%3Cc%3E": ["sip:pbx?X-b=<c>", "pbx?X-b=<c>"],
    "sip:pbx;x=a%40b": ["sip:pbx;x=a@b", "sip:pbx", "pbx", "sip:pbx;x=a%40b?X-b=c"],
    "sip:example.com?X-b=x%40y": ["sip:example.com", "sip:EXAMPLE.com?X-b=x@y", "example.com", "example.com?X-b=x@y"],
    "sip:EXAMPLE.com:5060;transport=tcp": ["example.com:5060;transport=tcp", "example.com:5060", "Example.com;transport=tcp"],
    "sip:pbx": ["pbx", "pbx:5060"],
    "sip:203.0.113.4:5060": ["203.0.113.4", "203.0.113.4:5060", "203.0.113.4;transport=tcp", "sips:203.0.113.4"],
    "sip:[2001:db8::1]": ["[2001:DB8::1]", "[2001:db8::1]:5060"],
    "sip:kate@[2001:DB8:0::1]:5060": ["sip:kate@[2001:db8::1]"],
    "sip:+14155550100@example.com": [
        "sip:14155550100@example.com",
        "sip: 14155550100@example.com",
        "sip:4155550100@example.com",
    ],
    "+14155550100": ["+1.415.555.0100", "14155550100", "4155550100", "(415) 555-0100", "tel:+1-415-555-0100", "0014155550100"],
    "client:Alice": ["client:alice", "client:alice?x=1"],
    "client:a%3Cb%3E": ["client:a<b>"],
}
OTHERS = [
    ("sip:kate@example.com", "sip:kate@example.org"),
    ("sip:kate@example.com", "sip:kate.smith@example.com"),
    ("sip:kate@example.com", "sip:example.com"),
    ("sip:1001@example.com", "sip:1002@example.com"),
    ("+14155550100", "+14155550101"),
    ("client:alice", "sip:alice@example.com"),
    ("+20301134", "sip:203.0.113.4"),
    ("sip:example.com", "sip:example.org"),
    ("sip:example.com", "client:example.com"),
]


@pytest.mark.parametrize(("sent", "shown"), [(sent, one) for sent, all_ in SHOWN.items() for one in all_])
def test_all_spellings_of_an_address_have_the_same_key(sent: str, shown: str) -> None:
    assert address_key(shown) in possible_address_keys(sent)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_different_parties_have_different_keys(one: str, other: str) -> None:
    assert address_key(one) not in possible_address_keys(other)
    assert address_key(other) not in possible_address_keys(one)


CHARACTERS = [*"ab0-_.!~*'()&=+$,;?/", "+1415", *(f"%{octet:02X}" for octet in b' @<>":%;?#&=,+[]'), "%C3%A9", "%2540", "%253E"]
HOSTS = ["example.com", "EXAMPLE.com", "pbx", "203.0.113.4", "[2001:db8::1]", "example.com."]


def text_of(least: int, most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(CHARACTERS), min_size=least, max_size=most).map("".join)


@st.composite
def valid_sip_uris(draw: st.DrawFn) -> str:
    user = draw(st.just("") | text_of(1, 5).map(lambda text: f"{text}@"))
    place = draw(st.sampled_from(HOSTS)) + draw(st.sampled_from(["", ":5060"]))
    parameter = draw(st.just("") | text_of(1, 3).map(lambda text: f";x={text}"))
    header = draw(st.just("") | text_of(0, 5).map(lambda text: f"?Remote-Party-ID={text}"))
    uri = draw(st.sampled_from(["sip:", "sips:", "SIP:"])) + user + place + parameter + header
    assume(SipUri.parse(uri).valid)
    return uri


@pytest.mark.parametrize("address", ["client:a%00b", "client:a%2500b", "sip:k%25%2530%2530@a.example", "sip:pbx%00", "+1%0041"])
def test_a_key_has_no_nul(address: str) -> None:
    assert "\0" not in address_key(address)


@given(valid_sip_uris())
def test_an_address_has_the_same_key_if_twilio_decodes_it(uri: str) -> None:
    assert address_key(unquote(uri)) == address_key(uri)
    assert address_key(uri) in possible_address_keys(uri)


@settings(max_examples=30)
@given(valid_sip_uris())
def test_an_address_has_one_of_its_keys_if_twilio_omits_parts_of_it(uri: str) -> None:
    match = SIP_URI.fullmatch(uri)
    assert match is not None
    schemes = (f"{match['scheme']}:", "sip:", "")
    users = ("",) if match["user"] is None else (f"{match['user']}@", f"{unquote(match['user'])}@")
    ports = ("", f":{match['port']}" if match["port"] else "")
    parameters = ("", match["parameters"], unquote(match["parameters"]))
    headers = ("", f"?{match['headers']}" if match["headers"] else "")
    for scheme, user, port, parameter, header in product(schemes, users, ports, parameters, headers):
        assert address_key(f"{scheme}{user}{match['host']}{port}{parameter}{header}") in possible_address_keys(uri)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("Jack", "jack"),
        ("Jack", "sip:Jack@sip.twilio.com"),
        ("Jack", "sips:JACK@1.2.3.4:5061;x=1"),
        ("Jack", '"Jack" <sip:jack@x.example>'),
        ("+14155550100", "sip:14155550100@x.example"),
        ("+14155550100", "14155550100"),
        ("client:Jack", "client:jack"),
    ],
)
def test_all_spellings_of_a_caller_have_the_same_key(sent: str, shown: str) -> None:
    assert caller_key(shown) == caller_key(sent)
    assert caller_key(shown) != caller_key("Jill")


def test_equivalent_addresses_are_the_same() -> None:
    assert is_same_address("sip:kate@EXAMPLE.com", "sip:kate@example.com")
    assert not is_same_address("sip:Kate@example.com", "sip:kate@example.com")
    assert not is_same_address("sip:kate@example.com?X-a=1", "sip:kate@example.com")
    assert not is_same_address("+14155550100", "14155550100")
    assert is_same_caller("Jack", "sip:Jack@sip.twilio.com")
    assert not is_same_caller("Jack", "jack")


def test_spellings_of_an_address() -> None:
    assert list(address_spellings("+14155550100")) == ["+14155550100"]
    assert list(address_spellings("client:Alice?foo=bar")) == ["client:Alice?foo=bar", "client:Alice", "client:alice"]
    assert list(address_spellings("sip:kate@example.com")) == ["sip:kate@example.com"]
    assert list(address_spellings("sips:Kate@EXAMPLE.com:5061;edge=dublin?X-a=1")) == [
        "sips:Kate@EXAMPLE.com:5061;edge=dublin?X-a=1",
        "sips:Kate@example.com:5061;edge=dublin?X-a=1",
        "sips:Kate@EXAMPLE.com:5061;edge=dublin",
        "sips:Kate@example.com",
        "sip:kate@example.com",
    ]


@pytest.mark.parametrize(
    "address", ["sip:Kate@EXAMPLE.com", "sip:+1@example.com", "sip:kate@[::1]", "+14155550100", "client:a"]
)
def test_a_plain_address_has_no_parts_to_omit(address: str) -> None:
    assert has_no_optional_parts(address)


@pytest.mark.parametrize(
    "address",
    [
        "sips:kate@example.com",
        "sip:kate@example.com:5060",
        "sip:kate@example.com;edge=dublin",
        "sip:kate@example.com?X-a=1",
        "sip:k%61te@example.com",
        "sip:kate:secret@example.com",
        "sip:kate;a=1@example.com",
        "client:alice?foo=bar",
        "client:al%69ce",
    ],
)
def test_other_addresses_are_not_plain(address: str) -> None:
    assert not has_no_optional_parts(address)
