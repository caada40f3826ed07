"""Tests calls and subresources with Twilio's unmodified Node package. The scripts are in tests/sdk_node."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support import node
from tests.support.gateway import Gateway, running_app


async def test_calls_and_subresources_with_twilios_node_package(gateway: Gateway) -> None:
    await asyncio.to_thread(node.install_packages, node.SDK_PROJECT)
    async with running_app(create_app(SimulatorConfig(open_mode=True, speed=100))) as simulator_url:
        tenant = await gateway.add_tenant(simulator_url)
        environment = {"GATEWAY_URL": gateway.url, "ACCOUNT_SID": tenant.account_sid, "API_KEY": tenant.key}
        flows = await asyncio.create_subprocess_exec(
            *("node", "--test", "--test-timeout=60000", "--test-reporter=tap"),
            cwd=node.SDK_PROJECT,
            env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await flows.communicate()
    assert flows.returncode == 0, output.decode()
    assert "# pass 6\n" in output.decode()


@pytest.mark.parametrize("project", [node.SDK_PROJECT, node.OPENAPI_PROJECT], ids=lambda project: project.name)
def test_the_lock_file_contains_no_registry(project: Path) -> None:
    """The lock file pins packages by their hashes. Without URLs in it, npm can use any registry."""
    packages = json.loads((project / "package-lock.json").read_text())["packages"]
    locked = {name: package for name, package in packages.items() if name}
    assert all(package["integrity"] for package in locked.values())
    assert not [name for name, package in locked.items() if "resolved" in package]
