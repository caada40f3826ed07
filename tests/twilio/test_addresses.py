"""Tests the keys with which addresses are compared: one key for all spellings of an address, another for another party."""

import pytest

from app.twilio.addresses import (
    address_key,
    address_spellings,
    caller_key,
    has_no_optional_parts,
    is_same_address,
    is_same_caller,
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
        '"Kate" <sip:kate@example.com>;tag=1'.partition(";")[0],
    ],
    "sip:a%40b@example.com": ["sip:a@b@example.com"],
    "sip:a%3Fb@example.com": ["sip:a?b@example.com"],
    "sip:a%2541@example.com": ["sip:a%41@example.com", "sip:aA@example.com", "aa@example.com"],
    "sip:a%252541@example.com": ["sip:a%2541@example.com", "sip:a%41@example.com", "sip:aA@example.com"],
    "sip:kate%3Ax@example.com": ["sip:kate:x@example.com", "kate%3Ax@example.com", "kate:x@example.com"],
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
    assert address_key(shown) == address_key(sent)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_different_parties_have_different_keys(one: str, other: str) -> None:
    assert address_key(one) != address_key(other)


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
    ],
)
def test_other_addresses_are_not_plain(address: str) -> None:
    assert not has_no_optional_parts(address)
