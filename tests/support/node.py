"""Twilio's own Node package, from the lock file of tests/sdk_node. A test is skipped where it cannot be had, but not in CI."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1] / "sdk_node"
NODE_MODULES = PROJECT / "node_modules"
_REQUIRED = bool(os.environ.get("CALLGATE_REQUIRE_NODE"))


def install() -> None:
    """Once for a lock file; whoever comes meanwhile waits. Not inside an event loop."""
    if (shutil.which("node") is None or shutil.which("npm") is None) and not _REQUIRED:
        pytest.skip("no Node.js with npm on this machine")
    lock, mark = PROJECT / "package-lock.json", NODE_MODULES / ".package-lock.json"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if mark.exists() and mark.stat().st_mtime >= lock.stat().st_mtime:
            return
        npm = subprocess.run(["npm", "ci"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if npm.returncode and not _REQUIRED:
        pytest.skip(f"npm cannot install Twilio's package: {npm.stderr.strip().splitlines()[-1]}")
    assert npm.returncode == 0, npm.stderr
