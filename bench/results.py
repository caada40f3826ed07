"""Samples of a run, and what they come to: medians over the rounds, and ratios within each round."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.load import Load

OURS, DIRECT = "Callgate", "direct"


@dataclass(frozen=True)
class Scenario:
    concurrent: int
    upstream_ms: int
    tenants: int

    def __str__(self) -> str:
        tenants = "one tenant" if self.tenants == 1 else f"{self.tenants} tenants"
        return f"{self.concurrent} concurrent, upstream at {self.upstream_ms} ms, {tenants}"


@dataclass(frozen=True)
class Sample:
    """One subject in one scenario in one round."""

    scenario: Scenario
    subject: str
    seen: Load
    cpu_s: float
    calls: int
    """With both commits, where there are any."""
    resident_mib: float

    @property
    def cpu_ms(self) -> float:
        return self.cpu_s * 1000 / max(self.calls, 1)

    @property
    def per_second(self) -> float:
        return self.seen.requests / self.seen.seconds


@dataclass(frozen=True)
class Line:
    """Medians of one subject in one scenario; `cpu_ratio` and `rate_ratio` are to Callgate's of the same round."""

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


def lines(scenario: Scenario, samples: Iterable[Sample]) -> list[Line]:
    rounds: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.scenario == scenario:
            rounds.setdefault(sample.subject, []).append(sample)
    return [_line(subject, its, rounds.get(OURS, []), rounds.get(DIRECT, [])) for subject, its in rounds.items()]


def _line(subject: str, its: Sequence[Sample], ours: Sequence[Sample], direct: Sequence[Sample]) -> Line:
    def middle(value: Callable[[Sample], float]) -> float:
        return median(map(value, its))

    def ratio(value: Callable[[Sample], float]) -> float:
        return median(value(one) / value(our) for one, our in zip(its, ours, strict=True)) if ours else float("nan")

    def added(value: Callable[[Sample], float]) -> float:
        return median(value(one) - value(bare) for one, bare in zip(its, direct, strict=True)) if direct else float("nan")

    return Line(
        subject=subject,
        cpu_ms=middle(lambda one: one.cpu_ms),
        cpu_ratio=ratio(lambda one: one.cpu_ms),
        per_second=middle(lambda one: one.per_second),
        rate_ratio=ratio(lambda one: one.per_second),
        p50_ms=middle(lambda one: one.seen.p50_ms),
        p99_ms=middle(lambda one: one.seen.p99_ms),
        added_p50_ms=added(lambda one: one.seen.p50_ms),
        added_p99_ms=added(lambda one: one.seen.p99_ms),
        resident_mib=middle(lambda one: one.resident_mib),
        failed=sum(one.seen.refused + one.seen.broken for one in its),
    )


COLUMNS = [
    "",
    "CPU/call ms",
    "× Callgate",
    "calls/s",
    "× Callgate",
    "p50 ms",
    "added p50",
    "added p99",
    "RSS MiB",
    "failed",
]


def cells(line: Line) -> list[str]:
    bare = line.subject == DIRECT
    return [
        line.subject,
        "–" if bare else f"{line.cpu_ms:.2f}",
        "–" if bare else f"{line.cpu_ratio:.2f}",
        f"{line.per_second:.0f}",
        f"{line.rate_ratio:.2f}",
        f"{line.p50_ms:.2f}",
        "–" if bare else f"{line.added_p50_ms:.2f}",
        "–" if bare else f"{line.added_p99_ms:.2f}",
        "–" if bare else f"{line.resident_mib:.0f}",
        str(line.failed),
    ]


def print_summary(scenario: Scenario, samples: Iterable[Sample]) -> None:
    print(f"\n{scenario}")
    for row in [COLUMNS, *map(cells, lines(scenario, samples))]:
        print(f"{row[0]:<22}" + "".join(f"{cell:>12}" for cell in row[1:]), flush=True)
