"""Tests rules for SIP URIs that the collection of cases lacks, such as odd spellings of hosts, credentials and equality."""

import json

import pytest

from app.sip import Finding, SipUri, check_from_parameter, check_sip_auth
from app.sip.findings import HEADER_IN_VALUE_ADVICE


def codes(text: str) -> list[str]:
    return [finding.code for finding in SipUri.parse(text).findings]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "0.0.0.0",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.8",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7F00:1]",
        "[0:0:0:0:0:ffff:10.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "[fc00::1]",
        "[fdff::1]",
        "[fe80::1]",
        "[febf::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
        "[2001:2::1]",
    ],
)
def test_a_host_that_cannot_be_public_is_refused_in_any_spelling(host: str) -> None:
    assert "NON_PUBLIC_HOST" in codes(f"sip:kate@{host}")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("9.255.255.255", "IP_LITERAL_HOST"),
        ("11.0.0.0", "IP_LITERAL_HOST"),
        ("100.63.255.255", "IP_LITERAL_HOST"),
        ("100.128.0.0", "IP_LITERAL_HOST"),
        ("172.15.255.255", "IP_LITERAL_HOST"),
        ("172.32.0.0", "IP_LITERAL_HOST"),
        ("192.0.2.1", "IP_LITERAL_HOST"),
        ("223.255.255.255", "IP_LITERAL_HOST"),
        ("[2606:4700::1]", "IPV6_HOST"),
        ("[::ffff:8.8.8.8]", "IPV6_HOST"),
        ("[2002:808:808::1]", "IPV6_HOST"),
        ("[::2]", "IPV4_COMPATIBLE_IPV6"),
        ("[::10.0.0.1]", "IPV4_COMPATIBLE_IPV6"),
        ("[64:ff9b::8.8.8.8]", "NAT64_EMBEDDED_IPV4"),
        ("[64:ff9b:1::a00:1]", "NAT64_EMBEDDED_IPV4"),
        ("metadata.google.internal", "NOT_A_PUBLIC_NAME"),
        ("printer.local", "NOT_A_PUBLIC_NAME"),
        ("nas.home.arpa", "NOT_A_PUBLIC_NAME"),
        ("acme.us1.sip.twilio.com", "TWILIO_LEGACY_HOST"),
        ("acme.sip.us1-ix.twilio.com", "TWILIO_LEGACY_HOST"),
        ("ACME.SIP.Tokyo.Twilio.COM.", "TWILIO_EDGE_IN_HOST"),
        ("acme.pstn.ashburn.twilio.com", "TWILIO_PSTN_HOST"),
    ],
)
def test_other_special_hosts_have_a_code_of_their_own(host: str, code: str) -> None:
    assert [found for found in codes(f"sip:kate@{host}") if found != "TRAILING_DOT"] == [code]


@pytest.mark.parametrize(
    "host", ["example.com", "a.b.example", "localhost.example.com", "10.example.com", "local.net", "notwilio.com"]
)
def test_an_ordinary_host_has_no_finding(host: str) -> None:
    assert codes(f"sip:kate@{host}") == []


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("sip:kate:secret@example.com", "PASSWORD_IN_URI", ":secret"),
        ("sip:kate@example.com;x=1;X=2", "DUPLICATE_PARAM", "X=2"),
        ("sip:kate@example.com?X-A=a%20b%0d%0ac", "CONTROL_CHAR", "%0d"),
        ("sip:kate@example.com?X-A=%C3%A9%E5%98%8D", "BYTE_TRUNCATION_CRLF", "%E5%98%8D"),
        ("sip:kate@example.com?X-A=abc%C3%A9%FF", "NOT_UTF8", "%FF"),
        ("sip:kate@example.com?X-A=1&X-B=a%25250d", "DOUBLE_ESCAPED_CONTROL", "%25"),
        ("sip:ka<te@example.com", "BAD_USER", "<"),
        ("sip:kate@exa_mple.com:5060", "BAD_HOST", "exa_mple.com"),
        ("sip:kate@example.com:50x;lr", "BAD_PORT", ":50x"),
        ("sip:kate@[2001:db8::1]5061;lr", "BAD_SYNTAX", "5061"),
        ("sip:kate@example.com;a;;b", "BAD_PARAM", ";"),
        ("sip:kate@example.com;a=b,c", "BAD_PARAM", ","),
        ("sip:kate@example.com?X-A=1&X-B", "BAD_HEADER", "X-B"),
        ("sip:kate@example.com?X-A=1;2", "BAD_HEADER", ";"),
        ("sip:kate@example.com?=b", "BAD_HEADER_NAME", "=b"),
        ("sip:kate@example.com?X-A;=1", "BAD_HEADER_NAME", ";"),
        ("sip:kate@example.com?X{a}=b", "BAD_HEADER_NAME", "{"),
        ("sip:kate@example.com?X%20A=1", "BAD_HEADER_NAME", "X%20A"),
        ("sip:michael@example.com?X-A=foo%26X-B=bar", "BAD_HEADER", "%26X-B="),
        ("sip:michael@example.com?X-A=foo%26X-B%3Dbar", "HEADER_IN_VALUE", "%26X-B%3D"),
        ("sip:kate@example.com?X-A=1%zz", "BAD_ESCAPE", "%"),
        ("sip:kate@exämple.com", "NON_ASCII", "ä"),
        ("sip:kate@example.com\r\n", "CONTROL_CHAR", "\r\n"),
        ("sip:kate@example.com:70000", "PORT_OUT_OF_RANGE", "70000"),
        ("sip:kate@example.com?X-A=1&Via=2", "HEADER_NOT_PASSED", "Via"),
        ("sip:kate@example.com?X-A=a+b", "PLUS_IS_NOT_SPACE", "+"),
    ],
)
def test_the_range_of_a_finding(text: str, code: str, where: str) -> None:
    found = next(finding for finding in SipUri.parse(text).findings if finding.code == code)
    assert text[found.start : found.end] == where


