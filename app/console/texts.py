"""Describes in words the limits of calls (calls per second, concurrent calls), and the hours in which calls may ring."""

from app.scheduling.hours import DAYS, CallingHours
from app.scheduling.pace_limits import PaceLimits, to_int_or_float


def pace_text(pace: PaceLimits) -> str:
    parts = []
    if pace.calls_per_second is not None:
        parts.append(f"{to_int_or_float(pace.calls_per_second)} a second, bursts of {pace.burst}")
    if pace.max_concurrent is not None:
        parts.append(f"at most {pace.max_concurrent:,} at the same time")
    return ", ".join(parts) or "not limited"


def hours_text(hours: CallingHours | None) -> str | None:
    """Returns in words the hours in which calls may ring, such as "mon–fri 09:00–18:00, Europe/Berlin"; None without hours."""
    if hours is None:
        return None
    times = hours.to_json()
    return f"{_days_text(hours.days)} {times['from']}–{times['to']}, {hours.time_zone}"


def _days_text(days: tuple[str, ...]) -> str:
    if len(days) == len(DAYS):
        return "every day"
    first = DAYS.index(days[0])
    is_run = len(days) > 2 and DAYS[first : first + len(days)] == days
    return f"{days[0]}–{days[-1]}" if is_run else ", ".join(days)
