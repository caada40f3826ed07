"""Tests docs/migrating.md and the table of Twilio's codes in docs/errors.md: every snippet runs, and every code is right."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.compat.error_codes import ERROR_CODES, UNKNOWN_OUTCOME_CODE, twilio_code_for
from app.errors import FieldError, error_classes_by_slug
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support import node
from tests.support.gateway import running_app, running_gateway, settings_for
from tests.support.tools import needs_program

DOCS = Path(__file__).resolve().parents[2] / "docs"
MIGRATING = (DOCS / "migrating.md").read_text()


def snippets(language: str) -> str:
    """Returns all snippets of a language, in order, as one program."""
    found = re.findall(rf"^```{language}\n(.*?)^```", MIGRATING, re.DOTALL | re.MULTILINE)
    assert found
    return "\n".join(found)


@pytest.fixture
async def environment(database_url: str) -> AsyncIterator[dict[str, str]]:
    # Long timeouts: a machine that stalls for a second must not make an outcome unknown.
    patient = settings_for(database_url, twilio_read_timeout=20, request_budget=30)
    async with (
        running_app(create_simulator(SimulatorConfig(open_mode=True))) as simulator_url,
        running_gateway(patient) as gateway,
    ):
        tenant = await gateway.add_tenant(simulator_url)
        yield os.environ | {"GATEWAY": gateway.url, "ACCOUNT_SID": tenant.account_sid, "API_KEY": tenant.key, "NO_PROXY": "*"}


async def _run(*command: str, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_the_python_snippets_run(environment: dict[str, str]) -> None:
    output = await _run(sys.executable, "-c", snippets("python"), environment=environment)
    assert re.match(r"CA[0-9a-f]{32} queued", output)


@needs_program("curl")
async def test_the_curl_snippets_run(environment: dict[str, str]) -> None:
    output = await _run("sh", "-euc", snippets("sh"), environment=environment)
    assert '"status":"queued"' in output
    assert '"calls":[]' in output


async def test_the_node_snippets_run(environment: dict[str, str]) -> None:
    await asyncio.to_thread(node.install_packages, node.SDK_PROJECT)
    output = await _run(
        "node", "-e", snippets("js"), environment=environment | {"NODE_PATH": str(node.SDK_PROJECT / "node_modules")}
    )
    assert re.match(r"CA[0-9a-f]{32} queued", output)


def test_every_error_has_its_twilio_status_and_code_in_the_table() -> None:
    text = (DOCS / "errors.md").read_text().split("\n## In Twilio's shape\n")[1]
    found = re.findall(r"^\| `([\w-]+)` \| (\d+) \| (\d+) ", text, re.MULTILINE)
    rows = {slug: (int(status), int(code)) for slug, status, code in found}
    unknown = {"unknown": (409, UNKNOWN_OUTCOME_CODE)}
    assert rows == {error.slug: tuple(error_code) for error, error_code in ERROR_CODES.items()} | unknown


def test_the_row_of_invalid_requests_has_the_right_code_for_each_parameter() -> None:
    (row,) = re.findall(r"^\| `invalid-request` \|.*", (DOCS / "errors.md").read_text(), re.MULTILINE)
    documented = re.findall(r"(\d{5}) for `([A-Z]\w+)`", row)
    assert documented
    for code, parameter in documented:
        pointer = "?PageSize" if parameter == "PageSize" else "/" + re.sub(r"\B([A-Z])", r"_\1", parameter).lower()
        assert twilio_code_for(FieldError(pointer, "value_error", "")) == int(code), parameter


def test_every_error_has_a_code() -> None:
    assert set(error_classes_by_slug().values()) == ERROR_CODES.keys()
    ours = [error_code.code for error_code in ERROR_CODES.values() if error_code.code >= 900_000] + [UNKNOWN_OUTCOME_CODE]
    assert len(ours) == len(set(ours))
    repeated = [error for error, error_code in ERROR_CODES.items() if error_code.status >= 500 or error_code.status == 429]
    assert {error.execution for error in repeated} == {"not_started"}
    assert all(error.is_safe_to_repeat for error in repeated)
