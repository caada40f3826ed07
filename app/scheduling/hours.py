"""Hours in which scheduled calls may ring, and the time zones of callees. No I/O.

A call may ring while the local time in the callee's zone is in the daily window of the hours. If daylight saving time skips the
time at which the window begins, the window opens when the clock jumps. If an hour in the window occurs twice, the window is
open both times.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from app.errors import FieldError

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = get_args(Day)
TIME_PATTERN: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]"
END_TIME_PATTERN: Final = rf"({TIME_PATTERN}|24:00)"

_MEMBER_NAMES: Final = ("time_zone", "days", "from", "to")
_DAY: Final = timedelta(days=1)
# What phonenumbers returns for a number whose zone it does not know.
_UNKNOWN_ZONE: Final = "Etc/Unknown"


class CallingHoursInvalid(Exception):
    """Raised if JSON does not describe valid calling hours. The texts of `field_errors` do not contain the rejected values."""

    def __init__(self, *field_errors: FieldError) -> None:
        super().__init__()
        self.field_errors = field_errors


@dataclass(frozen=True, slots=True)
class CallingHours:
    """A daily window in which scheduled calls may ring: from `start_minute` to `end_minute`, which is not included.

    Both are minutes after midnight. A window whose end is not after its start ends on the next day.
    """

    time_zone: str
    """The IANA time zone that is used for callees whose time zone is unknown."""
    days: tuple[Day, ...]
    """The days on which the window begins, in the order of the week."""
    start_minute: int
    end_minute: int

    def is_open(self, local: datetime) -> bool:
        """Returns whether a call may ring at `local`, the callee's local time."""
        minute = local.hour * 60 + local.minute
        today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
        if self.start_minute < self.end_minute:
            return today in self.days and self.start_minute <= minute < self.end_minute
        return (today in self.days and minute >= self.start_minute) or (yesterday in self.days and minute < self.end_minute)

    def to_json(self) -> dict[str, Any]:
        """Returns the hours as a JSON object, from which `parse_calling_hours` reads the same hours."""
        times = {"from": _format_minute_of_day(self.start_minute), "to": _format_minute_of_day(self.end_minute)}
        return {"time_zone": self.time_zone, "days": list(self.days), **times}


def parse_calling_hours(value: object, pointer: str = "/hours") -> CallingHours:
    """Returns the hours that the JSON object `{"time_zone", "days", "from", "to"}` describes.

    If `days` is missing, the hours are on every day. Raises CallingHoursInvalid with all errors. `pointer` is the JSON pointer
    (RFC 6901) of the object, with which the pointers of the errors begin.
    """
    if not isinstance(value, Mapping):
        raise CallingHoursInvalid(FieldError(pointer, "dict_type", "must be an object"))
    if faults := [FieldError(f"{pointer}/{member}", code, detail) for member, code, detail in _find_hours_errors(value)]:
        raise CallingHoursInvalid(*faults)
    days = value.get("days", DAYS)
    start, end = _parse_minute_of_day(value["from"]), _parse_minute_of_day(value["to"])
    return CallingHours(value["time_zone"], tuple(day for day in DAYS if day in days), start, end)


