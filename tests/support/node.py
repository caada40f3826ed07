"""Installs the Node packages of tests/sdk_node, tests/openapi_node and tests/console_node.

A test is skipped if npm is missing or fails, unless CALLGATE_REQUIRE_NODE is set, as in CI.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parents[1]
SDK_PROJECT = _TESTS / "sdk_node"
OPENAPI_PROJECT = _TESTS / "openapi_node"
CONSOLE_PROJECT = _TESTS / "console_node"
_REQUIRED = bool(os.environ.get("CALLGATE_REQUIRE_NODE"))


def install_packages(project: Path) -> None:
    """Installs the packages of the project's lock file once. Blocks the thread, so it must not run in an event loop."""
    if (shutil.which("node") is None or shutil.which("npm") is None) and not _REQUIRED:
        pytest.skip("no Node.js with npm on this machine")
    lock, mark = project / "package-lock.json", project / "node_modules" / ".package-lock.json"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if mark.exists() and mark.stat().st_mtime >= lock.stat().st_mtime:
            return
        npm = subprocess.run(["npm", "ci"], cwd=project, capture_output=True, text=True, check=False)
    if npm.returncode and not _REQUIRED:
        pytest.skip(f"npm cannot install the packages: {npm.stderr.strip().splitlines()[-1]}")
    assert npm.returncode == 0, npm.stderr