@pytest.mark.parametrize("place", ["sip:kate@example.com?X-A={}", "sip:{}@example.com", "sip:kate@example.com;x={}"])
@pytest.mark.parametrize(
    ("escapes", "is_error"),
    [
        ("%250d", True),
        ("1%25%2530%2564", True),
        ("1%25250%2564%25250%2561Evil", True),
        ("%25C2%2585", True),
        ("%25E2%2580%25A8", True),
        ("%" + "25" * 20 + "0d", True),
        ("100%25", False),
        ("100%2525%20d", False),
        ("%25%2541%2564", False),
        ("%25C3%25A9", False),
        ("%25FF", False),
    ],
)
def test_a_control_character_is_found_below_all_escapes(place: str, escapes: str, is_error: bool) -> None:
    text = place.format(escapes)
    found = {finding.code: finding for finding in SipUri.parse(text).findings}
    assert ("DOUBLE_ESCAPED_CONTROL" in found) == is_error
    if is_error:
        nested = found["DOUBLE_ESCAPED_CONTROL"]
        assert text[nested.start : nested.end] == "%25"


def test_a_control_character_that_is_escaped_once_is_reported_once() -> None:
    assert codes("sip:kate@example.com?X-A=%0d100%25") == ["CONTROL_CHAR"]
    assert codes("sip:kate@example.com?X-A=%0d%250a") == ["CONTROL_CHAR", "DOUBLE_ESCAPED_CONTROL"]


def test_an_escaped_separator_of_headers_is_explained() -> None:
    for header in ("mycustomheader=foo%26myotherheader=bar", "X-A=foo%26X-B=a=b"):
        found = [
            finding for finding in SipUri.parse(f"sip:michael@example.com?{header}").findings if finding.code == "BAD_HEADER"
        ]
        assert [finding.detail for finding in found] == [HEADER_IN_VALUE_ADVICE]
    for value in ("a%26b", "a%26b%26", "%3Da%26b", "R%26D%20a%3Db", "a%3D%3D"):
        assert codes(f"sip:michael@example.com?X-A={value}") == []


def test_all_independent_errors_are_reported_at_once() -> None:
    text = "sips:ka te:secret@exa_mple.com:5x;transport=udp;;x=a,b?Subject=1&X-A=\n&X-B"
    assert codes(text) == [
        *("SIPS_SCHEME", "BAD_USER", "PASSWORD_IN_URI", "BAD_HOST", "BAD_PORT"),
        *("BAD_PARAM", "BAD_PARAM", "CONTROL_CHAR", "BAD_HEADER"),
    ]


def test_the_valid_parts_of_an_invalid_uri_are_returned() -> None:
    uri = SipUri.parse("sip:kate@example.com;lr?X-A")
    assert (uri.user, uri.host, uri.uri_parameters, uri.headers) == ("kate", "example.com", (("lr", None),), ())


def test_the_twilio_registrar_needs_a_user() -> None:
    assert codes("sip:acme.sip.twilio.com") == ["NO_USER", "TWILIO_DOMAIN_WITHOUT_USER"]


def test_findings_on_from_cover_each_run_of_illegal_characters() -> None:
    assert [(found.start, found.end) for found in check_from_parameter("a b@@c")] == [(1, 2), (3, 5)]


