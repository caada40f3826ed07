"""Tests that the end of a call is stored even if its redial (a new call after no answer, for example) cannot be written."""

import json
from typing import Any
from uuid import UUID

import pytest

from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream

REDIAL: dict[str, Any] = {"on": ["busy"], "times": 1, "after_s": 60}
_END = "UPDATE call SET status = 'busy' WHERE id = $1"


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
        assert (await tenant.events(call["id"]))[-1]["type"] == "call.redial_not_written"


async def test_a_redial_that_no_row_can_be_written_for_is_left_out(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first, second = [(await tenant.create(priority="normal", redial=REDIAL)).json()["id"] for _ in range(2)]
        await gateway.database.fetch("ALTER TABLE scheduled_dial ADD CONSTRAINT refused CHECK (tries > 0) NOT VALID")
        await gateway.database.fetch(_END, UUID(first))
        await gateway.database.fetch("ALTER TABLE scheduled_dial DROP CONSTRAINT refused")
        await gateway.database.fetch(_END, UUID(second))
        assert await _redials(tenant) == [second]
        (unwritten,) = [event for event in await tenant.events(first) if event["type"] == "call.redial_not_written"]
        assert unwritten["data"] == {"sqlstate": "23514"}
