"""A 503 `database-unavailable` of a change says whether the change is stored. The client repeats it in each case."""

from collections.abc import Coroutine
from typing import Any

import httpx
import pytest

from app.errors import DatabaseUnavailable
from tests.admin.conftest import Admin, admin_of, slug_of
from tests.api.test_withdrawals import gateway_behind_proxy
from tests.support.gateway import Gateway
from tests.support.locks import locked_table

UNCHANGED = "The database cannot be reached, or took too long to answer. Nothing was changed."
HOURS = {"time_zone": "UTC", "from": "09:00", "to": "20:00"}


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
    async with locked_table(gateway, table):
        failed = await operator.patch(path, {"hours": HOURS}, etag)
    assert slug_of(failed) == (503, "database-unavailable")
    assert detail in failed.json()["detail"]
    assert ("If it changes a tenant with If-Match, read the tenant's new ETag first." in failed.json()["detail"]) == is_stored
    shown = await operator.get(path)
    assert (shown.json()["hours"] is not None) == is_stored
    repeated = await operator.patch(path, {"hours": HOURS}, etag)
    assert repeated.status_code == (412 if is_stored else 200)
    assert (await operator.patch(path, {"hours": HOURS}, (await operator.get(path)).headers["ETag"])).status_code == 200


async def test_a_pause_of_a_queue_says_that_it_is_stored(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
    async with locked_table(gateway, "pace"):
        failed = await tenant.http.put("/v1/queues/reminders", json={"paused": True})
    assert slug_of(failed) == (503, "database-unavailable")
    assert failed.json()["detail"].startswith("The change is stored, but may not yet apply to calls that already wait")
    assert "If it has If-Match" not in failed.json()["detail"]  # queues have no ETag
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


async def test_a_key_that_cannot_be_read_means_that_nothing_was_changed(gateway: Gateway, operator: Admin) -> None:
    tenant = await gateway.add_tenant()
    (await tenant.http.put("/v1/queues/reminders", json={})).raise_for_status()
    path = "/v1/queues/reminders"

    async def sent_while_no_key_can_be_read(request: Coroutine[Any, Any, httpx.Response]) -> str:
        async with locked_table(gateway, "api_key", "ACCESS EXCLUSIVE"):
            gateway.invalidate_cache()
            failed = await request
        assert slug_of(failed) == (503, "database-unavailable")
        return str(failed.json()["detail"])

    for request in (
        operator.get("/tenants"),
        operator.patch(f"/tenants/{tenant.id}", {"hours": HOURS}),
        tenant.http.get("/v1/queues"),
        tenant.http.put(path, json={"paused": True}),
    ):
        assert await sent_while_no_key_can_be_read(request) == UNCHANGED
    for creation in (tenant.create(), tenant.http.post(f"{path}/calls", content=b"{}")):
        assert await sent_while_no_key_can_be_read(creation) == DatabaseUnavailable.default_detail
    assert not (await tenant.http.get(path)).json()["paused"]


async def test_the_progress_of_a_queue_that_cannot_be_read_means_that_nothing_was_changed(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    async with locked_table(gateway, "queue", "ACCESS EXCLUSIVE"):
        failed = await tenant.http.get("/v1/queues/reminders")
    assert slug_of(failed) == (503, "database-unavailable")
    assert failed.json()["detail"] == UNCHANGED
