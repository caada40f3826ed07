"""A pytest plugin that measures the branch coverage of app/ (`-p tests.support.coverage`), in pytest's own processes.

SlipCover instruments the modules while they are imported. A line costs nothing more once it has run; a tracer would cost time
at each execution. The processes that tests start are not measured.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import slipcover

ROOT = Path(__file__).parents[2]
_FOLDER = "TESTS_COVERAGE_FOLDER"

_measured = slipcover.Slipcover(branch=True, source=[str(ROOT / "app")])
slipcover.ImportManager(_measured, slipcover.FileMatcher(sources=[ROOT / "app"])).__enter__()


def pytest_configure(config: pytest.Config) -> None:
    """Creates the folder for the measurements of xdist's workers, which inherit its path through the environment."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="callgate-coverage-")
        config.add_cleanup(folder.cleanup)
        os.environ[_FOLDER] = folder.name


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        worker = Path(os.environ[_FOLDER]) / f"{os.environ['PYTEST_XDIST_WORKER']}.json"
        worker.write_text(json.dumps(_measured.get_coverage()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measured: dict[str, Any] = _measured.get_coverage()
    for worker in sorted(Path(os.environ[_FOLDER]).glob("*.json")):
        slipcover.merge_coverage(measured, json.loads(worker.read_text()))
    summary = measured["summary"]
    lines, missing_lines = summary["covered_lines"], summary["missing_lines"]
    branches, missing_branches = summary["covered_branches"], summary["missing_branches"]
    terminalreporter.section("branch coverage of app/")
    terminalreporter.write_line(
        f"{summary['percent_covered']:.1f} %: {lines:,} of {lines + missing_lines:,} lines, "
        f"{branches:,} of {branches + missing_branches:,} branches"
    )
