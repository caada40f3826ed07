"""Tests the parser with a collection of SIP URIs: whether each is valid, its parts, its use as `from`, and which are equal."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.sip import Severity, SipUri, check_from_parameter
from app.sip.comparison import to_comparable_uri
from app.sip.grammar import SIP_URI, split_name_value_list

DATA = Path(__file__).parents[1] / "data" / "sip"

# Cases in which Callgate deliberately differs from the collection; docs/sip.md says why.
OUR_VERDICT = {"sip-0147": "reject"}


def cases(name: str) -> list[Any]:
    rows = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    return [pytest.param(row, id=row["id"]) for row in rows]


def verdict(uri: SipUri) -> str:
    severities = {finding.severity for finding in uri.findings}
    if Severity.ERROR in severities:
        return "reject"
    return "policy" if Severity.POLICY in severities else "accept"


@pytest.mark.parametrize("case", cases("public.jsonl"))
def test_every_case_gets_the_verdict_of_its_class(case: dict[str, Any]) -> None:
    uri = SipUri.parse(case["uri"])
    assert verdict(uri) == OUR_VERDICT.get(case["id"], case["gateway"]), uri.findings
    assert uri.valid is (verdict(uri) != "reject")
    assert uri.text == case["uri"]


@pytest.mark.parametrize("case", cases("public.jsonl"))
def test_the_grammar_matches_the_same_texts_as_the_abnf(case: dict[str, Any]) -> None:
    assert (SIP_URI.fullmatch(case["uri"]) is not None) is case["abnf_match"]
    # The text of §19.1.1 adds that no parameter may be repeated.
    assert (to_comparable_uri(case["uri"]) is not None) is case["valid_rfc3261"]


@pytest.mark.parametrize("case", [case for case in cases("public.jsonl") if "parsed" in case.values[0]])
def test_the_parts_are_those_of_the_case_as_written_and_decoded(case: dict[str, Any]) -> None:
    match = SIP_URI.fullmatch(case["uri"])
    assert match
    scheme, user, password, host, port, parameters, headers = match.groups()
    assert {
        "scheme": scheme.lower(),
        "user": user,
        "password": password,
        "host": host.lower(),
        "port": port and int(port),
        "param_list": [list(pair) for pair in split_name_value_list(parameters[1:], ";")],
        "header_list": [list(pair) for pair in split_name_value_list(headers, "&")],
    } == {**case["parsed"], "host": case["parsed"]["host"].lower()}

    uri = SipUri.parse(case["uri"])
    assert {
        "user": uri.user,
        "password": uri.password,
        "params": [list(pair) for pair in uri.uri_parameters],
        "headers": [list(pair) for pair in uri.headers],
    } == case["decoded"]
    assert (uri.scheme, uri.host, uri.port) == (scheme.lower(), case["host_canonical"], case["parsed"]["port"])


@pytest.mark.parametrize(
    ("case", "code"),
    [
        pytest.param(case.values[0], code, id=f"{case.id}-{code}")
        for case in cases("public.jsonl")
        for code in case.values[0]["gateway_codes"]
        # Callgate's codes are more specific than these five.
        if code.isupper() and code not in {"BAD_SYNTAX", "TWILIO_REJECTS_OR_DROPS", "TOO_LONG", "UNDOCUMENTED"}
    ],
)
def test_the_reason_of_a_case_is_among_the_findings(case: dict[str, Any], code: str) -> None:
    assert code in {finding.code for finding in SipUri.parse(case["uri"]).findings}


@pytest.mark.parametrize("case", cases("public.jsonl"))
def test_a_case_is_shown_as_json_without_its_password(case: dict[str, Any]) -> None:
    uri = SipUri.parse(case["uri"])
    shown = uri.as_dict()
    json.dumps(shown, ensure_ascii=False).encode("utf-8")
    assert shown["valid"] is uri.valid
    for finding in shown["findings"]:
        assert 0 <= finding["start"] <= finding["end"] <= len(uri.text)
        assert finding["detail"].endswith((".", ")."))
    if uri.password:
        assert shown["parsed"]["password"] == "***"
        assert "***@" in shown["uri"]


@pytest.mark.parametrize(
    "text",
    [
        "sip:bob:{}@example.com",
        "sip:bob:{}@exa mple.com",
        "sip:bob:{}ö@example.com",
        "sip:bob:{}<@example.com;x",
        "sip:bob:{}@more@example.com",
        "sip::{}@example.com",
        "sips:b<b:{}%0d@localhost",
        "bob:{}@example.com",
        "http://bob:{}@example.com/",
        " sip:bob:{}@example.com",
        "<sip:bob:{}@example.com>",
        "sip:bob:{}@example.com?X-A=" + "v" * 2000,
        "sip:" + "b" * 70_000 + ":{}@example.com",
        "sip:bob:" + "b" * 70_000 + "{}@example.com",
    ],
)
def test_a_password_is_never_shown(text: str) -> None:
    uri = SipUri.parse(text.format("hunter2-s3cret"))
    assert not uri.valid
    assert "s3cret" not in repr(uri)
    assert "s3cret" not in json.dumps(uri.as_dict())


@pytest.mark.parametrize("case", cases("from_cases.jsonl"))
def test_from_is_only_a_user_name(case: dict[str, Any]) -> None:
    findings = check_from_parameter(case["from_"])
    assert (findings == ()) is case["valid"]
    assert all(finding.severity is Severity.ERROR for finding in findings)


@pytest.mark.parametrize("case", cases("comparison_pairs.jsonl"))
def test_uris_are_equal_by_section_19_1_4(case: dict[str, Any]) -> None:
    a, b = SipUri.parse(case["a"]), SipUri.parse(case["b"])
    assert (a == b) is case["equal"]
    assert (b == a) is case["equal"]
    if case["equal"]:
        assert hash(a) == hash(b)
