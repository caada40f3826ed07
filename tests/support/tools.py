"""Run a tool that a developer would run, as a process of its own."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path


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
