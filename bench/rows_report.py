"""The results of bench/rows.py as tables, on the terminal and in docs/performance.md."""

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence

from bench.report import PAGE, machine
from bench.rows_measure import Compared, median_buffers, median_ms, median_planning_ms
from bench.rows_writes import IndexCosts, Latencies

GOAL = 1.3
_RESULTS = re.compile(r"(<!-- rows -->\n).*(<!-- end of rows -->)", re.DOTALL)


def progress(one: Compared) -> str:
    return f"{one.question:36} time × {one.time_ratio:5.2f}   buffers × {one.buffer_ratio:5.2f}   {one.plan}"


def lines(
    compared: Sequence[Compared], costs: IndexCosts, latencies: Latencies, *, sizes: Sequence[int], command: str
) -> Iterator[str]:
    small, large = sizes
    yield f"{machine()}. `{command}`"
    yield ""
    yield f"### {large:,} calls beside {small:,}"
    yield ""
    yield f"Of each pair of columns the first is at {small:,} calls, the second at {large:,}; ratios above {GOAL} are bold."
    yield ""
    yield from _statements(compared)
    yield f"### Plans at {large:,}"
    yield ""
    yield from _table(["statement", "plan"], ([one.question, one.plan] for one in compared))
    yield from _indexes(costs, calls=large)
    yield "### Creation while expired calls are deleted"
    yield ""
    yield from _table(
        ["retention", "creations", "p50 ms", "p99 ms"],
        (
            [name, f"{len(taken):,}", f"{statistics.median(taken):.2f}", f"{statistics.quantiles(taken, n=100)[98]:.2f}"]
            for name, taken in (("at rest", latencies.quiet), ("at work", latencies.expiring))
        ),
    )
    yield f"At work it deleted {latencies.expired:,} calls in {latencies.expiring_s:.0f} s."


def _statements(compared: Sequence[Compared]) -> Iterator[str]:
    yield from _table(
        ["statement", "ms", "ms", "ratio", "planning ms", "planning ms", "buffers", "buffers", "ratio"],
        (
            [
                one.question,
                f"{median_ms(one.small):.3f}",
                f"{median_ms(one.large):.3f}",
                _ratio(one.time_ratio),
                f"{median_planning_ms(one.small):.3f}",
                f"{median_planning_ms(one.large):.3f}",
                f"{median_buffers(one.small):.0f}",
                f"{median_buffers(one.large):.0f}",
                _ratio(one.buffer_ratio),
            ]
            for one in compared
        ),
    )


def _indexes(costs: IndexCosts, *, calls: int) -> Iterator[str]:
    yield f"### What each index costs, at {calls:,} calls"
    yield ""
    yield (
        f"One creation among 32 together, intent and outcome: {costs.us:.0f} µs of Postgres's time and "
        f"{costs.wal_bytes:,.0f} bytes of write-ahead log with all of them."
    )
    yield ""
    yield from _table(
        ["index", "MiB", "µs a creation", "share", "WAL bytes a creation", "share"],
        (
            [
                f"`{one.name}`",
                f"{one.mib:,.0f}",
                f"{one.us:.1f}",
                f"{one.us / costs.us:.0%}",
                f"{one.wal_bytes:,.0f}",
                f"{one.wal_bytes / costs.wal_bytes:.0%}",
            ]
            for one in costs.indexes
        ),
    )


def write_page(results: Iterable[str]) -> None:
    """Replace what docs/performance.md shows of an earlier run."""
    text = "\n".join(results)
    PAGE.write_text(_RESULTS.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", PAGE.read_text()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first column is text, and so is a last one that is long."""
    rows = list(rows)
    aligned = ["---" if not index or any(len(row[index]) > 20 for row in rows) else "---:" for index in range(len(head))]
    for cells in (head, aligned, *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _ratio(value: float) -> str:
    return f"**{value:.2f}**" if value > GOAL else f"{value:.2f}"
