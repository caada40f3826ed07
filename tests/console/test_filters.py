"""Tests the template filters of the console that format times and amounts of money, and turn backticks into `<code>`."""

from datetime import UTC, datetime
from decimal import Decimal

from app.console.filters import money_text, time_element, with_code_elements


def test_money_has_its_currency_and_a_minus_sign() -> None:
    assert money_text(Decimal("-0.00750"), "USD") == "−0.00750 USD"
    assert money_text(Decimal("1E-7"), "EUR") == "0.0000001 EUR"
    assert money_text(None) == "–"


def test_times_are_in_utc_until_the_browser_knows_better() -> None:
    assert time_element(datetime(2026, 11, 29, 3, 4, 5, 678_900, tzinfo=UTC)) == (
        '<time datetime="2026-11-29T03:04:05.678+00:00" title="2026-11-29 03:04:05 UTC">2026-11-29 03:04:05 UTC</time>'
    )


def test_backticks_become_code_and_the_rest_is_escaped() -> None:
    assert with_code_elements("<b> `a<b` c") == "&lt;b&gt; <code>a&lt;b</code> c"
