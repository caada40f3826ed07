"""Tests a roll-out from the last version without scheduled calls: its processes neither dial, lose nor change such calls."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.running import REPOSITORY, free_port
from tests.rolling.versions import add_tenant, both_versions, wait_until_shown
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL

_MIGRATION = "migrations/versions/2026-11-28-2356_scheduled_calls.py"
SCHEDULED = BASIC_CALL | {"queue": "held", "to": "sip:scheduled@example.com"}
CANCELED = BASIC_CALL | {"queue": "held", "to": "sip:canceled@example.com"}


def before_scheduled_calls() -> str | None:
    """Returns the git revision before the migration that adds scheduled calls. Returns None if the checkout has no history."""
    command = ["git", "log", "--first-parent", "--diff-filter=A", "--format=%P", "--", _MIGRATION]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.split()[0] if found.stdout.split() else None


async def test_the_version_before_leaves_scheduled_calls_alone(empty_database_url: str, tmp_path: Path) -> None:
    revision = before_scheduled_calls()
    if revision is None:
        pytest.skip("the repository has no history with a version before scheduled calls")
    port = free_port()
    simulator = f"http://127.0.0.1:{port}"
    old, new = both_versions(revision, empty_database_url, tmp_path, simulator)
    async with new.simulating(port):
        await new.run("migrate")
        headers = {"Authorization": f"Bearer {await add_tenant(new)}"}
        async with new.serving() as url, http_client(base_url=url, headers=headers) as http:
            (await http.put("/v1/queues/held", json={"paused": True})).raise_for_status()
            waiting, canceled = await schedule(http, SCHEDULED), await schedule(http, CANCELED)
            (await http.patch(f"/v1/calls/{canceled['id']}", json={"status": "canceled"})).raise_for_status()
        async with old.serving() as url, http_client(base_url=url, headers=headers) as http:
            await check_old_answers(http, waiting["id"], canceled["id"])
        assert await dialled(simulator) == [BASIC_CALL["to"]]
        async with new.serving() as url, http_client(base_url=url, headers=headers) as http:
            assert (await http.get(f"/v1/calls/{waiting['id']}")).json()["updated_at"] == waiting["updated_at"]
            assert (await http.get(f"/v1/calls/{canceled['id']}")).json()["settled_by"] == "canceled"
            (await http.put("/v1/queues/held", json={"paused": False})).raise_for_status()
            await wait_until_shown(http, f"/v1/calls/{waiting['id']}", execution="started", status="completed")
        assert await dialled(simulator) == [BASIC_CALL["to"], SCHEDULED["to"]]


async def schedule(http: httpx.AsyncClient, body: dict[str, str]) -> dict[str, Any]:
    response = await http.post("/v1/calls", json=body, headers={"Idempotency-Key": body["to"]})
    assert response.status_code == 202, response.text
    call: dict[str, Any] = response.json()
    return call


async def check_old_answers(http: httpx.AsyncClient, waiting: str, canceled: str) -> None:
    """Checks the old version's answers about scheduled calls: an error or `unknown`, and never a wrong outcome."""
    # When this is completed, the old worker has run its jobs.
    placed = await http.post("/v1/calls", json=BASIC_CALL)
    await wait_until_shown(http, f"/v1/calls/{placed.json()['id']}", status="completed")
    for path in (f"/v1/calls/{waiting}", f"/v1/calls/{canceled}", "/v1/calls"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:callgate:problem:internal-error")
    events = (await http.get(f"/v1/calls/{waiting}/events")).raise_for_status().json()["events"]
    assert [event["type"] for event in events] == ["call.scheduled"]
    update = await http.patch(f"/v1/calls/{waiting}", json={"status": "canceled"})
    assert (update.status_code, update.json()["type"]) == (409, "urn:callgate:problem:wrong-call-state")
    repeated = await http.post("/v1/calls", json=SCHEDULED, headers={"Idempotency-Key": SCHEDULED["to"]})
    assert (repeated.status_code, repeated.json()["id"], repeated.json()["execution"]) == (202, waiting, "unknown")
    another = await http.post("/v1/calls", json=SCHEDULED)
    assert (another.status_code, another.json()["execution"]) == (422, "not_started")


async def dialled(simulator: str) -> list[str]:
    async with http_client() as http:
        entries = (await http.get(f"{simulator}/_simulator/ledger")).raise_for_status().json()["entries"]
    return [entry["to"] for entry in entries]
