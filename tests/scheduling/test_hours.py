"""Tests calling hours: how they are parsed, in which time zones they apply, and when they open next, also at clock changes."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.scheduling.hours import (
    DAYS,
    CallingHours,
    CallingHoursInvalid,
    callee_time_zones,
    is_time_zone,
    next_time_within_hours,
    parse_calling_hours,
    time_zones_of_phone_number,
)

OFFICE = {"time_zone": "Europe/Berlin", "days": ["mon", "tue", "wed", "thu", "fri"], "from": "09:00", "to": "18:00"}
ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/New_York",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Auckland",
    "Pacific/Kiritimati",
    "UTC",
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str, days: Sequence[str] = DAYS) -> CallingHours:
    return parse_calling_hours({"time_zone": "UTC", "days": days, "from": start, "to": end})


def opening(hours: CallingHours, at: str, *zones: str, days: int = 8) -> str | None:
    """Returns the next opening in UTC as `MM-DD HH:MM`, with seconds only if they are not 0. None if there is no opening."""
    found = next_time_within_hours(hours, utc(at), zones, utc(at) + timedelta(days=days))
    return None if found is None else found.strftime("%m-%d %H:%M:%S").removesuffix(":00")


# ---- Reading


def test_hours_are_written_as_they_were_read() -> None:
    hours = parse_calling_hours(OFFICE)
    assert hours == CallingHours("Europe/Berlin", ("mon", "tue", "wed", "thu", "fri"), 9 * 60, 18 * 60)
    assert hours.to_json() == OFFICE


def test_without_days_they_are_those_of_every_day_and_days_are_put_in_order() -> None:
    times = {"time_zone": "UTC", "from": "00:00", "to": "24:00"}
    assert parse_calling_hours(times).to_json() == {**times, "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}
    assert parse_calling_hours({**times, "days": ["sun", "mon"]}).days == ("mon", "sun")


@given(
    st.builds(
        lambda zone, days, start, end: {"time_zone": zone, "days": days, "from": start, "to": end},
        st.sampled_from(ZONES),
        st.sets(st.sampled_from(DAYS), min_size=1).map(lambda days: sorted(days, key=DAYS.index)),
        st.times().map(lambda time: f"{time:%H:%M}"),
        st.times().map(lambda time: f"{time:%H:%M}") | st.just("24:00"),
    ).filter(lambda value: value["from"] != value["to"])
)
def test_any_hours_are_written_as_they_were_read(value: Mapping[str, Any]) -> None:
    assert parse_calling_hours(value).to_json() == value


@pytest.mark.parametrize(
    ("change", "errors"),
    [
        ({"time_zone": None}, [("/time_zone", "string_type")]),
        ({"time_zone": "CEST"}, [("/time_zone", "unknown_time_zone")]),
        ({"time_zone": "europe/berlin"}, [("/time_zone", "unknown_time_zone")]),
        ({"time_zone": "../../etc/passwd"}, [("/time_zone", "unknown_time_zone")]),
        ({"time_zone": "Europe"}, [("/time_zone", "unknown_time_zone")]),
        ({"days": "mon"}, [("/days", "list_type")]),
        ({"days": None}, [("/days", "list_type")]),
        ({"days": []}, [("/days", "too_short")]),
        ({"days": ["mon"] * 8}, [("/days", "too_long")]),
        ({"days": ["mon", "Tue", 3]}, [("/days/1", "unknown_day"), ("/days/2", "unknown_day")]),
        ({"days": [["mon"]]}, [("/days/0", "unknown_day")]),
        ({"days": ["mon", "mon"]}, [("/days/1", "repeated_day")]),
        ({"from": "9:00"}, [("/from", "invalid_time")]),
        ({"from": "24:00"}, [("/from", "invalid_time")]),
        ({"from": "09:00:00"}, [("/from", "invalid_time")]),
        ({"from": 540}, [("/from", "string_type")]),
        ({"to": "18:60"}, [("/to", "invalid_time")]),
        ({"to": "24:01"}, [("/to", "invalid_time")]),
        ({"to": "18:00\n"}, [("/to", "invalid_time")]),
        ({"to": "09:00"}, [("/to", "empty_window")]),
        ({"a~/b": 1, "to": ""}, [("/a~0~1b", "unknown_member"), ("/to", "invalid_time")]),
    ],
)
def test_every_error_has_its_place_and_its_code(change: dict[str, Any], errors: list[tuple[str, str]]) -> None:
    with pytest.raises(CallingHoursInvalid) as raised:
        parse_calling_hours(OFFICE | change)
    assert [(error.pointer, error.code) for error in raised.value.field_errors] == [
        (f"/hours{at}", code) for at, code in errors
    ]


@pytest.mark.parametrize("value", [None, [], "09:00-18:00", 7])
def test_hours_are_an_object(value: object) -> None:
    with pytest.raises(CallingHoursInvalid) as raised:
        parse_calling_hours(value, "/queue/hours")
    assert [(error.pointer, error.code) for error in raised.value.field_errors] == [("/queue/hours", "dict_type")]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(CallingHoursInvalid) as raised:
        parse_calling_hours({})
    assert [error.pointer for error in raised.value.field_errors] == ["/hours/time_zone", "/hours/from", "/hours/to"]


# ---- The zones of a callee


@pytest.mark.parametrize(
    ("to", "zones"),
    [
        ("+493012345678", ("Europe/Berlin",)),
        ("+12125551234", ("America/New_York",)),
        ("sip:kate@example.com", ()),
        ("client:kate", ()),
        ("+4912", ()),
        ("+883120000000", ()),
        ("+1", ()),
        ("", ()),
    ],
)
def test_the_zones_of_a_number(to: str, zones: tuple[str, ...]) -> None:
    assert time_zones_of_phone_number(to) == zones


def test_a_mobile_number_may_be_anywhere_in_its_country() -> None:
    zones = time_zones_of_phone_number("+61412345678")
    assert {"Australia/Perth", "Australia/Sydney"} < set(zones)
    # Open from 09:00 in Perth, which is noon in Sydney and 07:30 on the Cocos Islands.
    assert opening(window("09:00", "18:00"), "2026-11-30T00:00", *zones) == "11-30 02:30"


def test_every_zone_of_a_number_is_one_of_the_database() -> None:
    from phonenumbers.tzdata import TIMEZONE_DATA

    assert {zone for zones in TIMEZONE_DATA.values() for zone in zones if not is_time_zone(zone)} == set()


def test_the_zone_of_the_call_comes_before_those_of_the_number_and_of_the_hours() -> None:
    hours = parse_calling_hours(OFFICE)
    assert callee_time_zones("+12125551234", "Asia/Tokyo", hours) == ("Asia/Tokyo",)
    assert callee_time_zones("+12125551234", None, hours) == ("America/New_York",)
    assert callee_time_zones("sip:kate@example.com", None, hours) == ("Europe/Berlin",)


# ---- When they open. 2026-11-27 is a Friday.


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        ("2026-11-27T07:59:59", "11-27 08:00"),
        ("2026-11-27T08:00", "11-27 08:00"),
        ("2026-11-27T16:59:59", "11-27 16:59:59"),
        ("2026-11-27T17:00", "11-30 08:00"),
        ("2026-11-28T12:00", "11-30 08:00"),
        ("2026-12-01T00:00", "12-01 08:00"),
    ],
)
def test_office_hours_in_berlin(at: str, opens: str) -> None:
    assert opening(parse_calling_hours(OFFICE), at, "Europe/Berlin") == opens


def test_nothing_opens_before_the_deadline() -> None:
    friday, monday = utc("2026-11-27T17:00"), utc("2026-11-30T08:00")
    hours = parse_calling_hours(OFFICE)
    assert next_time_within_hours(hours, friday, ["Europe/Berlin"], monday) is None
    assert next_time_within_hours(hours, friday, ["Europe/Berlin"], monday + timedelta(seconds=1)) == monday
    assert next_time_within_hours(hours, monday, ["Europe/Berlin"], monday) is None


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        ("2026-11-27T21:59", "11-27 22:00"),
        ("2026-11-27T23:00", "11-27 23:00"),
        ("2026-11-28T05:59", "11-28 05:59"),
        ("2026-11-28T06:00", "12-04 22:00"),
        # The night before Friday is Thursday's.
        ("2026-11-27T03:00", "11-27 22:00"),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(at: str, opens: str) -> None:
    assert opening(window("22:00", "06:00", ["fri"]), at, "UTC") == opens


def test_a_window_may_end_at_midnight_and_be_the_whole_day() -> None:
    assert opening(window("00:00", "24:00"), "2026-11-27T23:59:59", "UTC") == "11-27 23:59:59"
    assert opening(window("00:00", "24:00", ["sat"]), "2026-11-27T23:59:59", "UTC") == "11-28 00:00"
    for end in ("24:00", "00:00"):
        assert opening(window("20:00", end, ["fri"]), "2026-11-27T23:59", "UTC") == "11-27 23:59"
        assert opening(window("20:00", end, ["fri"]), "2026-11-28T00:00", "UTC") == "12-04 20:00"


def test_all_zones_are_open() -> None:
    hours = window("09:00", "18:00")
    assert opening(hours, "2026-11-27T08:00", "Europe/Berlin", "America/New_York") == "11-27 14:00"
    assert opening(hours, "2026-11-27T17:00", "Europe/Berlin", "America/New_York") == "11-28 14:00"
    assert opening(hours, "2026-11-27T08:00", "Asia/Tokyo", "America/New_York") is None


# ---- Daylight saving. In Berlin the hour from 02:00 is skipped on 2026-03-29 and repeated on 2026-10-25, at 01:00 UTC.


@pytest.mark.parametrize(
    ("start", "end", "at", "opens"),
    [
        # It begins in the skipped hour: at the jump the clock shows 03:00, which is after 02:30.
        ("02:30", "05:00", "2026-03-29T00:00", "03-29 01:00"),
        # It lies in the skipped hour as a whole: the clock shows none of its times on this day.
        ("02:10", "02:50", "2026-03-29T00:00", "03-30 00:10"),
        ("03:00", "05:00", "2026-03-29T00:00", "03-29 01:00"),
        ("09:00", "18:00", "2026-03-28T18:00", "03-29 07:00"),
        ("23:00", "02:30", "2026-03-29T00:59:59", "03-29 00:59:59"),
        ("23:00", "02:30", "2026-03-29T01:00", "03-29 21:00"),
        # The clock shows 02:10 to 02:50 twice.
        ("02:10", "02:50", "2026-10-25T00:00", "10-25 00:10"),
        ("02:10", "02:50", "2026-10-25T00:50", "10-25 01:10"),
        ("02:10", "02:50", "2026-10-25T01:50", "10-26 01:10"),
        # When the clock is set back from 03:00 to 02:00, it shows a time before the window again.
        ("02:30", "05:00", "2026-10-25T00:59", "10-25 00:59"),
        ("02:30", "05:00", "2026-10-25T01:00", "10-25 01:30"),
        # The window has ended, and opens again as the clock is set back into it.
        ("01:00", "02:30", "2026-10-25T00:30", "10-25 01:00"),
        ("09:00", "18:00", "2026-10-24T17:00", "10-25 08:00"),
    ],
)
def test_daylight_saving_in_berlin(start: str, end: str, at: str, opens: str) -> None:
    assert opening(window(start, end), at, "Europe/Berlin") == opens


def test_half_an_hour_of_daylight_saving_and_a_day_that_is_left_out() -> None:
    # Lord Howe skips from 02:00 to 02:30 on 2026-10-04, at 15:30 UTC of the day before.
    assert opening(window("02:10", "04:00"), "2026-10-03T15:00", "Australia/Lord_Howe") == "10-03 15:30"
    # Samoa left out Friday, 2011-12-30.
    assert opening(window("00:00", "24:00", ["fri"]), "2011-12-30T00:00", "Pacific/Apia") == "01-05 10:00"
    assert opening(window("00:00", "24:00", ["sat"]), "2011-12-30T00:00", "Pacific/Apia") == "12-30 10:00"


def first_open_minute(value: Mapping[str, Any], at: datetime, zones: Sequence[str], before: datetime) -> datetime | None:
    """Returns the first minute before `before` in which every zone is open. Checks minute by minute, as a simple reference."""
    moment = at
    while moment < before:
        if all(_shows_open(value, moment.astimezone(ZoneInfo(zone))) for zone in zones):
            return moment
        moment = moment.replace(second=0) + timedelta(minutes=1)
    return None


def _shows_open(value: Mapping[str, Any], clock: datetime) -> bool:
    shown, today, yesterday = f"{clock:%H:%M}", f"{clock:%a}".lower(), f"{clock.replace(tzinfo=None) - timedelta(1):%a}".lower()
    if value["from"] < value["to"]:
        return today in value["days"] and value["from"] <= shown < value["to"]
    return (today in value["days"] and value["from"] <= shown) or (yesterday in value["days"] and shown < value["to"])


# A zone, and the day before its clocks change.
_CHANGES = [
    ("Africa/Cairo", "2026-04-23"),
    ("Africa/Casablanca", "2026-02-14"),
    ("America/New_York", "2026-03-07"),
    ("America/New_York", "2026-10-31"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("Pacific/Auckland", "2026-09-26"),
]
# Often in the small hours, in which clocks change.
_CLOCKS = st.builds(
    "{:02}:{:02}".format, st.integers(0, 5) | st.integers(0, 23), st.sampled_from([0, 10, 30, 50]) | st.integers(0, 59)
)


@settings(max_examples=200)
@given(
    times=st.tuples(_CLOCKS, _CLOCKS | st.just("24:00")).filter(lambda pair: pair[0] != pair[1]),
    days=st.just(set(DAYS)) | st.sets(st.sampled_from(DAYS), min_size=1),
    change=st.sampled_from(_CHANGES),
    more_zones=st.lists(st.sampled_from(ZONES), max_size=1),
    seconds=st.integers(0, 86_400),
    length=st.just(3 * 1440) | st.integers(1, 3 * 1440),
)
def test_the_next_opening_is_the_first_minute_that_every_clock_shows_within_the_hours(
    times: tuple[str, str], days: set[str], change: tuple[str, str], more_zones: list[str], seconds: int, length: int
) -> None:
    value = {"time_zone": "UTC", "days": sorted(days), "from": times[0], "to": times[1]}
    zones, at = [change[0], *more_zones], utc(change[1]) + timedelta(seconds=seconds)
    before = at + timedelta(minutes=length)
    assert next_time_within_hours(parse_calling_hours(value), at, zones, before) == first_open_minute(value, at, zones, before)


# ---- What it costs


def test_reading_hours_does_not_import_phonenumbers() -> None:
    program = """if True:
        import sys, app.main, app.jobs.worker
        from app.scheduling.hours import callee_time_zones, parse_calling_hours
        hours = parse_calling_hours({"time_zone": "Europe/Berlin", "from": "09:00", "to": "18:00"})
        callee_time_zones("sip:kate@example.com", None, hours)
        print("phonenumbers" in sys.modules, callee_time_zones("+493012345678", None, hours))"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False ('Europe/Berlin',)"


def test_zones_are_found_where_the_system_has_none() -> None:
    program = """if True:
        from datetime import UTC, datetime, timedelta
        from app.scheduling.hours import next_time_within_hours, parse_calling_hours
        hours = parse_calling_hours({"time_zone": "Europe/Berlin", "from": "09:00", "to": "18:00"})
        at = datetime(2026, 11, 27, tzinfo=UTC)
        print(next_time_within_hours(hours, at, ["Europe/Berlin"], at + timedelta(days=1)))"""
    finished = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONTZPATH": ""}, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "2026-11-27 08:00:00+00:00"
