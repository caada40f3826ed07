"""The result of a rehearsal (a simulation of scheduled calls): the outcome of each call, and the rate of calls. No I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

RehearsedOutcome = Literal["rings", "fails", "expires", "refused"]
_NO_QUEUE_TIME = timedelta()


@dataclass(slots=True)
class RehearsedCall:
    """A call in a rehearsal: the first call of a line of the file, or a redial after a call was busy or not answered."""

    line: int
    key: str | None = None
    redial: int = 0
    """The number of the redial: 0 for the first call of the line, 1 for its first redial, and so on."""
    outcome: RehearsedOutcome | None = None
    at: datetime | None = None
    """The time at which the call rings, fails or expires, or at which Twilio refuses it. None if the line itself is refused."""
    not_before: datetime | None = None
    ring_by: datetime | None = None
    priority: str | None = None
    reason: str | None = None
    """Why the call is refused or delayed."""
    dialled_at: datetime | None = None
    """The time at which Callgate sends the call to Twilio. None if it is never sent or is refused."""
    queue_time: timedelta = _NO_QUEUE_TIME
    """How long the call waits in Twilio's queue."""
    status: str | None = None
    """The final status of the call at Twilio. None if the call was not started or has not ended."""
    ended_at: datetime | None = None
    temporary_refusals: int = 0
    """The number of times that Twilio refused the call only for the moment, so that the call waited again."""

    def add_twilio_reasons(self) -> None:
        """Adds to `reason` what happens to the call at Twilio: temporary refusals, time in the queue, or its cancellation."""
        reasons = []
        if self.temporary_refusals:
            reasons.append(f"Twilio would refuse it {self.temporary_refusals} times for the moment")
        if self.queue_time:
            reasons.append(f"Twilio would queue it for {round(self.queue_time.total_seconds(), 1):g} s")
        if self.outcome == "expires" and self.dialled_at is not None:
            reasons.append("it is canceled there at ring_by")
        self.reason = "; ".join([*([self.reason] if self.reason else []), *reasons]) or None


def sorted_by_time(calls: Iterable[RehearsedCall]) -> list[RehearsedCall]:
    """Returns the calls in the order in which they ring, fail or expire. Refused calls are last, in the order of the lines."""

    def sort_key(call: RehearsedCall) -> tuple[bool, float, bool, int]:
        if call.outcome == "refused" or call.at is None:
            return True, 0, False, call.line
        return False, call.at.timestamp(), call.outcome == "expires", 0

    return sorted(calls, key=sort_key)


@dataclass(frozen=True, slots=True)
class SimulatedCallRate:
    """The rate of calls in a rehearsal: when the calls ring, how many ring per second, and how many exist at the same time."""

    first: datetime | None
    """The time at which the first call rings. None if no call rings."""
    last: datetime | None
    calls_per_second: float | None
    """The mean rate between the first and the last call that rings. None if fewer than two calls ring, or all ring at once."""
    max_calls_in_a_second: int
    max_calls_under_way: int
    """The maximum number of calls that Twilio has at the same time, including those in its queue."""


def simulated_call_rate(calls: Sequence[RehearsedCall]) -> SimulatedCallRate:
    times = sorted(call.at for call in calls if call.outcome == "rings" and call.at is not None)
    under_way = max_simultaneous_calls(calls)
    if not times:
        return SimulatedCallRate(None, None, None, 0, under_way)
    span_s = (times[-1] - times[0]).total_seconds()
    mean = (len(times) - 1) / span_s if span_s else None
    return SimulatedCallRate(times[0], times[-1], mean, _max_rings_in_interval(times, timedelta(seconds=1)), under_way)


def max_simultaneous_calls(calls: Iterable[RehearsedCall]) -> int:
    """Returns the maximum number of calls that Twilio has at the same time. A call does not count at the moment of its end."""
    placed = [call for call in calls if call.dialled_at is not None]
    changes = [(call.dialled_at, 1) for call in placed if call.dialled_at is not None]
    changes += [(call.ended_at, -1) for call in placed if call.ended_at is not None]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def _max_rings_in_interval(times: Sequence[datetime], span: timedelta) -> int:
    """Returns the largest number of `times` in one interval of the length `span`. The interval excludes its end.

    `times` must be sorted.
    """
    most = first = 0
    for last, time in enumerate(times):
        while time - times[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most