def _find_hours_errors(value: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yields each error in a JSON object of calling hours as a tuple: the member, such as `days/0`, a code and a text."""
    for name in value:
        if name not in _MEMBER_NAMES:
            escaped = str(name).replace("~", "~0").replace("/", "~1")
            yield escaped, "unknown_member", "is not a member of hours: they have time_zone, days, from and to"
    for name in ("time_zone", "from", "to"):
        if name not in value:
            yield name, "missing", "is required"
        elif not isinstance(value[name], str):
            yield name, "string_type", "must be a string"
    zone, start, end = (text if isinstance(text := value.get(name), str) else None for name in ("time_zone", "from", "to"))
    if zone is not None and not is_time_zone(zone):
        yield "time_zone", "unknown_time_zone", "must be a zone of the IANA database, such as Europe/Berlin"
    if start is not None and not re.fullmatch(TIME_PATTERN, start):
        yield "from", "invalid_time", "must be a time from 00:00 to 23:59, such as 09:00"
    if end is not None and not re.fullmatch(END_TIME_PATTERN, end):
        yield "to", "invalid_time", "must be a time from 00:00 to 24:00, such as 18:00"
    if start is not None and start == end:
        yield "to", "empty_window", "must differ from `from`: a whole day is from 00:00 to 24:00"
    yield from _find_day_errors(value.get("days", DAYS))


def _find_day_errors(days: object) -> Iterator[tuple[str, str, str]]:
    if not isinstance(days, Sequence) or isinstance(days, str):
        yield "days", "list_type", "must be a list"
        return
    if len(days) > len(DAYS):
        yield "days", "too_long", f"must have at most {len(DAYS)} items"
        return
    if not days:
        yield "days", "too_short", "must have at least 1 item; without `days`, every day is one"
    for index, day in enumerate(days):
        if day not in DAYS:
            yield f"days/{index}", "unknown_day", f"must be one of {', '.join(DAYS)}"
        elif day in days[:index]:
            yield f"days/{index}", "repeated_day", "is in the list already"


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def is_time_zone(name: str) -> bool:
    """Returns whether the IANA database has a zone or link of this name. Upper and lower case matter."""
    return name in _time_zones()


def time_zones_of_phone_number(to: str) -> tuple[str, ...]:
    """Returns the IANA zones in which an E.164 number may be: often one; for a mobile number, all zones of its country.

    Returns an empty tuple for SIP addresses, `client:` addresses and numbers that belong to no country.
    """
    if not to.startswith("+"):
        return ()
    # Imported only here, because importing phonenumbers takes 70 ms and 9 MB. Only scheduled calls with hours need it.
    from phonenumbers import NumberParseException, parse
    from phonenumbers.timezone import time_zones_for_number

    try:
        zones = time_zones_for_number(parse(to))
    except NumberParseException:
        return ()
    return tuple(zone for zone in zones if zone != _UNKNOWN_ZONE)


def callee_time_zones(to: str, time_zone: str | None, hours: CallingHours) -> tuple[str, ...]:
    """Returns the callee's possible time zones: `time_zone` if it is not None, else those of the phone number `to`.

    If the number's zones are unknown, or if `to` is no phone number, returns the time zone of `hours`.
    """
    return (time_zone,) if time_zone is not None else time_zones_of_phone_number(to) or (hours.time_zone,)


def next_time_within_hours(hours: CallingHours, at: datetime, zones: Sequence[str], before: datetime) -> datetime | None:
    """Returns the first time, from `at` on, when the local times of all `zones` are within the hours.

    Returns None if there is no such time before `before`. All times are aware and in UTC.
    """
    located = [ZoneInfo(zone) for zone in zones]
    while at < before:
        latest = max(_opening_time_in_zone(zone, hours, at) for zone in located)
        if latest == at:
            return at
        at = latest
    return None


def _opening_time_in_zone(zone: ZoneInfo, hours: CallingHours, at: datetime) -> datetime:
    """Returns the first time, from `at` on, when the zone's local time is within the hours."""
    while not hours.is_open(local := at.astimezone(zone).replace(tzinfo=None)):
        later = at + (_next_window_start(hours, local) - local)
        at = later if _utc_offset(zone, later) == _utc_offset(zone, at) else _utc_offset_change_time(zone, at, later)
    return at


def _next_window_start(hours: CallingHours, local: datetime) -> datetime:
    """Returns the local time at which the first window after `local` begins."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = (midnight + days * _DAY + timedelta(minutes=hours.start_minute) for days in range(8))
    return next(start for start in starts if start > local and DAYS[start.weekday()] in hours.days)


def _utc_offset_change_time(zone: ZoneInfo, at: datetime, later: datetime) -> datetime:
    """Returns the time, in whole seconds, at which the zone's UTC offset changes between `at` and `later`.

    The offset at `later` must differ from the offset at `at`.
    """
    low, high = int(at.timestamp()), int(later.timestamp())
    before = _utc_offset(zone, at)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _utc_offset(zone, datetime.fromtimestamp(middle, UTC)) == before else (low, middle)
    return datetime.fromtimestamp(high, UTC)


def _utc_offset(zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


def _parse_minute_of_day(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _format_minute_of_day(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
