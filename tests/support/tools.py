"""Runs a developer tool as a separate process."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest


async def run_tool(*command: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Runs the command and returns its output. If the command fails, the test fails with this output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


def needs_program(name: str) -> pytest.MarkDecorator:
    """Returns a mark that skips a test if the program is missing. With CALLGATE_REQUIRE_<NAME>, as in CI, the test fails."""
    is_required = os.environ.get(f"CALLGATE_REQUIRE_{name.upper().replace('-', '_')}")
    return pytest.mark.skipif(shutil.which(name) is None and not is_required, reason=f"no {name} on this machine")


# The Makefile creates it from requirements-openapi.lock, because its packages need other versions than Callgate's.
OPENAPI_TOOLS = Path(__file__).resolve().parents[2] / ".venv-openapi"
needs_openapi_tools = pytest.mark.skipif(
    not OPENAPI_TOOLS.exists() and not os.environ.get("CALLGATE_REQUIRE_OPENAPI_TOOLS"),
    reason="`make .venv-openapi/installed` was not run",
)
