"""Lists the events of the audit log over the admin API, with filters and pages."""

from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.gateway import Gateway


async def test_events_are_filtered_and_paged(gateway: Gateway, operator: Admin) -> None:
    tenant_id = (await gateway.add_tenant()).id
    path = f"/tenants/{tenant_id}"
    for number in range(5):
        await operator.patch(path, {"name": str(number)})
    whole = (await operator.get(f"/audit-events?tenant={tenant_id}")).json()
    assert whole["next_cursor"] is None
    events = whole["audit_events"]
    assert [event["action"] for event in events] == [
        *["tenant.update"] * 5,
        "key.create",
        "credential.add",
        "account.create",
        "tenant.create",
    ]

    async def page_of(query: str) -> tuple[list[str], str | None]:
        page = (await operator.get(f"/audit-events?tenant={tenant_id}&{query}")).json()
        return [event["id"] for event in page["audit_events"]], page["next_cursor"]

    async def ids(query: str) -> list[str]:
        return (await page_of(query))[0]

    paged, cursor = await page_of("limit=4")
    while cursor:
        await operator.patch(path, {"name": f"later {cursor}"})
        following, cursor = await page_of(f"limit=4&cursor={cursor}")
        paged += following
    assert paged == [event["id"] for event in events]
    assert await ids(f"actor={operator.key_id}&action=tenant.update") != await ids("action=tenant.update&actor=nobody") == []
    assert await ids("action=key.create") == [events[5]["id"]]
    assert await ids(f"since={events[1]['at']}&until={events[0]['at']}") == [events[1]["id"]]
    for query, pointer in (
        ("cursor=x", "?cursor"),
        ("cursor=" + "_" * 32, "?cursor"),
        ("since=yesterday", "?since"),
        ("tennant=x", "?tennant"),
        ("limit=0", "?limit"),
        ("action=key.create&action=key.revoke", "?action"),
    ):
        assert [pointer for pointer, _ in faults_of(await operator.get(f"/audit-events?{query}"))] == [pointer]


async def test_a_tenants_own_key_sees_its_own_events_only(gateway: Gateway, operator: Admin) -> None:
    own_id, other_id = (await gateway.add_tenant()).id, (await gateway.add_tenant()).id
    own = await admin_of(gateway, own_id)
    assert {event["tenant_id"] for event in (await own.get("/audit-events")).json()["audit_events"]} == {own_id}
    assert (await own.get(f"/audit-events?tenant={own_id}")).json() == (await own.get("/audit-events")).json()
    assert slug_of(await own.get(f"/audit-events?tenant={other_id}")) == (404, "tenant-not-found")
    every = (await operator.get("/audit-events?limit=200")).json()["audit_events"]
    assert {own_id, other_id, None} <= {event["tenant_id"] for event in every}
