"""Calls and their subresources through Twilio's own Node package, unmodified: the flows are in tests/sdk_node."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support.gateway import Gateway, served

PROJECT = Path(__file__).parent.parent / "sdk_node"
NODE, NPM = shutil.which("node"), shutil.which("npm")
REQUIRED = bool(os.environ.get("CALLGATE_REQUIRE_NODE"))

pytestmark = pytest.mark.skipif((NODE is None or NPM is None) and not REQUIRED, reason="no Node.js with npm on this machine")


async def _run(*command: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture
async def installed() -> None:
    """Once for a lock file: what it names is in node_modules already the next time."""
    mark, lock = PROJECT / "node_modules" / ".package-lock.json", PROJECT / "package-lock.json"
    if mark.exists() and mark.stat().st_mtime >= lock.stat().st_mtime:
        return
    status, output = await _run("npm", "ci")
    if status and not REQUIRED:
        pytest.skip(f"npm could not install Twilio's package: {output.strip().splitlines()[-1]}")
    assert status == 0, output


@pytest.fixture
async def simulator_url() -> AsyncIterator[str]:
    async with served(create_app(SimulatorConfig(open_mode=True, speed=100))) as url:
        yield url


@pytest.mark.usefixtures("installed")
async def test_calls_and_all_they_have_through_twilios_node_package(gateway: Gateway, simulator_url: str) -> None:
    tenant = await gateway.add_tenant(simulator_url)
    status, output = await _run(
        "node", "--test", "--test-reporter=tap", GATEWAY_URL=gateway.url, ACCOUNT_SID=tenant.account_sid, API_KEY=tenant.key
    )
    assert status == 0, output
    assert "# pass 5" in output, output


def test_the_lock_file_names_no_registry() -> None:
    """It would have to be changed with the registry; the hashes are what pins the packages."""
    packages = json.loads((PROJECT / "package-lock.json").read_text())["packages"]
    locked = {name: package for name, package in packages.items() if name}
    assert all(package["integrity"] for package in locked.values())
    assert not [name for name, package in locked.items() if "resolved" in package]
