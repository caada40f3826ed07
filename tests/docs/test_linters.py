"""Redocly's and Spectral's linters, with all their recommended rules, find nothing in the OpenAPI document."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import node
from tests.support.clients import http_client
from tests.support.gateway import Gateway
from tests.support.tools import run_tool


@pytest.mark.parametrize(
    "command",
    [
        ("redocly", "lint", "--config=redocly.yaml"),
        ("spectral", "lint", "--ruleset=spectral.yaml", "--fail-severity=hint"),
    ],
    ids=lambda command: command[0],
)
async def test_a_linter_finds_nothing(
    gateway: Gateway, tmp_path: Path, record_property: Callable[[str, object], None], command: tuple[str, ...]
) -> None:
    await asyncio.to_thread(node.install_packages, node.OPENAPI_PROJECT)
    document = tmp_path / "openapi.json"
    async with http_client() as http:
        document.write_text((await http.get(f"{gateway.url}/openapi.json")).text)
    output = await run_tool("npx", "--no-install", *command, str(document), cwd=node.OPENAPI_PROJECT)
    record_property("output", output)
