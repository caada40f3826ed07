"""Statements have the same text in every process, so that pg_stat_statements and poolers see one statement and not many."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.cli.running import environment

PROGRAM = """
import json, sys
import app.main, app.jobs.worker
print(json.dumps({
    f"{module}.{name}": value
    for module in sorted(sys.modules) if module.startswith("app.")
    for name, value in vars(sys.modules[module]).items() if isinstance(value, str)
}))
"""


def texts(tmp_path: Path, hash_seed: int) -> dict[str, str]:
    """Returns all module-level strings of the API and the worker by name, in a process with this hash seed."""
    variables = environment(tmp_path) | {"PYTHONHASHSEED": str(hash_seed)}
    finished = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True)
    return dict(json.loads(finished.stdout))


def test_no_text_depends_on_the_order_of_a_set(tmp_path: Path) -> None:
    first, second = (texts(tmp_path, seed) for seed in (1, 2))
    assert "app.calls.creation.store._WRITE_OUTCOMES" in first
    assert {name for name, text in first.items() if text != second[name]} == set()


def test_no_statement_compares_with_a_volatile_time(tmp_path: Path) -> None:
    """Postgres uses no index for such a comparison, and reads all rows. now() is stable."""
    compared = re.compile(r"[<>]=?\s*\(?clock_timestamp\(\)|clock_timestamp\(\)\s*([-+]\s*\S+\s*)?[<>]")
    assert compared.search("ring_by <= clock_timestamp()")
    assert {name for name, text in texts(tmp_path, 1).items() if compared.search(text)} == set()
