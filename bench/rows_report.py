"""The results of bench/rows.py as tables, on the terminal and in docs/performance.md."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median as middle
from statistics import quantiles

from bench.report import machine, markdown_table, replace_part
from bench.rows_measure import Compared, median
from bench.rows_writes import Cost, IndexCosts, Latencies

GOAL = 1.3
_STATEMENTS = ("statement", "ms", "ms", "ratio", "planning ms", "planning ms", "buffers", "buffers", "ratio")
_INDEXES = ("index", "MiB", "µs a creation", "share", "WAL bytes a creation", "share")


def progress(one: Compared) -> str:
    return f"{one.question:36} time × {one.time_ratio:5.2f}   buffers × {one.buffer_ratio:5.2f}   {one.plan}"


def parts(
    compared: Sequence[Compared], costs: IndexCosts, latencies: Latencies, *, sizes: Sequence[int], command: str
) -> Iterator[str]:
    """Paragraphs, headings and tables of Markdown."""
    small, large = (f"{size:,}" for size in sizes)
    yield f"{machine()}. `{command}`"
    yield f"### {large} calls beside {small}"
    yield f"Of each pair of columns the first is at {small} calls, the second at {large}; ratios above {GOAL} are bold."
    yield markdown_table(_STATEMENTS, map(_statement, compared))
    yield f"### Plans at {large}"
    yield markdown_table(("statement", "plan"), ([one.question, one.plan] for one in compared), text=2)
    yield f"### What each index costs, at {large} calls"
    whole = costs.whole
    yield (
        f"One creation among 32 together, intent and outcome: {whole.us:.0f} µs of Postgres's time and "
        f"{whole.wal_bytes:,.0f} bytes of write-ahead log with all of them."
    )
    yield markdown_table(_INDEXES, (_index(name, mib, cost, whole) for name, (mib, cost) in costs.without.items()))
    yield "### Creation while expired calls are deleted"
    turns = {"at rest": latencies.quiet, "at work": latencies.expiring}
    yield markdown_table(
        ("retention", "creations", "p50 ms", "p99 ms"),
        ([name, f"{len(ms):,}", f"{middle(ms):.2f}", f"{quantiles(ms, n=100)[98]:.2f}"] for name, ms in turns.items()),
    )
    yield f"At work it deleted {latencies.expired:,} calls in {latencies.expiring_s:.0f} s."


def write_page(results: Iterable[str]) -> None:
    """Replaces what docs/performance.md shows of an earlier run."""
    replace_part("rows", results)


def _statement(one: Compared) -> list[str]:
    def both(attribute: str, digits: int) -> list[str]:
        return [f"{median(asked, attribute):.{digits}f}" for asked in (one.small, one.large)]

    times, planning, buffers = both("ms", 3), both("planning_ms", 3), both("buffers", 0)
    return [one.question, *times, _ratio(one.time_ratio), *planning, *buffers, _ratio(one.buffer_ratio)]


def _index(name: str, mib: float, cost: Cost, whole: Cost) -> list[str]:
    time, log = f"{cost.us / whole.us:.0%}", f"{cost.wal_bytes / whole.wal_bytes:.0%}"
    return [f"`{name}`", f"{mib:,.0f}", f"{cost.us:.1f}", time, f"{cost.wal_bytes:,.0f}", log]


def _ratio(value: float) -> str:
    return f"**{value:.2f}**" if value > GOAL else f"{value:.2f}"
