"""Personal data is hidden in texts and in JSON."""

import json

import pytest

from app.console.masking import mask_address, mask_idempotency_key, mask_json, mask_text, mask_url


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("+14155550100", "+•••0100"),
        ("4155550100", "•••0100"),
        ("sip:kate@example.com", "sip:k•••@example.com"),
        ("sips:+14155550100@pbx.example.com;transport=tls?X-Name=Kate", "sips:+•••0100@pbx.example.com"),
        ("sip:kate:secret@example.com", "sip:k•••@example.com"),
        ("sip:kate;transport=tls@example.com", "sip:k•••@example.com"),
        ("sip:+14155550100;phone-context=example.net@pbx.example.com;transport=tls", "sip:+•••0100@pbx.example.com"),
        ("sip:a@kate.smith@example.com", "sip:a•••@example.com"),
        ("sip:@example.com", "sip:•••@example.com"),
        ("sip:12345@example.com", "sip:•••45@example.com"),
        ("tel:+14155550100", "tel:+•••0100"),
        ("client:jack", "client:j•••"),
        ("Jack", "J•••"),
        ("Jack Ö. <sip:x>", "J•••"),
        ("sip:example.com", "sip:e•••"),
        ("", "–"),
        (None, "–"),
    ],
)
def test_a_number_or_address_is_masked(value: str | None, shown: str) -> None:
    assert mask_address(value) == shown


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("The number +15551234567 is not valid", "The number +•••4567 is not valid"),
        ("The number (555) 123-4567.", "The number (•••4567."),
        ("To %2B15551234567", "To +•••4567"),
        ("sip:kate@example.com;transport=tcp failed", "sip:k•••@example.com failed"),
        ("sip:kate;transport=tls@example.com failed", "sip:k•••@example.com failed"),
        ("To:14155551234, client:kate.", "To:•••1234, client:k•••"),
        ("at 2026-11-29T10:00:00.123456+00:00", "at 2026-11-29T10:00:00.123456+00:00"),
        ("mail kate.smith@example.com", "mail k•••@example.com"),
        ("code 13223, status 400, 180 ms", "code 13223, status 400, 180 ms"),
        ("CA" + "1" * 32, "CA" + "1" * 32),
        ("01a20722-82cb-7520-b5df-0e45ebf88f42", "01a20722-82cb-7520-b5df-0e45ebf88f42"),
        ("order-4711", "order-4711"),
        ("müller@example.com", "m•••@example.com"),
        ("电话14155551234失败", "电话•••1234失败"),
    ],
)
def test_addresses_in_a_text_are_masked_and_the_rest_stays(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://example.com/flow", "https://example.com/flow"),
        ("https://example.com:8443/flow?user=kate#x", "https://example.com:8443/flow?•••"),
        ("https://***@example.com/+15551234567", "https://example.com/+•••4567"),
        ("https://example.com/flow/kate@example.com", "https://example.com/flow/k•••@example.com"),
        ("https://example.com/flow/sip%3Akate%40example.com", "https://example.com/flow/s•••@example.com"),
        ("https://example.com/" + "." * 1_000_000 + "?kate", "https://example.com/•••?•••"),
        ("http://[::1", "••• (11 characters)"),
        ("javascript:alert(1)", "••• (19 characters)"),
    ],
)
def test_the_query_of_a_url_is_hidden(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    ("key", "masked"),
    [
        ("call-14155551234-1", "call-•••1234-1"),
        ("14155551234:2026-11-29", "•••1234:2026-11-29"),
        ("order-4711", "order-4711"),
        ("reminder/kate@example.com", "reminder/k•••@example.com"),
        ("11111111-2222-4333-8444-555555555555", "11111111-2222-4333-8444-555555555555"),
    ],
)
def test_a_number_in_an_idempotency_key_is_masked(key: str, masked: str) -> None:
    assert mask_idempotency_key(key) == masked


def test_texts_in_json_are_hidden_unless_their_name_is_known() -> None:
    secret = "kate"
    value = {
        "to": f"sip:{secret}@example.com",
        "From": "Kate",
        "twiml": f"<Response><Say>Hello {secret}</Say></Response>",
        "send_digits": "4711#",
        "SipHeader_X-Customer": secret,
        "status_callback": f"https://example.com/progress/1?user={secret}",
        "nested": {"call_reason": secret, "list": [secret, 7, None, True]},
        "status": "ringing",
        "CallSid": "CA" + "e" * 32,
        "timeout": 30,
        "start_time": "Tue, 31 Aug 2010 20:36:29 +0000",
        "status_callback_event": ["ringing", "answered"],
    }
    masked = mask_json(value)
    assert secret not in json.dumps(masked).lower()
    assert masked["to"] == "sip:k•••@example.com"
    assert masked["send_digits"] == "••• (5 characters)"
    assert masked["nested"]["list"][1:] == [7, None, True]
    unchanged = ("status", "CallSid", "timeout", "start_time", "status_callback_event")
    assert {name: masked[name] for name in unchanged} == {name: value[name] for name in unchanged}
