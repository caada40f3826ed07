"""What a creation reads of its queue."""

from uuid import UUID

from app.scheduling.store import StoredQueue, find_queue
from tests.support.gateway import Gateway

ID = UUID(int=7)


async def test_a_queue_is_found_by_its_name_and_tenant_only(gateway: Gateway) -> None:
    anna, bob = [await gateway.add_tenant() for _ in range(2)]
    insert = "INSERT INTO queue (id, tenant_id, name, paused, hours, ring_within_s) VALUES ($1, $2, $3, $4, $5, $6)"
    await gateway.database.fetch(insert, ID, anna.id, "reminders", True, '{"from": "09:00"}', 600)
    await gateway.database.fetch(insert, UUID(int=8), bob.id, "others", False, None, None)
    found = await find_queue(gateway.database, anna.id, "reminders")
    assert found == StoredQueue(id=ID, paused=True, ring_within_s=600, hours={"from": "09:00"})
    assert await find_queue(gateway.database, bob.id, "reminders") is None
    assert await find_queue(gateway.database, anna.id, "Reminders") is None
    assert await find_queue(gateway.database, bob.id, "others") == StoredQueue(UUID(int=8), False, None, None)
