"""Tests the plots of the page *Now*, and the table with the same figures."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.console.now.figure_store import CallFigures, RolledUpFigures
from app.console.now.figures import (
    PLOT_TIME_RANGES,
    TABLE_COLUMNS,
    figure_table_rows,
    latency_quantile_ms,
    make_plots,
    plots_as_json,
    sum_figures,
    sum_figures_per_period,
)
from app.rollups.store import LATENCY_BOUNDS_MS

NOW = datetime(2026, 11, 29, 10, 30, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def _minutes(number: int, *, until: datetime = NOW, started: int = 0) -> list[tuple[datetime, CallFigures]]:
    last = until.replace(second=0)
    return [(last - age * MINUTE, CallFigures(started=started)) for age in range(number, 0, -1)]


def test_a_point_for_each_period_and_none_for_the_one_that_is_not_over() -> None:
    found = sum_figures_per_period(RolledUpFigures(NOW, _minutes(60, started=1)), span=timedelta(hours=1), length=MINUTE)
    assert [start for start, _ in found] == [NOW.replace(second=0) - age * MINUTE for age in range(59, 0, -1)]
    assert all(figures is not None and figures.started == 1 for _, figures in found)


def test_a_period_without_figures_is_a_gap_and_not_zero() -> None:
    rows = [row for row in _minutes(60, started=1) if row[0].minute % 10 != 5]
    found = dict(sum_figures_per_period(RolledUpFigures(NOW, rows), span=timedelta(hours=1), length=MINUTE))
    assert [start.minute for start, figures in found.items() if figures is None] == [35, 45, 55, 5, 15, 25]
    values = plots_as_json(list(found.items()), length=MINUTE)["plots"][0]["series"][0]["values"]
    assert values.count(None) == 6


def test_a_worker_that_stopped_leaves_a_gap_up_to_now() -> None:
    rows = _minutes(60, until=NOW - 20 * MINUTE, started=1)
    found = sum_figures_per_period(RolledUpFigures(NOW, rows), span=timedelta(hours=1), length=MINUTE)
    assert found[-1][0] >= NOW - 4 * MINUTE
    assert found[-1][1] is None


@given(st.sampled_from(sorted(PLOT_TIME_RANGES)), st.integers(0, 100_000), st.integers(0, 1000))
def test_no_figure_is_lost_or_counted_twice(name: str, moved: int, seed: int) -> None:
    chance = Random(seed)  # noqa: S311  # the same in every run
    now, chosen = NOW + timedelta(seconds=moved), PLOT_TIME_RANGES[name]
    rows = []
    for start, _ in _minutes(int(chosen.span / MINUTE) // 10, until=now):
        rows.append(
            (start, CallFigures(started=chance.randrange(9), waiting=chance.randrange(50), spent={"USD": Decimal("0.01")}))
        )
    for length in (chosen.point, chosen.row):
        found = sum_figures_per_period(RolledUpFigures(now, rows), span=chosen.span, length=length)
        every = sum_figures([figures for _, figures in found if figures is not None])
        first = found[0][0]
        inside = [figures for start, figures in rows if start >= first]
        assert every.started == sum(figures.started for figures in inside)
        assert every.waiting == max((figures.waiting for figures in inside if figures.waiting is not None), default=None)
        assert every.spent.get("USD", 0) == Decimal("0.01") * len(inside)
        assert len(found) <= chosen.span / length + 1


def _latency(*counts: int) -> list[int]:
    return [*counts, *[0] * (len(LATENCY_BOUNDS_MS) + 1 - len(counts))]


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    assert latency_quantile_ms(_latency(10), 0.5) == 50
    assert latency_quantile_ms(_latency(0, 4), 0.5) == 75
    assert latency_quantile_ms(_latency(5, 5), 0.95) == 95
    assert latency_quantile_ms(_latency(), 0.5) is None
    assert latency_quantile_ms([], 0.5) is None
    assert latency_quantile_ms([0] * len(LATENCY_BOUNDS_MS) + [3], 0.5) == LATENCY_BOUNDS_MS[-1]


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=60), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(times: list[int], share: float) -> None:
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for time in times:
        counts[sum(bound <= time for bound in LATENCY_BOUNDS_MS)] += 1
    exact = sorted(times)[-(-len(times) * int(share * 100) // 100) - 1]
    bucket = sum(bound <= exact for bound in LATENCY_BOUNDS_MS)
    low, high = [0, *LATENCY_BOUNDS_MS, LATENCY_BOUNDS_MS[-1]][bucket : bucket + 2]
    found = latency_quantile_ms(counts, share)
    assert found is not None
    assert low <= found <= high


FULL = CallFigures(
    scheduled=2,
    pending=1,
    started=1200,
    not_started=3,
    unknown=4,
    callbacks=4800,
    callback_missing=10,
    delivered=99,
    gave_up=1,
    undelivered=5,
    unpriced=1,
    spent={"USD": Decimal("12.40750"), "EUR": Decimal("0.1")},
    latency=_latency(0, 0, 0, 10, 10),
    waiting=120,
)


def test_the_plots_and_what_they_say() -> None:
    found = [(NOW - MINUTE, FULL), (NOW, None)]
    said = {plot.name: plot.summary for plot in make_plots(found)}
    assert said == {
        "calls": "1,210 requested, 1,200 started",
        "latency": "half within 200 ms, 95 % within 290 ms",
        "callbacks": "4,800 received",
        "deliveries": "99 delivered, 1 given up",
        "waiting": "latest 120, peak 120",
        "money": "0.1000 EUR, 12.4075 USD; the price of 1 call is unknown",
    }
    series = {plot.name: {each.label: each.values for each in plot.series} for plot in make_plots(found)}
    assert series["calls"] == {
        "Started": [1200, None],
        "Not dialled yet": [3, None],
        "Unknown": [4, None],
        "Not started": [3, None],
    }
    assert series["callbacks"] == {"Callbacks": [4800, None], "Started calls without one": [10, None]}
    assert series["money"] == {"EUR": [0.1, None], "USD": [12.4075, None], "Completed calls without a price": [1, None]}


def test_waiting_calls_that_were_not_counted_are_a_gap() -> None:
    counted, not_counted = CallFigures(waiting=3), CallFigures(started=1)
    found = [(NOW - 2 * MINUTE, counted), (NOW - MINUTE, not_counted), (NOW, sum_figures([counted, not_counted]))]
    (plot,) = [plot for plot in make_plots(found) if plot.name == "waiting"]
    assert [each.values for each in plot.series] == [[3, None, 3]]
    assert plot.summary == "latest 3, peak 3"
    column = TABLE_COLUMNS.index("Most waiting")
    assert [row.texts[column] for row in figure_table_rows(found)] == ["3", "–", "3"]


def test_plots_without_any_figures() -> None:
    for found in ([], [(NOW, None)], [(NOW, CallFigures())]):
        assert len(make_plots(found)) == 6
        assert plots_as_json(found, length=MINUTE)["times"] == [int(start.timestamp()) for start, _ in found]


def test_the_table_has_the_same_numbers_the_newest_first() -> None:
    newest, gap, oldest = figure_table_rows([(NOW - 2 * MINUTE, FULL), (NOW - MINUTE, None), (NOW, CallFigures())])
    assert (gap.texts, len(newest.texts), len(oldest.texts)) == ([], len(TABLE_COLUMNS), len(TABLE_COLUMNS))
    assert dict(zip(TABLE_COLUMNS, oldest.texts, strict=True)) == {
        "Started": "1,200",
        "Not started": "3",
        "Unknown": "4",
        "Not dialled yet": "3",
        "Answered in (half / 95 %)": "200 ms / 290 ms",
        "Callbacks": "4,800",
        "Delivered": "99",
        "Given up": "1",
        "Most waiting": "120",
        "Spent": "0.1000 EUR, 12.4075 USD",
        "Without a price": "1",
    }


def test_every_figure_is_shown() -> None:
    """Checks that each figure changes the plots. Callgate would store a figure that changes nothing in vain."""
    for field in fields(CallFigures):
        if field.name not in ("spent", "latency"):
            more: dict[str, Any] = {field.name: 7}
            assert plots_as_json([(NOW, CallFigures(**more))], length=MINUTE) != plots_as_json(
                [(NOW, CallFigures())], length=MINUTE
            )
