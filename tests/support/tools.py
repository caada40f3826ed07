"""Run a tool that a developer would run, as a process of its own."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest


async def run(*command: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Its output, which also explains why it failed."""
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


# Made by the Makefile from requirements-openapi.lock; its packages need other versions than ours.
OPENAPI_TOOLS = Path(__file__).resolve().parents[2] / ".venv-openapi"
needs_openapi_tools = pytest.mark.skipif(
    not OPENAPI_TOOLS.exists() and not os.environ.get("CALLGATE_REQUIRE_OPENAPI_TOOLS"),
    reason="`make .venv-openapi/installed` was not run",
)
