"""Real processes expose every metric that alerts and the dashboard use, and every alert has its runbook."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.errors import error_classes_by_slug
from app.settings import Settings
from tests.cli.running import environment, free_port, is_listening, running, wait_until
from tests.support.clients import http_get
from tests.support.gateway import SECRET_KEY
from tests.support.tools import needs_program

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
RUNBOOK = (ROOT / "docs" / "alerts.md").read_text()
ONLY_WORKERS_COUNT = ("CallgateAbandoned", "CallgateScheduledExpired", "CallgateUnrecordedCalls")
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}


def queries() -> dict[str, str]:
    expressions = {rule["alert"]: rule["expr"] for rule in RULES}
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    return expressions | {
        f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]
    }


def exposed_series(port: int) -> Iterator[tuple[str, set[str]]]:
    """Yields the name of each series in /metrics of the process at `port`, with the names of the labels that it has so far."""
    for family in text_string_to_metric_families(http_get(f"http://127.0.0.1:{port}/metrics").text):
        for suffix in SUFFIXES[family.type]:
            yield family.name + suffix, {label for sample in family.samples for label in sample.labels}


def documented_metrics() -> set[str]:
    """Returns the metrics that docs/ and the console name in backticks. Settings have such names as files of a Secret."""
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "app" / "console").rglob("*.*")]
    texts = [path for path in texts if path.suffix != ".pyc"]  # of deleted modules, too
    named = {name for text in texts for name in re.findall(rb"`(callgate_\w+)[`{]", text.read_bytes())}
    return {name.decode() for name in named} - {f"callgate_{field}" for field in Settings.model_fields}


async def test_every_metric_of_alerts_dashboard_docs_and_console_is_exposed_by_the_api_or_the_worker(
    database_url: str, tmp_path: Path
) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    api, worker = free_port(), free_port()
    with (
        running("serve", "--port", str(api), environment=configured, file=tmp_path / "serve"),
        running("worker", "--ops-port", str(worker), environment=configured, file=tmp_path / "worker"),
    ):
        for port in (api, worker):
            await asyncio.to_thread(wait_until, lambda port=port: is_listening(port), "the port")  # type: ignore[misc]
        await asyncio.to_thread(
            wait_until, lambda: "callgate_refresh_lag_seconds" in dict(exposed_series(worker)), "the worker's first measurement"
        )
        names = {name for port in (api, worker) for name, _ in exposed_series(port)}
        from_api, from_worker = ({name for name, _ in exposed_series(port)} for port in (api, worker))
    assert "callgate_refresh_lag_seconds" in from_worker - from_api, (
        "only workers measure the database, never a scrape of the API"
    )
    assert {"callgate_workers", "callgate_worker_heartbeat_timestamp_seconds"} <= from_api - from_worker
    (not_measured,) = re.findall(r"^## CallgateNotMeasured\n.+?(?=^##)", RUNBOOK, re.MULTILINE | re.DOTALL)
    for rule in RULES:
        # Both processes have the counters of the other two, but only workers increase them.
        if set(re.findall(r"callgate_\w+", rule["expr"])) & (from_worker - from_api) or rule["alert"] in ONLY_WORKERS_COUNT:
            assert rule["alert"] in not_measured
    for title, query in queries().items():
        used = set(re.findall(r"\b((?:callgate|process)_\w+)", query))
        assert used, title
        assert used <= names, title
    assert {"callgate_database_connections", "callgate_grants_total"} <= documented_metrics()
    assert documented_metrics() <= names | {name.removesuffix("_bucket") for name in names}


def test_every_slug_in_a_query_exists() -> None:
    for title, query in queries().items():
        for slugs in re.findall(r'slug=~?"([^"]+)"', query):
            assert set(slugs.split("|")) <= error_classes_by_slug().keys(), title
        for _, name in re.findall(r"\bmax(_over_time)?\((callgate_\w+)\)", query):
            assert name.startswith("callgate_")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_links_to_a_runbook_section(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/alerts.md"
    assert anchor == rule["alert"].lower()
    sections = dict(re.findall(r"^## (\w+)\n+(.+?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert len(sections[rule["alert"]].split()) > 15
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")


def test_every_runbook_section_has_an_alert() -> None:
    assert set(re.findall(r"^## (Callgate\w+)$", RUNBOOK, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_the_dashboards_panels_have_unique_ids_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)


@needs_program("promtool")
def test_promtool_accepts_the_rules_and_their_tests(tmp_path: Path) -> None:
    rules = MONITORING / "alerts.yaml"
    checked = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(RULES)} rules found" in checked.stdout
    quiet = "\n".join(f"      - {{eval_time: 50m, alertname: {rule['alert']}}}" for rule in RULES)
    cases = Path(__file__).with_name("alerts_test.yaml").read_text().replace("RULES", str(rules)).replace("QUIET", quiet)
    (tmp_path / "cases.yaml").write_text(cases)
    tested = subprocess.run(["promtool", "test", "rules", str(tmp_path / "cases.yaml")], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
