"""Clients generated from the OpenAPI document compile as they are, and place a call."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from app.http.problems import ProblemRenderer
from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support import node
from tests.support.clients import http_client
from tests.support.gateway import Gateway, running_app
from tests.support.tools import OPENAPI_TOOLS, needs_openapi_tools, run_tool

_PYTHON = Path(__file__).resolve().parents[1] / "openapi_python"


@dataclass
class Generated:
    """A folder with the OpenAPI document, and the environment variables with which a generated client finds the gateway."""

    folder: Path
    environment: Mapping[str, str]


@pytest.fixture
async def generated(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Generated]:
    async with running_app(create_app(SimulatorConfig(open_mode=True, speed=100))) as simulator_url:
        tenant = await gateway.add_tenant(simulator_url)
        async with http_client() as http:
            (tmp_path / "openapi.json").write_text((await http.get(f"{gateway.url}/openapi.json")).text)
        unknown = ProblemRenderer().render_unknown_outcome(uuid7(), request_id="r-1")
        yield Generated(
            tmp_path, {"GATEWAY_URL": gateway.url, "API_KEY": tenant.key, "UNKNOWN_OUTCOME": bytes(unknown.body).decode()}
        )


def _is_placed(output: str) -> None:
    result = json.loads(output)
    assert (result["execution"], result["status"], result["sid"][:2]) == ("started", "queued", "CA")
    assert result["refused"] == "urn:callgate:problem:invalid-request"


@needs_openapi_tools
async def test_openapi_python_client_places_a_call(
    generated: Generated, record_property: Callable[[str, object], None]
) -> None:
    tools, folder = OPENAPI_TOOLS / "bin", generated.folder
    output = await run_tool(
        *(str(tools / "openapi-python-client"), "generate", "--path=openapi.json", "--meta=none", "--fail-on-warning"),
        *("--output-path=callgate_client", f"--config={_PYTHON / 'config.yaml'}"),
        cwd=folder,
        environment={"PATH": f"{tools}:{os.environ['PATH']}"},  # it formats with ruff
    )
    record_property("output", output)
    names = [path.stem for path in (folder / "callgate_client" / "models").iterdir()]
    assert not [name for name in names if "_type_" in name and name[-1].isdigit()]
    script = shutil.copy(_PYTHON / "place_call.py", folder)
    # Errors in the generated modules, which come from the generator's templates, are not reported.
    options = ("--strict", "--follow-imports=silent", f"--python-executable={tools / 'python'}", "--config-file=")
    await run_tool(sys.executable, "-m", "mypy", *options, str(script), cwd=folder)
    _is_placed(await run_tool(str(tools / "python"), str(script), cwd=folder, environment=generated.environment))


async def test_openapi_typescript_and_openapi_fetch_place_a_call(
    generated: Generated, record_property: Callable[[str, object], None]
) -> None:
    await asyncio.to_thread(node.install_packages, node.OPENAPI_PROJECT)
    folder = generated.folder
    for name in ("package.json", "tsconfig.json", "place_call.ts"):
        shutil.copy(node.OPENAPI_PROJECT / name, folder)
    (folder / "node_modules").symlink_to(node.OPENAPI_PROJECT / "node_modules")
    output = await run_tool("npx", "--no-install", "openapi-typescript", "openapi.json", "--output=callgate.d.ts", cwd=folder)
    record_property("output", output)
    await run_tool("npx", "--no-install", "tsc", cwd=folder)
    _is_placed(await run_tool("node", "built/place_call.js", cwd=folder, environment=generated.environment))
