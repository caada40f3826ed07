"""Tests the view of a SIP address: faults are marked in the text, and a password is never shown."""

from typing import Any

import pytest

from app.console.sip.view import MASK, MAX_SHOWN_LENGTH, AddressView, escape_invisible, parse_sip_address_for_view
from app.sip import Severity
from tests.sip.test_public_cases import cases

PASSWORD = "pl4nted"


def marked(view: AddressView) -> list[tuple[str, tuple[int, ...]]]:
    return [(segment.text, segment.numbers) for segment in view.segments if segment.numbers]


def shown(view: AddressView) -> str:
    return "".join(segment.text for segment in view.segments)


def test_a_plain_address_has_its_parts_and_no_mark() -> None:
    view = parse_sip_address_for_view("sip:kate@example.com:5070;edge=dublin?X-Order=12%203")
    assert view.valid
    assert not marked(view)
    assert view.verdict == "Calls to this address are sent to Twilio. Nothing was found."
    assert view.parts == (("Scheme", "sip"), ("User", "kate"), ("Host", "example.com"), ("Port", "5070"))
    assert view.parameters == (("edge", "dublin"),)
    assert view.headers == (("X-Order", "12 3"),)


def test_each_finding_marks_its_text() -> None:
    view = parse_sip_address_for_view("sip:ka te@exa_mple.com;transport=quic")
    assert not view.valid
    texts = {number: text for text, numbers in marked(view) for number in numbers}
    assert texts == {1: "␣", 2: "exa_mple.com", 3: "transport=quic"}
    assert [found.code for found in view.findings] == ["BAD_USER", "BAD_HOST", "TRANSPORT_NOT_SUPPORTED"]
    assert [found.excerpt for found in view.findings] == list(texts.values())
    assert view.verdict == "Calls to this address are refused: 3 errors."
    assert shown(view) == "sip:ka␣te@exa_mple.com;transport=quic"


def test_overlapping_findings_share_a_piece_and_the_gravest_colours_it() -> None:
    view = parse_sip_address_for_view("sips:kate@example.com;transport=udp")
    pieces = {segment.text: segment for segment in view.segments}
    assert {found.code for found in view.findings} >= {"SIPS_SCHEME", "SIPS_OVER_UDP"}
    assert pieces["sips"].severity is Severity.POLICY
    assert any(piece.severity is Severity.ERROR for piece in pieces.values())
    assert shown(view) == "sips:kate@example.com;transport=udp"


def test_what_is_missing_is_marked_where_it_belongs() -> None:
    view = parse_sip_address_for_view("sip:kate@;edge=dublin")
    (missing,) = (segment for segment in view.segments if not segment.text)
    assert view.findings[missing.numbers[0] - 1].code == "BAD_HOST"
    assert [segment.text for segment in view.segments] == ["sip:kate@", "", ";edge=dublin"]
    assert parse_sip_address_for_view("").findings[0].code == "EMPTY"


@pytest.mark.parametrize(
    "text",
    [
        f"sip:kate:{PASSWORD}@example.com",
        f"sip:kate:{PASSWORD}%41@example.com",
        f"sip:kate:{PASSWORD}\u202e#@example.com",
        f"kate:{PASSWORD}@example.com",
        f"sip:kate:{PASSWORD}@two@example.com",
        f"SIPS:kate:{PASSWORD} {PASSWORD}@example.com;x",
    ],
)
def test_a_password_is_masked_everywhere(text: str) -> None:
    view = parse_sip_address_for_view(text)
    assert not view.valid
    assert PASSWORD not in repr(view)
    assert MASK in shown(view)
    assert "***@" in view.form_value


def test_invisible_characters_are_shown_as_escapes() -> None:
    view = parse_sip_address_for_view("sip:ka\u202ete\r\n@example.com")
    assert shown(view) == r"sip:ka\u202ete\x0d\x0a@example.com"
    assert "\r" not in repr(view.segments)


def test_a_long_text_is_cut() -> None:
    view = parse_sip_address_for_view("sip:" + "a" * 70_000)
    assert len(shown(view)) == MAX_SHOWN_LENGTH
    assert view.hidden_length == 70_004 - MAX_SHOWN_LENGTH
    assert view.findings[0].code == "ADDRESS_TOO_LONG"
    assert max(len(found.excerpt) for found in view.findings) < 100


def test_no_password_is_no_mask() -> None:
    view = parse_sip_address_for_view("sip:kate:@example.com")
    assert shown(view) == "sip:kate:@example.com"


@pytest.mark.parametrize("case", cases("public.jsonl"))
def test_the_pieces_make_up_the_collected_addresses(case: dict[str, Any]) -> None:
    view = parse_sip_address_for_view(case["uri"])
    if MASK not in shown(view):
        assert shown(view).replace("␣", " ") == escape_invisible(case["uri"])[: len(shown(view))]
    numbers = {number for segment in view.segments for number in segment.numbers}
    assert numbers == {found.number for found in view.findings}
