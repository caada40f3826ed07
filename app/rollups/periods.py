"""Decides when figures (counts, latencies, prices) of a minute or hour are counted, and when they are counted again. No I/O.

A call changes for a while after it was requested: its outcome, callbacks and price come later. The figures of a period are
counted again at growing ages of the period (`_MINUTE_RECOUNT_AGES`, `_HOUR_RECOUNT_AGES`). So each call is read only about
sixteen times, however long it is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
MINUTE_ROLLUP_RETENTION: Final = timedelta(hours=26)
"""The figures of a minute are deleted when the minute is older than this."""
MAX_COUNTING_BACKLOG: Final = timedelta(days=7)
"""Figures whose counting became due longer ago than this are skipped, for example after a long stop of all workers."""

_MINUTE_RECOUNT_AGES: Final = tuple(MINUTE * 2**power for power in range(10))
# 74 hours, because attempts at a delivery end after three days.
_HOUR_RECOUNT_AGES: Final = tuple(HOUR * hours for hours in (12, 24, 48, 74, 192, 384))
_FOR_EVER: Final = timedelta(days=36_500)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Periods this close to the end of their calls' retention are not counted again: some calls may be deleted already.
_RETENTION_MARGIN: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True, order=True)
class Period:
    start: datetime
    length: timedelta

    @property
    def end(self) -> datetime:
        return self.start + self.length


@dataclass(frozen=True, slots=True, order=True)
class DuePeriod:
    """A period whose figures have to be counted, and the time at which this became due."""

    due_at: datetime
    period: Period


def due_periods(*, since: datetime, until: datetime, calls_kept_for: timedelta | None) -> list[DuePeriod]:
    """Returns the minutes and hours whose figures became due to be counted, or counted again, after `since` and until `until`.

    Each period is in the list once; the one that became due first comes first. `since` and `until` are whole minutes. Leaves
    out periods that became due more than MAX_COUNTING_BACKLOG before `until`.

    Also leaves out periods whose calls may be deleted already, so that their figures stay as they are. `calls_kept_for` is the
    time from the request for a call to its deletion; None: calls are never deleted.
    """
    since = max(since, until - MAX_COUNTING_BACKLOG)
    readable_for = _FOR_EVER if calls_kept_for is None else calls_kept_for - _RETENTION_MARGIN
    due: dict[Period, datetime] = {}
    for length, ages, kept_for in (
        (MINUTE, _MINUTE_RECOUNT_AGES, MINUTE_ROLLUP_RETENTION),
        (HOUR, _HOUR_RECOUNT_AGES, _FOR_EVER),
    ):
        oldest = until - min(kept_for, readable_for)
        for age in ages:
            for start in _period_starts(length, first=max(since - age + MINUTE, oldest), last=until - age):
                period = Period(start, length)
                due[period] = max(start + age, due.get(period, since))
    return sorted(DuePeriod(due_at, period) for period, due_at in due.items())


def _period_starts(length: timedelta, *, first: datetime, last: datetime) -> Iterator[datetime]:
    """Yields the start of each period that begins between `first` and `last`, both inclusive."""
    start = first + (_EPOCH - first) % length
    while start <= last:
        yield start
        start += length
