"""What the benches write into docs/performance.md, and the charts beside this page."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.chart import Panel, chart
from bench.life_report import CHART_NAME, life_chart, write_section
from bench.life_run import Run
from bench.report import PAGE_PATH, replace_part

SVG = "{http://www.w3.org/2000/svg}"


def run(service: str, rate: float, *, callbacks: bool, **cpu_s: float) -> Run:
    """Returns a run with one call that has ended. So the CPU seconds of the run are those of one call."""
    events = {} if callbacks is False else {"CA1": dict.fromkeys(("initiated", "ringing", "in-progress", "completed"), 1.0)}
    return Run(service, rate, callbacks, 1, placed={"CA1": 0.0}, priced={"CA1": 1.0}, delivered=events, cpu_s=cpu_s)


RUNS = [
    run("Callgate", 10, callbacks=True, API=0.004, worker=0.006, Postgres=0.01),
    run("by hand", 10, callbacks=True, API=0.06, Postgres=0.02),
    run("Callgate", 10, callbacks=False, API=0.001, worker=0.002, Postgres=0.003),
    run("by hand", 10, callbacks=False, API=0.03, Postgres=0.01),
]


def lengths(svg: str) -> list[tuple[str | None, float]]:
    """Returns the CSS class and the width of each part of each bar in a chart."""
    rectangles = ElementTree.fromstring(svg).findall(f"{SVG}rect")  # noqa: S314 - our own
    return [(each.get("class"), float(each.get("width", ""))) for each in rectangles if each.get("height") != "12"]


def words(svg: str) -> list[str | None]:
    return [each.text for each in ElementTree.fromstring(svg).findall(f"{SVG}text")]  # noqa: S314 - our own


def test_a_bar_is_as_long_as_the_sum_of_its_parts() -> None:
    svg = chart("Title & more", ["a", "b"], [Panel("ms", [{"ours": 1.0, "bar": 2.0}, {"bar": 1.5}], 1, longest=3.0)])
    (_, first), (_, second), (_, third) = lengths(svg)
    assert second == pytest.approx(2 * first, abs=0.1)
    assert third == pytest.approx((first + second) / 2, abs=0.1)
    assert words(svg) == ["Title & more", "a", "b", "ms", "3.0", "1.5"]


def test_the_chart_of_a_life_shows_each_role_and_one_scale_for_both_modes() -> None:
    svg = life_chart(RUNS)
    assert [kind for kind, _ in lengths(svg)] == ["ours", "second", "bar", "ours", "bar"] * 2
    assert {"API", "worker", "Postgres", "Callgate, 10 calls/s", "by hand, 10 calls/s"} <= set(words(svg))
    assert [word for word in words(svg) if re.fullmatch(r"[\d.]+", word or "")] == ["20.0", "80.0", "6.0", "40.0"]
    of_the_competitor = [sum(width for _, width in part) for part in (lengths(svg)[3:5], lengths(svg)[8:10])]
    assert of_the_competitor[0] == pytest.approx(2 * of_the_competitor[1], abs=0.3)


def test_a_run_of_one_mode_has_one_panel() -> None:
    assert "by polling only" not in words(life_chart(RUNS[:2]))


def test_the_section_is_added_once_and_then_replaced(tmp_path: Path) -> None:
    committed = re.sub(r"<!-- life -->.*<!-- end of life -->\n\n", "", PAGE_PATH.read_text(), flags=re.DOTALL)
    page = tmp_path / PAGE_PATH.name
    page.write_text(committed)
    write_section(RUNS, ["The first run."], page=page)
    write_section(RUNS, [r"The second \1 run."], page=page)
    before, _, rest = page.read_text().partition("<!-- life -->\n\n")
    section, _, after = rest.partition("<!-- end of life -->\n\n")
    assert before + after == committed
    assert after.startswith("## Ten million calls\n")
    assert section.startswith("## The whole life of a call\n")
    assert section.endswith("\n\nThe second \\1 run.\n\n")
    assert f"]({CHART_NAME})" in section
    assert (tmp_path / CHART_NAME).read_text() == life_chart(RUNS)


def test_a_page_without_the_part_and_without_the_heading_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match=r"page\.md has neither"):
        replace_part("life", ["text"], page=page, before="## Missing")
    assert page.read_text() == "# Page\n"


@pytest.mark.parametrize("name", ["results", "rows"])
def test_the_parts_of_the_other_benches_are_in_the_page(name: str, tmp_path: Path) -> None:
    page = tmp_path / PAGE_PATH.name
    page.write_text(PAGE_PATH.read_text())
    replace_part(name, ["Shown."], page=page)
    assert f"\n<!-- {name} -->\n\nShown.\n\n<!-- end of {name} -->\n" in page.read_text()
