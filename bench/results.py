"""Computes from the measurements (samples) of a bench the medians over all rounds, and ratios within each round."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import nan
from statistics import median

from bench.load import Load

OURS, ECHO, DIRECT = "Callgate", "FastAPI echo", "direct"
# These subjects do none of the work of the other subjects.
FLOORS = (ECHO, DIRECT)


@dataclass(frozen=True)
class Scenario:
    concurrent: int
    upstream_ms: int
    tenants: int

    what: str = "calls"
    longer: int = 1
    """A factor for the duration of a run. In a longer run, the requests that are still unanswered at its end matter less."""

    def __str__(self) -> str:
        if self.what != "calls":
            return f"{self.what}, {self.concurrent} concurrent"
        tenants = "one tenant" if self.tenants == 1 else f"{self.tenants} tenants"
        return f"{self.concurrent} concurrent, upstream at {self.upstream_ms} ms, {tenants}"


@dataclass(frozen=True)
class Sample:
    """The measurements of one subject (a service) in one scenario and one round."""

    scenario: Scenario
    subject: str
    load: Load
    cpu_s: float
    calls: int
    """The number of calls whose outcome the service has committed. A service that stores nothing counts its answers instead."""
    resident_mib: float

    @property
    def cpu_ms(self) -> float:
        return self.cpu_s * 1000 / max(self.calls, 1)

    @property
    def per_second(self) -> float:
        return self.load.requests / self.load.seconds


@dataclass(frozen=True)
class SubjectMedians:
    """The medians of one service's samples in one scenario.

    `cpu_ratio` and `rate_ratio` are the service's values divided by Callgate's values in the same round.
    """

    subject: str
    cpu_ms: float
    cpu_ratio: float
    per_second: float
    rate_ratio: float
    p50_ms: float
    p99_ms: float
    added_p50_ms: float
    added_p99_ms: float
    resident_mib: float
    failed: int


def medians_of_scenario(scenario: Scenario, samples: Iterable[Sample]) -> list[SubjectMedians]:
    rounds: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.scenario == scenario:
            rounds.setdefault(sample.subject, []).append(sample)
    ours = rounds.get(OURS, []) if len(rounds) > 1 else []
    return [_medians(subject, its, ours, rounds.get(DIRECT, [])) for subject, its in rounds.items()]


def _medians(subject: str, its: Sequence[Sample], ours: Sequence[Sample], direct: Sequence[Sample]) -> SubjectMedians:
    def middle(value: Callable[[Sample], float]) -> float:
        return median(map(value, its))

    def ratio(value: Callable[[Sample], float]) -> float:
        # On a busy machine a round may end before anything is answered.
        return median(value(one) / (value(our) or nan) for one, our in zip(its, ours, strict=True)) if ours else nan

    def added(value: Callable[[Sample], float]) -> float:
        return median(value(one) - value(bare) for one, bare in zip(its, direct, strict=True)) if direct else nan

    return SubjectMedians(
        subject=subject,
        cpu_ms=middle(lambda one: one.cpu_ms),
        cpu_ratio=ratio(lambda one: one.cpu_ms),
        # Callbacks may run out before time is up.
        per_second=middle(lambda one: one.per_second) if its[0].scenario.what == "calls" else nan,
        rate_ratio=ratio(lambda one: one.per_second),
        p50_ms=middle(lambda one: one.load.p50_ms),
        p99_ms=middle(lambda one: one.load.p99_ms),
        added_p50_ms=added(lambda one: one.load.p50_ms),
        added_p99_ms=added(lambda one: one.load.p99_ms),
        resident_mib=middle(lambda one: one.resident_mib),
        failed=sum(one.load.refused + one.load.broken for one in its),
    )
