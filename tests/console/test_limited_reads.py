"""Tests that only two pages of the console read the database at a time, and that a slow read ends with an error."""

import asyncio

import pytest

from tests.console.conftest import LogIn, text_of
from tests.console.test_queue_store import add_queue
from tests.support.gateway import Gateway

_WAITING = """SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
    WHERE datname = current_database() AND relation = $1::regclass AND NOT granted"""


@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("/queues", "queue"),
        ("/queues/{tenant_id}/reminders", "scheduled_dial"),
        ("/deliveries", "delivery"),
        ("/deliveries?tenant={tenant_id}&state=given_up", "delivery"),
        ("/tenants/{tenant_id}", "twilio_account"),
        ("/audit", "audit_event"),
    ],
)
async def test_two_of_an_operators_pages_read_at_a_time(gateway: Gateway, log_in: LogIn, path: str, table: str) -> None:
    tenant, operator = await gateway.add_tenant(), await log_in()
    await add_queue(gateway, tenant, "reminders")
    async with gateway.database.transaction() as connection:
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        pages = [asyncio.create_task(operator.get(path.format(tenant_id=tenant.id))) for _ in range(3)]
        seen = set()
        while not all(page.done() for page in pages):
            seen.add(await connection.fetchval(_WAITING, table))
            await asyncio.sleep(0.05)
    assert max(seen) == 2
    assert {page.result().status_code for page in pages} == {503}
    assert "The database cannot be reached, or took too long to answer." in text_of(pages[0].result())
