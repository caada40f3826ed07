"""Draws two small bar charts as SVG, for light and dark pages."""

from collections.abc import Callable, Sequence
from html import escape

from bench.results import Line

WIDTH, NAME_WIDTH, ROW, TOP = 720, 170, 26, 58
PANEL = (WIDTH - NAME_WIDTH) // 2
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.bar { fill: #8c959f }
.ours { fill: #1f6feb }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


def chart(title: str, bars: Sequence[Line], *, ours: str) -> str:
    """Returns an SVG with each subject's processor time per call and calls per second."""
    height = TOP + ROW * len(bars) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="16">{escape(title)}</text>',
    ]
    for row, line in enumerate(bars):
        parts.append(f'<text x="0" y="{TOP + ROW * row + 15}">{escape(line.subject)}</text>')
    parts += _panel(NAME_WIDTH, "CPU of the service per call, ms", bars, lambda line: line.cpu_ms, 2, ours)
    parts += _panel(NAME_WIDTH + PANEL, "calls per second", bars, lambda line: line.per_second, 0, ours)
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, title: str, bars: Sequence[Line], value: Callable[[Line], float], digits: int, ours: str) -> list[str]:
    most = max(map(value, bars))
    parts = [f'<text x="{left}" y="{TOP - 14}">{escape(title)}</text>']
    for row, line in enumerate(bars):
        width = value(line) / most * (PANEL - 70)
        y = TOP + ROW * row
        kind = "ours" if line.subject == ours else "bar"
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{width:.1f}" height="{ROW - 6}" rx="2"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 15}">{value(line):.{digits}f}</text>')
    return parts
