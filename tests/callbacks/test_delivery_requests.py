"""Deliveries pass the signature checks of the unmodified libraries that tenants use."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from twilio.request_validator import RequestValidator

from app.deliveries.requests import DeliveryContent, DeliveryRequest, build_request
from app.tenants.callback_settings import CallbackFormat, CallbackMethod

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
CONTENT = DeliveryContent(
    webhook_id="msg_01",
    event="completed",
    call_id="0198c0de-0000-7000-8000-000000000001",
    sequence=2,
    fields={"CallSid": "CA" + "1" * 32, "CallStatus": "completed", "To": "sip:jürgen@example.com", "Twenty": "a b&c=d+e%"},
    record={"id": "0198c0de-0000-7000-8000-000000000001", "status": "completed", "from": "Jürgen"},
)


def built(
    callback_format: CallbackFormat, url: str = "https://example.com/hook", method: CallbackMethod = "POST", **values: Any
) -> DeliveryRequest:
    at = values.pop("at", datetime.now(UTC))
    return build_request(callback_format, replace(CONTENT, **values), method=method, url=url, secret=SECRET, at=at)


def is_valid(sent: DeliveryRequest, url: str | None = None) -> bool:
    posted = dict(parse_qsl(sent.body.decode(), keep_blank_values=True))
    return bool(RequestValidator(SECRET).validate(url or sent.url, posted, sent.headers["X-Twilio-Signature"]))


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("https://example.com/hook", "https://example.com/hook"),
        ("https://example.com", "https://example.com/"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com/hook?foo=1&bar=%7e2", "https://example.com/hook?foo=1&bar=%7e2"),
        ("https://example.com/hook#rc=3&rp=5xx", "https://example.com/hook"),
        ("https://example.com:8443/hook", "https://example.com:8443/hook"),
        ("http://example.com:8080/hook", "http://example.com:8080/hook"),
        ("http://example.com/hook", "http://example.com/hook"),
        ("https://example.com:443/hook", "https://example.com:443/hook"),
        ("https://example.com/hook?", "https://example.com/hook"),
        ("https://example.com/hook?#", "https://example.com/hook"),
        ("HTTPS://example.com:8443/hook", "https://example.com:8443/hook"),
        ("Http://Example.com/Hook", "http://Example.com/Hook"),
        ("https://example.com:/hook", "https://example.com/hook"),
        ("https://example.com:0443/hook", "https://example.com:443/hook"),
        ("http://example.com:08080/hook", "http://example.com:8080/hook"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_twilios_validator_accepts_the_twilio_form(url: str, requested: str, method: CallbackMethod) -> None:
    sent = built("twilio", url, method)
    own_query = "&" if "?" in requested else "?"
    assert sent.url == (requested if method == "POST" else f"{requested}{own_query}{urlencode(CONTENT.fields)}")
    assert is_valid(sent)
    assert not is_valid(sent, sent.url + "x")


def test_a_post_has_twilios_fields_in_its_body() -> None:
    sent = built("twilio")
    assert sent.headers["Content-Type"] == "application/x-www-form-urlencoded; charset=UTF-8"
    assert sent.headers["I-Twilio-Idempotency-Token"] == "msg_01"
    assert dict(parse_qsl(sent.body.decode())) == CONTENT.fields


def test_a_get_has_twilios_fields_in_its_query_behind_the_tenants_own() -> None:
    sent = built("twilio", "https://example.com/hook?mine=1", "GET")
    assert sent.body == b""
    assert "Content-Type" not in sent.headers
    assert dict(parse_qsl(urlsplit(sent.url).query)) == {"mine": "1"} | dict(CONTENT.fields)


def test_twilios_published_vectors_get_their_signatures() -> None:
    """Compares with the signatures in twilio-python, tests/unit/test_request_validator.py.

    The port of an https URL does not change the signature.
    """
    fields = {"CallSid": "CA1234567890ABCDE", "Digits": "1234", "From": "+14158675309", "To": "+18005551212"}
    fields["Caller"] = "+14158675309"
    asked = replace(CONTENT, fields=fields)
    for port in ("", ":1234"):
        url = f"https://mycompany.com{port}/myapp.php?foo=1&bar=2"
        sent = build_request("twilio", asked, method="POST", url=url, secret="12345", at=datetime.now(UTC))
        assert sent.headers["X-Twilio-Signature"] == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    url = "http://mycompany.com:1234/myapp.php?foo=1&bar=2"
    sent = build_request("twilio", asked, method="POST", url=url, secret="12345", at=datetime.now(UTC))
    assert sent.headers["X-Twilio-Signature"] == "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
def test_the_standard_webhooks_library_accepts_the_json_form(zone: timezone) -> None:
    sent = built("json", at=datetime.now(zone))
    event = Webhook(SECRET).verify(sent.body, dict(sent.headers))
    assert event["type"] == "call.callback"
    assert datetime.fromisoformat(event["timestamp"]).utcoffset() == timedelta(0)
    assert event["data"] == {"call_id": CONTENT.call_id, "sequence": 2, "fields": CONTENT.fields, "call": CONTENT.record}
    assert sent.method == "POST"
    assert sent.headers["webhook-id"] == "msg_01"


def test_an_altered_json_form_is_not_verified() -> None:
    sent = built("json")
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(sent.body.replace(b"completed", b"busy"), dict(sent.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(sent.body, dict(sent.headers) | {"webhook-id": "msg_02"})


@pytest.mark.parametrize("event", ["settled", "corrected"])
def test_an_event_of_the_creation_has_a_type_of_its_own(event: str) -> None:
    assert json.loads(built("json", event=event).body)["type"] == f"call.{event}"


def test_an_event_without_a_sequence_has_null() -> None:
    assert json.loads(built("json", sequence=None).body)["data"]["sequence"] is None
