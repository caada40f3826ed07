"""Shows the results of benches as tables, on the terminal and in docs/performance.md."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path

from bench.chart import Panel, chart
from bench.results import FLOORS, OURS, Sample, Scenario, SubjectMedians, medians_of_scenario

PAGE_PATH = Path(__file__).parents[1] / "docs" / "performance.md"
CHART_PATH = PAGE_PATH.with_suffix(".svg")
COLUMNS = (
    "",
    "CPU ms",
    "× Callgate",
    "per second",
    "× Callgate",
    "p50 ms",
    "p99 ms",
    "added p50",
    "added p99",
    "RSS MiB",
    "failed",
)


def table_rows(scenario: Scenario, samples: Iterable[Sample]) -> list[list[str]]:
    """Returns the rows of a table: first the names of the columns, and then one row for each measured service.

    A column in which nothing was measured is left out.
    """
    table = [list(COLUMNS), *(_cells(line) for line in medians_of_scenario(scenario, samples))]
    measured = [column for column in zip(*table, strict=True) if set(column[1:]) != {"–"}]
    return [list(row) for row in zip(*measured, strict=True)]


def _cells(line: SubjectMedians) -> list[str]:
    has_process = line.resident_mib > 0
    return [
        line.subject,
        _number(line.cpu_ms, 2) if has_process else "–",
        _ratio(line.cpu_ratio) if has_process else "–",
        _number(line.per_second, 0),
        _ratio(line.rate_ratio),
        _number(line.p50_ms, 2),
        _number(line.p99_ms, 2),
        _number(line.added_p50_ms, 2) if has_process else "–",
        _number(line.added_p99_ms, 2) if has_process else "–",
        _number(line.resident_mib, 0) if has_process else "–",
        str(line.failed),
    ]


def _ratio(value: float) -> str:
    return _number(value, 2 if value < 10 else 0)


def _number(value: float, digits: int) -> str:
    return "–" if isnan(value) else f"{value:.{digits}f}"


def print_table(scenario: Scenario, samples: Iterable[Sample]) -> None:
    print(f"\n{scenario}")
    for row in table_rows(scenario, samples):
        print(f"{row[0]:<22}" + "".join(f"{cell:>12}" for cell in row[1:]), flush=True)


def write_page(
    scenarios: Sequence[Scenario], samples: Sequence[Sample], *, headline: Scenario, command: str, postgres: str
) -> None:
    """Replaces the results in docs/performance.md, and the chart (an SVG file beside the page), by those of this run."""
    parts = [f"{describe_run()}, PostgreSQL {postgres}. `{command}`"]
    for scenario in scenarios:
        head, *body = table_rows(scenario, samples)
        parts.append(f"### {str(scenario)[0].upper()}{str(scenario)[1:]}")
        parts.append(markdown_table(head, body))
    replace_part("results", parts)
    CHART_PATH.write_text(_chart(headline, samples))


def _chart(scenario: Scenario, samples: Iterable[Sample]) -> str:
    """Returns an SVG with two bar charts of the measured services: processor time per call, and calls per second."""
    shown = [line for line in medians_of_scenario(scenario, samples) if line.subject not in FLOORS]

    def panel(title: str, values: Sequence[float], digits: int) -> Panel:
        kinds = ["ours" if line.subject == OURS else "bar" for line in shown]
        return Panel(title, [{kind: value} for kind, value in zip(kinds, values, strict=True)], digits, longest=max(values))

    panels = [
        panel("CPU of the service per call, ms", [line.cpu_ms for line in shown], 2),
        panel("calls per second", [line.per_second for line in shown], 0),
    ]
    return chart(str(scenario), [line.subject for line in shown], panels)


def replace_part(name: str, paragraphs: Iterable[str], *, page: Path = PAGE_PATH, before: str | None = None) -> None:
    """Writes results into a page of Markdown. They replace the results of an earlier run.

    The results stand between the comments `<!-- name -->` and `<!-- end of name -->`. If the page has no such comments, the
    results are added before the heading `before`. Raises ValueError if the page does not have that heading either.
    """
    begin, end, heading = f"<!-- {name} -->", f"<!-- end of {name} -->", f"\n{before}\n"
    part = "\n\n".join([begin, *paragraphs, end])
    earlier = re.compile(f"{begin}.*{end}", re.DOTALL)
    text = page.read_text()
    if earlier.search(text):
        page.write_text(earlier.sub(lambda _: part, text))
    elif before and heading in text:
        page.write_text(text.replace(heading, f"\n{part}\n{heading}", 1))
    else:
        raise ValueError(f"{page.name} has neither {begin!r} nor the heading {before!r}")


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]], *, text: int = 1) -> str:
    """Returns a Markdown table. The first `text` columns are aligned to the left, all other columns to the right."""
    aligned = ["---"] * text + ["---:"] * (len(head) - text)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, aligned, *body))


def describe_run() -> str:
    """Returns one line of text that describes this run: processor, cores, kernel, Python version and commit."""
    described = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", described)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    facts = [
        model[1] if model else platform.machine(),
        f"{os.cpu_count()} cores",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(facts) + (f", commit {commit}" if commit else "")
