"""Tests that the end of a call is stored even if its redial (a new call after no answer, for example) cannot be written.

Also tests that a redial has a turn.
"""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream

REDIAL: dict[str, Any] = {"on": ["busy"], "times": 1, "after_s": 60}
_END = "UPDATE call SET status = 'busy' WHERE id = $1"
_WAITS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def _redials(tenant: Tenant) -> list[str]:
    listed = (await tenant.http.get("/v1/calls", params={"execution": "scheduled"})).raise_for_status().json()
    return [call["redial_of"] for call in listed["calls"] if call["redial_of"]]


@pytest.mark.parametrize("redial", [None, REDIAL | {"times": "two"}, REDIAL | {"after_s": 1e300}, {"on": ["busy"]}])
async def test_a_redial_that_cannot_be_read_is_left_out(gateway: Gateway, redial: object) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(priority="normal", redial=REDIAL)).json()
        change = "UPDATE call SET parameters = jsonb_set(parameters, '{redial}', $2::jsonb) WHERE id = $1"
        await gateway.database.fetch(change, UUID(call["id"]), json.dumps(redial))
        await gateway.database.fetch(_END, UUID(call["id"]))
        assert (await tenant.http.get(f"/v1/calls/{call['id']}")).json()["status"] == "busy"
        assert await _redials(tenant) == []
        assert (await tenant.events(call["id"]))[-1]["type"] == "call.redial_failed"


async def test_a_redial_that_no_row_can_be_written_for_is_left_out(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first, second = [(await tenant.create(priority="normal", redial=REDIAL)).json()["id"] for _ in range(2)]
        await gateway.database.fetch("ALTER TABLE scheduled_dial ADD CONSTRAINT refused CHECK (tries > 0) NOT VALID")
        await gateway.database.fetch(_END, UUID(first))
        await gateway.database.fetch("ALTER TABLE scheduled_dial DROP CONSTRAINT refused")
        await gateway.database.fetch(_END, UUID(second))
        assert await _redials(tenant) == [second]
        (failed,) = [event for event in await tenant.events(first) if event["type"] == "call.redial_failed"]
        assert failed["data"] == {"sqlstate": "23514"}


async def test_a_redial_has_a_turn_that_was_deleted_while_its_call_ended(gateway: Gateway) -> None:
    """The job that deletes idle turns locks `scheduled_dial`. No worker grants the calls of a caller without a turn."""
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = UUID((await tenant.create(priority="normal", redial=REDIAL)).json()["id"])
        other = UUID(int=0)
        add_turn = "INSERT INTO dial_turn (account_id, caller_id) SELECT account_id, $2::uuid FROM call WHERE id = $1"
        await gateway.database.fetch(add_turn, call_id, other)
        async with gateway.database.transaction() as connection:
            await connection.execute("LOCK TABLE scheduled_dial IN SHARE MODE")
            ended = asyncio.create_task(gateway.database.fetch(_END, call_id))
            while not await gateway.database.fetch(_WAITS):
                await asyncio.sleep(0.01)
            await connection.execute("DELETE FROM dial_turn WHERE caller_id = $1", other)
        await ended
        assert await _redials(tenant) == [str(call_id)]
        turns = "SELECT FROM dial_turn JOIN call USING (account_id) WHERE id = $1 AND caller_id = $2"
        assert len(await gateway.database.fetch(turns, call_id, other)) == 1
