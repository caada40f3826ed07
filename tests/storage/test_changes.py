"""Changes of records are written with their events only if nobody else has changed or locked the record meanwhile."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.calls.store import ChangedCall, SidTaken, read_calls, write_changed_calls
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream


async def _create(gateway: Gateway, *, count: int = 1) -> tuple[Tenant, list[UUID]]:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        return tenant, [UUID((await tenant.create()).json()["id"]) for _ in range(count)]


async def test_a_change_sets_its_columns_and_keeps_the_others(gateway: Gateway) -> None:
    tenant, [call_id] = await _create(gateway)
    before = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
    call = (await read_calls(gateway.database, [call_id]))[call_id]
    call.status, call.duration = "completed", 9
    assert call.changed_columns().items() >= {"status": "completed", "duration": 9}.items()

    assert await write_changed_calls(gateway.database, [ChangedCall(call, [("call.status", {"status": "completed"})])]) == {
        call_id
    }

    after = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
    changed = {"status": "completed", "duration": 9, "updated_at": after["updated_at"]}
    assert after == before | changed
    assert (await tenant.events(str(call_id)))[-1]["data"] == {"status": "completed"}


async def test_a_record_that_changed_since_it_was_read_is_left_as_it_is(gateway: Gateway) -> None:
    tenant, [changed_id, same_id] = await _create(gateway, count=2)
    calls = await read_calls(gateway.database, [changed_id, same_id])
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE call SET caller_name = 'other' WHERE id = :id"), {"id": changed_id})
    for call in calls.values():
        call.caller_name = "ours"

    written = await write_changed_calls(gateway.database, [ChangedCall(call, [("call.status", {})]) for call in calls.values()])

    assert written == {same_id}
    assert (await tenant.http.get(f"/v1/calls/{changed_id}")).json()["caller_name"] == "other"
    assert "call.status" not in [event["type"] for event in await tenant.events(str(changed_id))]


async def test_a_locked_record_is_skipped_and_the_others_do_not_wait(gateway: Gateway) -> None:
    _, [locked_id, free_id] = await _create(gateway, count=2)
    calls = await read_calls(gateway.database, [locked_id, free_id])
    async with gateway.database.begin() as session:
        await session.execute(text("SELECT FROM call WHERE id = :id FOR UPDATE"), {"id": locked_id})
        assert await write_changed_calls(gateway.database, [ChangedCall(call) for call in calls.values()]) == {free_id}


async def test_a_sid_of_another_record_writes_nothing(gateway: Gateway) -> None:
    tenant, [bound_id, other_id] = await _create(gateway, count=2)
    calls = await read_calls(gateway.database, [bound_id, other_id])
    calls[other_id].sid = calls[bound_id].sid
    calls[bound_id].caller_name = "changed"

    with pytest.raises(SidTaken):
        await write_changed_calls(gateway.database, [ChangedCall(call) for call in calls.values()])

    assert (await tenant.http.get(f"/v1/calls/{bound_id}")).json()["caller_name"] is None


async def test_a_record_that_is_read_has_twilios_answer_and_no_changes(gateway: Gateway) -> None:
    _, [call_id] = await _create(gateway)
    call = (await read_calls(gateway.database, [call_id]))[call_id]
    assert call.resource is not None
    assert call.resource["sid"] == call.sid
    assert call.changed_columns() == {}
    assert await read_calls(gateway.database, [uuid4()]) == {}