@pytest.mark.parametrize(
    ("username", "password", "of_username", "of_password"),
    [
        (None, None, [], []),
        ("jack", "secret", [], []),
        ("u" * 255, "p" * 255, [], []),
        ("u" * 256, "p" * 256, ["SIP_AUTH_USERNAME_TOO_LONG"], ["SIP_AUTH_PASSWORD_TOO_LONG"]),
        ("jack", None, [], ["SIP_AUTH_PASSWORD_MISSING"]),
        ("jack", "", [], ["SIP_AUTH_PASSWORD_MISSING"]),
        ("", "secret", ["SIP_AUTH_USERNAME_EMPTY"], []),
        (None, "secret", ["SIP_AUTH_USERNAME_MISSING"], []),
        ("ja\r\nck", "se\0cret", ["SIP_AUTH_USERNAME_CHARACTER"] * 2, ["SIP_AUTH_PASSWORD_CHARACTER"]),
        ("\ud800", "\u560d", ["SIP_AUTH_USERNAME_CHARACTER"], ["SIP_AUTH_PASSWORD_CHARACTER"]),
        ('ja"ck', 'se"cret', ["SIP_AUTH_USERNAME_UNUSUAL"], []),
    ],
)
def test_user_name_and_password_are_checked_separately(
    username: str | None, password: str | None, of_username: list[str], of_password: list[str]
) -> None:
    found = check_sip_auth(username, password)
    assert [finding.code for finding in found.username] == of_username
    assert [finding.code for finding in found.password] == of_password
    assert "secret" not in json.dumps([finding.detail for finding in (*found.username, *found.password)])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("sip:a@b.example?X-A=1&X-A=2", "sip:a@b.example?X-A=2&X-A=1", False),
        ("sip:a@b.example?X-A=1&X-B=2", "sip:a@b.example?x-b=2&x-a=1", True),
        ("sip:a@b.example?X-A=v", "sip:a@b.example?X-A=V", False),
        ("sip:a:b@c.example", "sip:a@c.example", False),
        ("sip:a:@c.example", "sip:a@c.example", False),
        ("sip:a@b.example;x=%2F", "sip:a@b.example;x=/", False),
        ("sip:a@b.example;x=%5b", "sip:a@b.example;x=[", True),
        ("sip:a@b.example;method=INVITE", "sip:a@b.example;method=invite", False),
        ("sip:%2541@b.example", "sip:%41@b.example", False),
        ("sip:a@b.example.", "sip:a@B.example", True),
        ("sip:a@b.example:5060", "sip:a@b.example:05060", True),
        ("sip:a@b.example;lr;lr", "sip:a@b.example;lr", False),
        ("sip:a@b.example;lr;lr", "sip:a@b.example;lr;lr", True),
        ("sip:a b", "sip:a b", True),
        ("sip:a b", "sip:a  b", False),
        ("", "", True),
    ],
)
def test_equality_of_pairs_that_are_not_collected(a: str, b: str, same: bool) -> None:
    one, other = SipUri.parse(a), SipUri.parse(b)
    assert (one == other) is same
    assert len({one, other}) == (1 if same else 2)


def test_a_uri_and_its_findings_cannot_be_changed() -> None:
    uri = SipUri.parse("sip:kate@example.com;lr")
    with pytest.raises(AttributeError):
        uri.host = "evil.example"  # type: ignore[misc]  # that is what is tested
    with pytest.raises(AttributeError):
        uri.findings[0].code = "FINE"  # type: ignore[misc]  # that is what is tested
    assert isinstance(uri.findings[0], Finding)
    assert uri != "sip:kate@example.com;lr"


# https://www.twilio.com/docs/global-infrastructure/edge-locations, and Twilio Interconnect's.
PUBLIC_EDGES = "ashburn dublin frankfurt sao-paulo singapore sydney tokyo umatilla"
PRIVATE_EDGES = "ashburn-ix frankfurt-ix london-ix san-jose-ix sao-paulo-ix singapore-ix sydney-ix tokyo-ix"


@pytest.mark.parametrize("edge", [*PUBLIC_EDGES.split(), *PRIVATE_EDGES.split(), "Umatilla", "ASHBURN-IX"])
def test_twilios_edges_are_known(edge: str) -> None:
    assert codes(f"sip:kate@example.com;edge={edge}") == []
    assert codes(f"sip:kate@example.com;transport=tls;secure=true;edge={edge}") == []


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (";edge=london", ["UNKNOWN_EDGE"]),
        (";edge=roaming", ["UNKNOWN_EDGE"]),
        (";tnx=TX0123", ["LEGACY_TNX"]),
        (";TNX=TX0123", ["LEGACY_TNX"]),
        (";tn%78=TX0123", ["LEGACY_TNX", "ESCAPED_CONTROL_PARAM"]),
        ("?tnx=TX0123", ["HEADER_NOT_PASSED"]),
    ],
)
def test_tnx_gets_the_finding_legacy_tnx_as_parameter_but_is_refused_as_header(parameters: str, expected: list[str]) -> None:
    assert sorted(codes(f"sip:kate@example.com{parameters}")) == sorted(expected)


@pytest.mark.parametrize("parameter", ["user=phone", "User=PHONE"])
def test_no_finding_suggests_removing_user_phone(parameter: str) -> None:
    findings = SipUri.parse(f"sip:+14155550100@pbx.example.com;{parameter}").findings
    assert [finding.code for finding in findings] == ["OTHER_PARAM"]
    assert "Leave out" not in findings[0].detail
    assert "Leave out user" in SipUri.parse("sip:kate@example.com;user=ip").findings[0].detail
