"""Draws small bar charts as SVG, for light and dark pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, NAME_WIDTH, ROW_HEIGHT, TOP_MARGIN = 720, 170, 26, 58
LEGEND_LEFT, LEGEND_STEP = 445, 85
_NUMBER_WIDTH = 70
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.bar { fill: #8c959f }
.ours { fill: #1f6feb }
.second { fill: #d29922 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


@dataclass(frozen=True)
class Panel:
    """A panel of a bar chart. Each bar is divided into parts, and a number beside the bar shows the sum of its parts."""

    title: str
    bars: Sequence[Mapping[str, float]]
    """One mapping for each bar: the lengths of its parts by their CSS class, from left to right."""
    digits: int
    longest: float
    """The length of a bar that takes the whole width of the panel."""


def chart(title: str, names: Sequence[str], panels: Sequence[Panel], *, legend: Mapping[str, str] | None = None) -> str:
    """Returns an SVG with the panels side by side. `legend` maps CSS classes of the bars' parts to the texts of the legend."""
    height = TOP_MARGIN + ROW_HEIGHT * len(names) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="16">{escape(title)}</text>',
    ]
    for number, (kind, name) in enumerate((legend or {}).items()):
        left = LEGEND_LEFT + LEGEND_STEP * number
        parts.append(f'<rect class="{kind}" x="{left}" y="5" width="12" height="12" rx="2"/>')
        parts.append(f'<text x="{left + 18}" y="16">{escape(name)}</text>')
    for row, name in enumerate(names):
        parts.append(f'<text x="0" y="{TOP_MARGIN + ROW_HEIGHT * row + 15}">{escape(name)}</text>')
    width = (WIDTH - NAME_WIDTH) // len(panels)
    for number, panel in enumerate(panels):
        parts += _panel(panel, NAME_WIDTH + width * number, width)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, left: int, width: int) -> list[str]:
    parts = [f'<text x="{left}" y="{TOP_MARGIN - 14}">{escape(panel.title)}</text>']
    for row, bar in enumerate(panel.bars):
        end: float = left
        y = TOP_MARGIN + ROW_HEIGHT * row
        for kind, value in bar.items():
            length = value / panel.longest * (width - _NUMBER_WIDTH)
            parts.append(f'<rect class="{kind}" x="{end:g}" y="{y}" width="{length:.1f}" height="{ROW_HEIGHT - 6}" rx="2"/>')
            end += length
        parts.append(f'<text x="{end + 6:.1f}" y="{y + 15}">{sum(bar.values()):.{panel.digits}f}</text>')
    return parts
