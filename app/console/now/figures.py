"""Makes the plots of the page *Now*, and their table, from the figures of minutes and hours."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from typing import Any, Final, Literal

from app.console.now.figure_store import CallFigures, RolledUpFigures
from app.rollups.store import LATENCY_BOUNDS_MS

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_COUNTING_DELAY: Final = timedelta(minutes=2)
"""The figures of a minute may be missing for this long after its end, because no worker has counted them yet."""
_FIGURES_COMBINED_BY_MAXIMUM: Final = frozenset({"waiting"})
"""The names of figures whose value for a longer period is the maximum, not the sum, of the values for its parts."""


@dataclass(frozen=True, slots=True)
class PlotTimeRange:
    """A time range that the page offers, such as the last 24 hours. `span` is how far back the plots go.

    `point` is the time that one point of a plot covers, and `row` the time that one row of the table covers.
    """

    label: str
    span: timedelta
    point: timedelta
    row: timedelta


PLOT_TIME_RANGES: Final[Mapping[str, PlotTimeRange]] = {
    "1h": PlotTimeRange("hour", timedelta(hours=1), timedelta(minutes=1), timedelta(minutes=5)),
    "24h": PlotTimeRange("24 hours", timedelta(days=1), timedelta(minutes=10), timedelta(hours=2)),
    "7d": PlotTimeRange("7 days", timedelta(days=7), timedelta(hours=1), timedelta(days=1)),
}

PeriodFigures = tuple[datetime, CallFigures | None]
"""The start of a period, and the figures of the period; None instead of the figures if no worker has counted them."""


@dataclass(frozen=True, slots=True)
class PlotSeries:
    """The values of one line of a plot, or of one part of each bar. `colour` is the number of a colour in console.css.

    `axis` "value" is the axis on the left, and "count" the axis on the right.
    """

    label: str
    colour: int
    values: list[float | None]
    axis: Literal["value", "count"] = "value"


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    title: str
    summary: str
    unit: Literal["", "ms", "money"]
    form: Literal["bars", "lines"]
    series: list[PlotSeries]


@dataclass(frozen=True, slots=True)
class FigureTableRow:
    """A row of the table below the plots: the figures of the period that begins at `start`.

    `texts` are in the order of TABLE_COLUMNS. The list is empty if no worker has counted the figures.
    """

    start: datetime
    texts: list[str]


TABLE_COLUMNS: Final = (
    *("Started", "Not started", "Unknown", "Not dialled yet", "Answered in (half / 95 %)", "Callbacks"),
    *("Delivered", "Given up", "Most waiting", "Spent", "Without a price"),
)


def sum_figures_per_period(read: RolledUpFigures, *, span: timedelta, length: timedelta) -> list[PeriodFigures]:
    """Returns the figures of the last `span`, summed for periods of this `length`; None for a period without figures.

    Leaves out the newest periods if they have no figures and ended at most two minutes ago: they may not be counted yet.
    """
    now, found = read.now, defaultdict[datetime, list[CallFigures]](list)
    for start, each in read.figures:
        found[start - (start - _EPOCH) % length].append(each)
    first = now - span
    first += (_EPOCH - first) % length
    starts = [first + index * length for index in range(-(-(now - first) // length))]
    while starts and starts[-1] not in found and starts[-1] > now - length - _MAX_COUNTING_DELAY:
        starts.pop()
    return [(start, sum_figures(found[start]) if start in found else None) for start in starts]


def sum_figures(parts: Sequence[CallFigures]) -> CallFigures:
    """Returns the sums of the figures of several periods. `waiting` is the maximum of the known values instead."""
    spent: dict[str, Decimal] = {}
    for each in parts:
        for unit, amount in each.spent.items():
            spent[unit] = spent.get(unit, Decimal(0)) + amount
    latency = [sum(counts) for counts in zip_longest(*(each.latency for each in parts), fillvalue=0)]
    numbers: dict[str, Any] = {}
    for name in (field.name for field in fields(CallFigures) if field.name not in ("spent", "latency")):
        values = [getattr(each, name) for each in parts]
        known = [value for value in values if value is not None]
        numbers[name] = max(known, default=None) if name in _FIGURES_COMBINED_BY_MAXIMUM else sum(known)
    return CallFigures(**numbers, spent=spent, latency=latency)


def latency_quantile_ms(latency: Sequence[int], share: float) -> float | None:
    """Returns the quantile `share` (0 to 1) of Twilio's response times in milliseconds; None if there are no calls.

    `latency` has the number of calls in each bucket of LATENCY_BOUNDS_MS. The result is interpolated within its bucket. If the
    quantile is in the first bucket, the result is the first bound; if it is in the last bucket, the last bound.
    """
    wanted, seen = share * sum(latency), 0
    if not wanted:
        return None
    for index, count in enumerate(latency[:-1]):
        if seen + count >= wanted:
            high = LATENCY_BOUNDS_MS[index]
            low = LATENCY_BOUNDS_MS[index - 1] if index else high
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return float(LATENCY_BOUNDS_MS[-1])


def make_plots(periods: Sequence[PeriodFigures]) -> list[Plot]:
    """Returns the plots in the order in which the page shows them."""

    def values(of: Callable[[CallFigures], float | None]) -> list[float | None]:
        return [None if figures is None else of(figures) for _, figures in periods]

    sums = sum_figures([figures for _, figures in periods if figures is not None])
    calls = [
        PlotSeries("Started", 2, values(lambda each: each.started)),
        PlotSeries("Not dialled yet", 1, values(lambda each: each.scheduled + each.pending)),
        PlotSeries("Unknown", 4, values(lambda each: each.unknown)),
        PlotSeries("Not started", 3, values(lambda each: each.not_started)),
    ]
    latency = [
        PlotSeries("Half of the calls", 1, values(lambda each: latency_quantile_ms(each.latency, 0.5))),
        PlotSeries("95 %", 5, values(lambda each: latency_quantile_ms(each.latency, 0.95))),
    ]
    callbacks = [
        PlotSeries("Callbacks", 1, values(lambda each: each.callbacks)),
        PlotSeries("Started calls without one", 4, values(lambda each: each.callback_missing)),
    ]
    deliveries = [
        PlotSeries("Delivered", 2, values(lambda each: each.delivered)),
        PlotSeries("Not delivered yet", 1, values(lambda each: each.undelivered)),
        PlotSeries("Given up", 3, values(lambda each: each.gave_up)),
    ]
    units = sorted(sums.spent)
    money = [
        PlotSeries(unit or "?", (2, 5, 1)[index % 3], values(lambda each, unit=unit: float(each.spent.get(unit, 0))))  # type: ignore[misc]
        for index, unit in enumerate(units)
    ]
    money.append(PlotSeries("Completed calls without a price", 4, values(lambda each: each.unpriced), "count"))
    return [
        Plot("calls", "Calls requested", _calls_summary(sums), "", "bars", calls),
        Plot("latency", "Twilio's answer", _latency_summary(sums), "ms", "lines", latency),
        Plot("callbacks", "Callbacks of these calls", f"{sums.callbacks:,} received", "", "lines", callbacks),
        Plot("deliveries", "Deliveries", f"{sums.delivered:,} delivered, {sums.gave_up:,} given up", "", "bars", deliveries),
        Plot("waiting", "Calls that wait", _waiting_summary(periods), "", "lines", [_waiting_calls_series(periods)]),
        Plot("money", "Money spent", _money_summary(sums), "money", "lines", money),
    ]


def _waiting_calls_series(periods: Sequence[PeriodFigures]) -> PlotSeries:
    return PlotSeries("Waiting", 1, [None if figures is None else figures.waiting for _, figures in periods])


def _calls_summary(sums: CallFigures) -> str:
    requested = sums.scheduled + sums.pending + sums.started + sums.not_started + sums.unknown
    return f"{requested:,} requested, {sums.started:,} started"


def _waiting_summary(periods: Sequence[PeriodFigures]) -> str:
    known = [figures.waiting for _, figures in periods if figures is not None and figures.waiting is not None]
    return f"latest {known[-1]:,}, peak {max(known):,}" if known else "Not counted yet"


def _money_summary(sums: CallFigures) -> str:
    unknown = f"; the price of {sums.unpriced:,} {'call is' if sums.unpriced == 1 else 'calls is'} unknown"
    return f"{_money_spent_text(sums) or 'Nothing'}{unknown if sums.unpriced else ''}"


def _money_spent_text(figures: CallFigures) -> str:
    return ", ".join(f"{amount:,.4f} {unit}".strip() for unit, amount in sorted(figures.spent.items()))


def _latency_text(figures: CallFigures) -> str:
    half, most = latency_quantile_ms(figures.latency, 0.5), latency_quantile_ms(figures.latency, 0.95)
    return "–" if half is None or most is None else f"{_milliseconds_text(half)} / {_milliseconds_text(most)}"


def _latency_summary(figures: CallFigures) -> str:
    half, most = latency_quantile_ms(figures.latency, 0.5), latency_quantile_ms(figures.latency, 0.95)
    if half is None or most is None:
        return "No call was answered"
    return f"half within {_milliseconds_text(half)}, 95 % within {_milliseconds_text(most)}"


def _milliseconds_text(value: float) -> str:
    if value >= LATENCY_BOUNDS_MS[-1]:
        return f"{LATENCY_BOUNDS_MS[-1] / 1000:.0f} s or more"
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms"


def figure_table_rows(periods: Sequence[PeriodFigures]) -> list[FigureTableRow]:
    """Returns the rows of the table, the newest first."""
    return [FigureTableRow(start, [] if figures is None else _row_texts(figures)) for start, figures in reversed(periods)]


def _row_texts(figures: CallFigures) -> list[str]:
    numbers = [figures.started, figures.not_started, figures.unknown, figures.scheduled + figures.pending]
    further = [figures.callbacks, figures.delivered, figures.gave_up]
    texts = [*(f"{value:,}" for value in numbers), _latency_text(figures), *(f"{value:,}" for value in further)]
    texts.append("–" if figures.waiting is None else f"{figures.waiting:,}")
    return [*texts, _money_spent_text(figures) or "–", f"{figures.unpriced:,}"]


def plots_as_json(periods: Sequence[PeriodFigures], *, length: timedelta) -> dict[str, Any]:
    """Returns the plots as JSON for the script now.js. Times are in Unix seconds.

    A value is null where no figures were counted. `length` is the length of the period of one point.
    """
    return {
        "times": [int(start.timestamp()) for start, _ in periods],
        "seconds": int(length.total_seconds()),
        "plots": [
            {
                **{name: getattr(plot, name) for name in ("name", "title", "summary", "unit", "form")},
                "series": [
                    {"label": each.label, "colour": each.colour, "axis": each.axis, "values": each.values}
                    for each in plot.series
                ],
            }
            for plot in make_plots(periods)
        ],
    }
