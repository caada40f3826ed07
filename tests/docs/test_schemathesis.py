"""Tests that Schemathesis finds no fault when it sends valid and invalid requests of the OpenAPI document to the gateway."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from simulator.config import SimulatorConfig
from simulator.main import create_app
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.tools import OPENAPI_TOOLS, needs_openapi_tools, run_tool

_CONFIG = Path(__file__).with_name("schemathesis.toml")


async def _endless_call(tenant: Tenant) -> str:
    """Returns the id of a call that is in progress and does not end by itself."""
    call_id: str = (await tenant.create(to="sip:forever@example.com")).json()["id"]
    async with asyncio.timeout(30):
        while (await tenant.http.post(f"/v1/calls/{call_id}/recordings", json={})).status_code == 409:
            await asyncio.sleep(0.02)
    return call_id


@needs_openapi_tools
async def test_schemathesis_finds_nothing(
    gateway: Gateway, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with running_app(create_app(SimulatorConfig(open_mode=True, speed=100))) as simulator_url:
        tenant = await gateway.add_tenant(simulator_url)
        output = await run_tool(
            *(str(OPENAPI_TOOLS / "bin" / "schemathesis"), f"--config-file={_CONFIG}", "run", f"{gateway.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {tenant.key}", "--max-examples=15", "--workers=1", "--seed=1"),
            *("--continue-on-failure", "--no-color"),
            cwd=tmp_path,
            environment={"CALL_ID": await _endless_call(tenant), "OTHER_CALL_ID": await _endless_call(tenant)},
        )
    record_property("output", output)
