"""Compares the simulator's X-Twilio-Signature with Twilio's published examples and with the `twilio` package's validator."""

import pytest
from twilio.request_validator import RequestValidator

from simulator.signature import signature

URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
DIGITS = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
    ("Caller", "+14158675309"),
]

# https://github.com/twilio/twilio-python: tests/unit/test_request_validator.py, auth token 12345. The last is of
# https://www.twilio.com/docs/usage/webhooks/webhooks-security.
VECTORS = [
    (URL, DIGITS, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    (
        URL,
        [("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234"), ("Digits", "1234")],
        "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
    ),
    (URL.replace(".com", ".com:1234"), DIGITS, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    (URL.replace(".com", ".com:1234").replace("https", "http"), DIGITS, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
    (
        "https://example.com/myapp.php?foo=1&bar=2",
        [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675310"),
            ("Digits", "1234"),
            ("From", "+14158675310"),
            ("To", "+18005551212"),
        ],
        "L/OH5YylLD5NRKLltdqwSvS0BnU=",
    ),
]


@pytest.mark.parametrize(("url", "fields", "expected"), VECTORS)
def test_the_published_vectors(url: str, fields: list[tuple[str, str]], expected: str) -> None:
    assert signature("12345", url, fields) == expected


def test_fragment_and_user_info_are_not_signed() -> None:
    plain = signature("12345", "http://example.com:8080/status?a=b", DIGITS)
    assert signature("12345", "http://jack:secret@example.com:8080/status?a=b#rc=3&rp=5xx", DIGITS) == plain


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:8000/a", "https://example.com:8443/a?b=%20c#rc=1"])
def test_the_validator_of_the_twilio_package_agrees(url: str) -> None:
    validator = RequestValidator("the token")
    fields = dict(DIGITS) | {"To": "sip:kate@exämple.com?X-a=b&X-c=%3Bd", "Empty": ""}
    configured = url.partition("#")[0]
    signed = signature("the token", url, fields.items())
    assert validator.validate(configured, fields, signed)
    assert not validator.validate(configured, fields | {"Digits": "1235"}, signed)
