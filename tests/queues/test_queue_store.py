"""Tests the lookup of a queue by its name when a call is created."""

import json
from uuid import UUID

from app.scheduling.hours import parse_calling_hours
from app.scheduling.models import NO_QUEUE
from app.scheduling.store import QueueDialSettings, find_queue_dial_settings
from tests.support.gateway import Gateway

ID = UUID(int=7)
HOURS = '{"time_zone": "Europe/Berlin", "from": "09:00", "to": "18:00"}'


async def test_a_queue_is_found_by_its_name_and_tenant_only(gateway: Gateway) -> None:
    anna, bob = [await gateway.add_tenant() for _ in range(2)]
    insert = "INSERT INTO queue (id, tenant_id, name, paused, hours, ring_within_s) VALUES ($1, $2, $3, $4, $5, $6)"
    await gateway.database.fetch(insert, ID, anna.id, "reminders", True, HOURS, 600)
    await gateway.database.fetch(insert, UUID(int=8), bob.id, "others", False, None, None)
    found = await find_queue_dial_settings(gateway.database, anna.id, "reminders")
    assert found is not None
    assert found.hours_json is not None
    assert json.loads(found.hours_json) == json.loads(HOURS)
    assert found == QueueDialSettings(ID, 600, parse_calling_hours(json.loads(HOURS)), found.hours_json, found.read_at)
    assert await find_queue_dial_settings(gateway.database, bob.id, "reminders") is None
    assert await find_queue_dial_settings(gateway.database, anna.id, "Reminders") is None
    for name, queue_id in (("others", UUID(int=8)), (None, NO_QUEUE)):
        found = await find_queue_dial_settings(gateway.database, bob.id, name)
        assert found is not None
        assert found == QueueDialSettings(queue_id, None, None, None, found.read_at)
