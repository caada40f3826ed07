"""A 503 `database-unavailable` of a change says whether the change is stored. The client repeats it in each case."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.admin.conftest import Admin, admin_of, slug_of
from tests.api.test_withdrawals import gateway_behind_proxy
from tests.support.gateway import Gateway

HOURS = {"time_zone": "UTC", "from": "09:00", "to": "20:00"}


@asynccontextmanager
async def locked(gateway: Gateway, table: str) -> AsyncIterator[None]:
    """Locks the table against writes, so that a request that writes it fails after its lock timeout."""
    async with gateway.database.transaction() as connection:
        await connection.execute(f"LOCK TABLE {table} IN SHARE MODE")
        yield


@pytest.mark.parametrize(
    ("table", "detail", "is_stored"),
    [
        ("audit_event", "Nothing was changed.", False),
        ("pace", "The change is stored, but may not yet apply to calls that already wait: repeat the request.", True),
    ],
)
async def test_a_lock_timeout_says_whether_the_change_is_stored(
    gateway: Gateway, operator: Admin, table: str, detail: str, is_stored: bool
) -> None:
    tenant = await gateway.add_tenant()
    path = f"/tenants/{tenant.id}"
    etag = (await operator.get(path)).headers["ETag"]
    async with locked(gateway, table):
        failed = await operator.patch(path, {"hours": HOURS}, etag)
    assert slug_of(failed) == (503, "database-unavailable")
    assert detail in failed.json()["detail"]
    assert ("If it has If-Match, read the new ETag first." in failed.json()["detail"]) == is_stored
    shown = await operator.get(path)
    assert (shown.json()["hours"] is not None) == is_stored
    repeated = await operator.patch(path, {"hours": HOURS}, etag)
    assert repeated.status_code == (412 if is_stored else 200)
    assert (await operator.patch(path, {"hours": HOURS}, (await operator.get(path)).headers["ETag"])).status_code == 200


async def test_a_pause_of_a_queue_says_that_it_is_stored(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
    async with locked(gateway, "pace"):
        failed = await tenant.http.put("/v1/queues/reminders", json={"paused": True})
    assert slug_of(failed) == (503, "database-unavailable")
    assert failed.json()["detail"].startswith("The change is stored, but may not yet apply to calls that already wait")
    assert (await tenant.http.get("/v1/queues/reminders")).json()["paused"]


async def test_a_lost_answer_to_the_commit_leaves_it_open_whether_anything_was_changed(database_url: str) -> None:
    async with gateway_behind_proxy(database_url) as (gateway, proxy):
        tenant, operator = await gateway.add_tenant(), await admin_of(gateway, None)
        path = f"/tenants/{tenant.id}"
        assert (await operator.get(path)).status_code == 200
        proxy.hold(b"COMMIT")
        failed = await operator.patch(path, {"hours": HOURS})
        assert slug_of(failed) == (503, "database-unavailable")
        assert "it is not certain whether it was changed: repeat the request" in failed.json()["detail"]
        await proxy.deliver_held()
        assert (await operator.patch(path, {"hours": HOURS})).status_code == 200
