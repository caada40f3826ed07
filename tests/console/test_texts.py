"""Tests the words with which the console describes a pace (calls per second and concurrent calls) and calling hours."""

from decimal import Decimal

import pytest

from app.console.texts import hours_text, pace_text
from app.scheduling.hours import DAYS, parse_calling_hours
from app.scheduling.pace_limits import UNLIMITED_PACE, PaceLimits


def test_a_pace_is_in_words() -> None:
    assert pace_text(UNLIMITED_PACE) == "not limited"
    assert pace_text(PaceLimits(Decimal("0.500"), 2, 1000)) == "0.5 a second, bursts of 2, at most 1,000 at the same time"
    assert pace_text(PaceLimits(max_concurrent=3)) == "at most 3 at the same time"


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
    hours = parse_calling_hours({"time_zone": "Europe/Berlin", "days": days, "from": "09:00", "to": "18:00"})
    assert hours_text(hours) == f"{text} 09:00–18:00, Europe/Berlin"
    assert hours_text(None) is None
