"""How the console shows times, money, and personal data."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.console.filters import code, mask, money, time


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
def test_personal_data_is_masked(value: str | None, shown: str) -> None:
    assert mask(value) == shown


def test_money_has_its_currency_and_a_minus_sign() -> None:
    assert money(Decimal("-0.00750"), "USD") == "−0.00750 USD"
    assert money(Decimal("1E-7"), "EUR") == "0.0000001 EUR"
    assert money(None) == "–"


def test_times_are_in_utc_until_the_browser_knows_better() -> None:
    assert time(datetime(2026, 11, 29, 3, 4, 5, 678_900, tzinfo=UTC)) == (
        '<time datetime="2026-11-29T03:04:05.678+00:00" title="2026-11-29 03:04:05 UTC">2026-11-29 03:04:05 UTC</time>'
    )


def test_backticks_become_code_and_the_rest_is_escaped() -> None:
    assert code("<b> `a<b` c") == "&lt;b&gt; <code>a&lt;b</code> c"
