"""A pace, hours and URLs in words, and what is hidden of a URL."""

from decimal import Decimal

import pytest

from app.console.words import hours_text, pace_text, target_of
from app.scheduling.hours import DAYS, read_hours
from app.scheduling.pace_limits import UNLIMITED, PaceLimits


def test_a_pace_is_in_words() -> None:
    assert pace_text(UNLIMITED) == "not limited"
    assert pace_text(PaceLimits(Decimal("0.500"), 2, 1000)) == "0.5 a second, bursts of 2, 1,000 at the same time"
    assert pace_text(PaceLimits(max_concurrent=3)) == "3 at the same time"


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (list(DAYS), "every day"),
        (["mon", "tue", "wed", "thu", "fri"], "mon–fri"),
        (["sat", "sun"], "sat, sun"),
        (["mon", "wed", "fri"], "mon, wed, fri"),
        (["tue"], "tue"),
    ],
)
def test_hours_are_in_words(days: list[str], text: str) -> None:
    hours = read_hours({"time_zone": "Europe/Berlin", "days": days, "from": "09:00", "to": "18:00"})
    assert hours_text(hours) == f"{text} 09:00–18:00, Europe/Berlin"
    assert hours_text(None) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, None),
        ("https://hooks.example.com/calls", "https://hooks.example.com/calls"),
        ("https://user:pl4nted@hooks.example.com:8443/calls?token=pl4nted#pl4nted", "https://hooks.example.com:8443/calls?…"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
        ("https://hooks.example.com:pl4nted/", "a URL that cannot be read"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str | None, shown: str | None) -> None:
    assert target_of(url) == shown
