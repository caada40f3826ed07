"""Parses the values of options that are times or durations."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import typer

_MAX_DURATION = timedelta(days=3650)
_DURATION_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}


def parse_future_time(text: str) -> datetime:
    """Parses a time after now: a time such as 2027-01-31T12:00:00Z (in UTC if it has no zone), or 90d for 90 days from now.

    Raises BadParameter for any other text.
    """
    moment = _parse_time_or_duration(text, sign=1, example="2027-01-31T12:00:00Z")
    if moment <= datetime.now(UTC):
        raise typer.BadParameter(f"{text!r} is not in the future")
    return moment


def parse_time_or_age(text: str) -> datetime:
    """Parses a time such as 2026-11-28T12:00:00Z (in UTC if it has no zone), or an age such as 90d for 90 days ago.

    Raises BadParameter for any other text.
    """
    return _parse_time_or_duration(text, sign=-1, example="2026-11-28T12:00:00Z")


def parse_past_or_future_time(text: str) -> datetime:
    """Parses a time such as 2026-11-30T08:00:00Z (in UTC if it has no zone), or a duration such as 90d for 90 days from now.

    Raises BadParameter for any other text.
    """
    return _parse_time_or_duration(text, sign=1, example="2026-11-30T08:00:00Z")


def parse_duration(text: str) -> timedelta:
    """Parses a number of minutes, hours or days, such as 5m, 12h or 90d. Raises BadParameter for any other text.

    More than ten years are refused, too: a date that is too far from now does not fit into a `datetime`.
    """
    if not (text[:-1].isdecimal() and text[-1] in _DURATION_UNITS):
        raise typer.BadParameter(f"{text!r} is not a duration: write 5m, 12h or 90d")
    with suppress(OverflowError, ValueError):  # ValueError: `int` reads at most 4,300 digits
        duration = int(text[:-1]) * _DURATION_UNITS[text[-1]]
        if duration <= _MAX_DURATION:
            return duration
    raise typer.BadParameter(f"{text!r} is too long: write at most {_MAX_DURATION.days}d")


def _parse_time_or_duration(text: str, *, sign: int, example: str) -> datetime:
    """Parses a time, or a duration such as 90d, which counts from now: into the future (`sign` 1) or into the past (-1).

    Raises BadParameter for any other text. The message shows `example`.
    """
    try:
        if text[:-1].isdecimal() and text[-1] in _DURATION_UNITS:
            return datetime.now(UTC) + sign * int(text[:-1]) * _DURATION_UNITS[text[-1]]
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a time: write 90d, 12h, 30m or {example}") from None
