"""Tests which minutes and hours the roll-up counts again, and when."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.rollups.periods import HOUR, MAX_COUNTING_BACKLOG, MINUTE, MINUTE_ROLLUP_RETENTION, Period, due_periods

NOW = datetime(2026, 11, 29, 4, 17, tzinfo=UTC)


def _due(minutes: int = 1, until: datetime = NOW, calls_kept_for: timedelta | None = None) -> list[Period]:
    due = due_periods(since=until - minutes * MINUTE, until=until, calls_kept_for=calls_kept_for)
    return [each.period for each in due]


def test_a_minute_is_due_whenever_its_age_has_doubled() -> None:
    ages = [(NOW - period.start) // MINUTE for period in _due()]
    assert sorted(ages) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_an_hour_is_due_from_half_a_day_on_also_when_deliveries_were_given_up() -> None:
    ages = [(NOW - period.start) // HOUR for period in _due(60) if period.length == HOUR]
    assert sorted(ages) == [12, 24, 48, 74, 192, 384]


def test_nothing_is_due_twice_in_a_minute_and_nothing_before_the_clock_has_moved() -> None:
    assert _due(0) == _due(-5) == []


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_runs_at_any_moments_roll_up_what_one_run_does(steps: list[int]) -> None:
    """Checks that each period is counted again after the last moment at which it became due."""
    start = NOW - sum(steps) * MINUTE
    last_due: dict[Period, datetime] = {}
    since = start
    for step in steps:
        for each in due_periods(since=since, until=since + step * MINUTE, calls_kept_for=None):
            assert since < each.due_at <= since + step * MINUTE
            last_due[each.period] = each.due_at
        since += step * MINUTE
    at_once = {each.period: each.due_at for each in due_periods(since=start, until=NOW, calls_kept_for=None)}
    oldest = NOW - MINUTE_ROLLUP_RETENTION
    assert {period: at for period, at in last_due.items() if period.length == HOUR or period.start >= oldest} == at_once


def test_in_a_year_without_a_worker_a_week_is_rolled_up_and_the_last_day_by_minutes() -> None:
    due = _due(365 * 24 * 60)
    minutes = [period.start for period in due if period.length == MINUTE]
    hours = [period.start for period in due if period.length == HOUR]
    assert max(Counter(due).values()) == 1
    assert set(minutes) >= {NOW - age * MINUTE for age in range(1, 24 * 60)}
    assert min(minutes) >= NOW - MINUTE_ROLLUP_RETENTION
    assert set(hours) >= {NOW.replace(minute=0) - age * HOUR for age in range(13, MAX_COUNTING_BACKLOG // HOUR)}


def test_calls_that_may_be_deleted_are_not_counted_again() -> None:
    """The figures of an hour stay as they were counted before its first call could be deleted."""
    assert all(NOW - period.start <= timedelta(hours=22) for period in _due(10_000, calls_kept_for=timedelta(days=1)))
    assert any(period.length == HOUR for period in _due(60, calls_kept_for=timedelta(days=1)))


@given(st.integers(0, 10_000))
def test_the_work_of_a_minute_is_bounded(moved: int) -> None:
    assert len(_due(1, NOW + moved * MINUTE)) <= 16
