"""The statement that writes many outcomes changes a call only if the outcome is of its current attempt."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from app.calls.creation.store import AttemptOutcome, write_outcomes
from app.calls.record_change import make_record_change
from app.calls.stored_problem import error_as_json
from app.errors import UpstreamUnreachable
from tests.support.gateway import Gateway
from tests.support.upstream import call_resource, created, running_upstream


def _outcome(call_id: str, attempt: int, **columns: Any) -> AttemptOutcome:
    change = make_record_change("call.planted", {"attempt": attempt}, {"settled_by": "response", **columns})
    return AttemptOutcome(UUID(call_id), attempt, change)


async def test_a_late_outcome_of_an_earlier_attempt_does_not_replace_another_outcome(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create("k")).json()["id"]
        sid = f"CA{uuid4().hex}"
        late = _outcome(call_id, 1, execution="not_started", problem=error_as_json(UpstreamUnreachable()))
        now = _outcome(call_id, 2, execution="started", sid=sid, resource=call_resource(sid))
        for batch in ([late, now], [now, late]):
            async with gateway.database.begin() as session:
                await session.execute(
                    text("UPDATE call SET execution = 'pending', sid = NULL, attempt = 2 WHERE id = :id"), {"id": call_id}
                )
            changed = await write_outcomes(gateway.database, batch)
            record = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
            assert (record["execution"], record["sid"]) == ("started", sid)
            assert [each.attempt for each, at in zip(batch, changed, strict=True) if at] == [2]
        planted = [event["data"] for event in await tenant.events(call_id) if event["type"] == "call.planted"]
        assert planted == [{"attempt": 2}] * 2


async def test_a_late_outcome_of_an_earlier_attempt_does_not_make_the_call_wait_again(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create(priority="normal")).json()["id"]
        statement = "DELETE FROM scheduled_dial WHERE call_id = $1 RETURNING to_jsonb(scheduled_dial) - 'due_at' AS dial"
        (row,) = await gateway.database.fetch(statement, UUID(call_id))
        await gateway.database.fetch("UPDATE call SET execution = 'pending', attempt = 2 WHERE id = $1", UUID(call_id))
        late = _outcome(call_id, 1, execution="scheduled")
        late = replace(late, change=replace(late.change, dial_row=json.loads(row["dial"]) | {"due_in": 0}))
        now = _outcome(call_id, 2, execution="unknown")
        await write_outcomes(gateway.database, [late, now])
        assert (await tenant.http.get(f"/v1/calls/{call_id}")).json()["execution"] == "unknown"
        assert await gateway.database.fetch("SELECT FROM scheduled_dial WHERE call_id = $1", UUID(call_id)) == []
