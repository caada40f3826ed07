"""Creates, reads, changes and lists tenants over the admin API."""

import asyncio
from typing import Any

import pytest

from app.tenants.scopes import Scope
from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.gateway import Gateway

HOURS = {"time_zone": "Europe/Berlin", "days": ["mon", "fri"], "from": "09:00", "to": "18:00"}


async def test_a_tenant_is_created_read_changed_and_listed(operator: Admin) -> None:
    created = await operator.post("/tenants", {"id": "anna", "name": "Anna's team"})
    assert created.status_code == 201
    assert created.headers["Location"] == "/v1/admin/tenants/anna"
    record = created.json()
    assert record == {
        "id": "anna",
        "name": "Anna's team",
        "suspended": False,
        "suspended_at": None,
        "callbacks": {"url": None, "method": None, "events": None, "format": "twilio"},
        "limits": {"max_in_flight": None},
        "hours": None,
        "created_at": record["created_at"],
    }
    read = await operator.get("/tenants/anna")
    assert (read.json(), read.headers["ETag"]) == (record, created.headers["ETag"])

    callbacks = {
        "url": "https://hooks.example.com/",
        "method": "GET",
        "events": ["settled", "initiated", "ringing", "answered", "completed"],
        "format": "json",
    }
    changes: dict[str, Any] = {"name": "A", "suspended": True, "callbacks": callbacks, "limits": {"max_in_flight": 7}}
    changed = await operator.patch("/tenants/anna", changes)
    assert changed.status_code == 200
    assert changed.json() == record | changes | {"suspended_at": changed.json()["suspended_at"]}
    assert changed.json()["suspended_at"]
    partly = await operator.patch("/tenants/anna", {"callbacks": {"method": None}, "suspended": False})
    assert partly.json()["callbacks"] == callbacks | {"method": None}
    assert (partly.json()["suspended_at"], partly.json()["limits"]) == (None, {"max_in_flight": 7})
    cleared = await operator.patch("/tenants/anna", {"callbacks": {"url": None}, "limits": {"max_in_flight": None}})
    assert cleared.json()["callbacks"] == {"url": None, "method": None, "events": None, "format": "json"}
    assert cleared.json()["limits"] == {"max_in_flight": None}
    assert (await operator.patch("/tenants/anna", {})).json() == cleared.json()
    assert cleared.json() in (await operator.get("/tenants?limit=200")).json()["tenants"]


async def test_hours_are_set_as_a_whole_and_removed(operator: Admin) -> None:
    created = await operator.post("/tenants", {"id": "hourly", "name": "x", "hours": HOURS})
    assert created.json()["hours"] == HOURS
    assert (await operator.post("/tenants", {"id": "hourly", "name": "x", "hours": HOURS})).status_code == 200
    assert slug_of(await operator.post("/tenants", {"id": "hourly", "name": "x", "hours": None})) == (409, "already-exists")
    night = {"time_zone": "UTC", "from": "22:00", "to": "06:00"}
    changed = await operator.patch("/tenants/hourly", {"hours": night})
    assert changed.json()["hours"] == night | {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}
    assert changed.headers["ETag"] != created.headers["ETag"]
    refused = await operator.patch("/tenants/hourly", {"name": "y", "hours": HOURS | {"to": "09:00"}})
    assert faults_of(refused) == [("/hours/to", "empty_window")]
    assert (await operator.get("/tenants/hourly")).json() == changed.json()
    assert (await operator.patch("/tenants/hourly", {"name": "x"})).json() == changed.json()
    assert (await operator.patch("/tenants/hourly", {"hours": None})).json()["hours"] is None
    listed = (await operator.get("/audit-events?tenant=hourly")).json()["audit_events"]
    assert [event["changed"] for event in listed] == [["hours"], ["hours"], ["hours"], []]


async def test_the_same_creation_again_changes_nothing_and_another_one_conflicts(operator: Admin) -> None:
    body = {"id": "twice", "name": "x", "limits": {"max_in_flight": 3}}
    first = await operator.post("/tenants", body)
    again = await operator.post("/tenants", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
    assert "Idempotent-Replayed" not in first.headers
    assert (await operator.post("/tenants", {"id": "twice", "name": "x"})).status_code == 200
    for other in ({"id": "twice", "name": "y"}, body | {"suspended": True}, body | {"limits": {"max_in_flight": None}}):
        refused = await operator.post("/tenants", other)
        assert slug_of(refused) == (409, "already-exists")
    assert refused.json()["detail"] == "The tenant exists with another max_in_flight."
    assert (await operator.get("/tenants/twice")).json() == first.json()


async def test_of_racing_creations_one_creates(operator: Admin) -> None:
    same = await asyncio.gather(*(operator.post("/tenants", {"id": "raced", "name": "x"}) for _ in range(4)))
    assert sorted(answer.status_code for answer in same) == [200, 200, 200, 201]
    other = await asyncio.gather(*(operator.post("/tenants", {"id": "raced-2", "name": name}) for name in "ab"))
    assert sorted(answer.status_code for answer in other) == [201, 409]
    listed = (await operator.get("/audit-events?tenant=raced")).json()["audit_events"]
    assert [event["action"] for event in listed] == ["tenant.create"]


async def test_a_change_of_what_was_read_fails_if_it_has_changed_since(operator: Admin, gateway: Gateway) -> None:
    etag = (await operator.post("/tenants", {"id": "tagged", "name": "x"})).headers["ETag"]
    changed = await operator.patch("/tenants/tagged", {"name": "y"}, etag)
    assert (changed.status_code, changed.json()["name"]) == (200, "y")
    assert changed.headers["ETag"] != etag
    for outdated in (etag, f"W/{changed.headers['ETag']}", '"x", "y"'):
        refused = await operator.patch("/tenants/tagged", {"name": "z"}, outdated)
        assert slug_of(refused) == (412, "precondition-failed")
    for current in ("*", f"{etag}, {changed.headers['ETag']}"):
        assert (await operator.patch("/tenants/tagged", {"suspended": False}, current)).status_code == 200
    # A command's change counts, too, and so does one of two that race.
    await gateway.tenants.set_tenant_suspended("tagged", suspended=True)
    assert slug_of(await operator.patch("/tenants/tagged", {"name": "z"}, changed.headers["ETag"]))[0] == 412
    etag = (await operator.get("/tenants/tagged")).headers["ETag"]
    raced = await asyncio.gather(*(operator.patch("/tenants/tagged", {"name": name}, etag) for name in "abcd"))
    assert sorted(answer.status_code for answer in raced) == [200, 412, 412, 412]
    assert faults_of(await operator.patch("/tenants/tagged", {"name": "z"}, "unquoted")) == [("If-Match", "invalid_etag")]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"name": "x"}, ("/id", "missing")),
        ({"id": "x"}, ("/name", "missing")),
        ({"id": "UPPER", "name": "x"}, ("/id", "string_pattern_mismatch")),
        ({"id": "x" * 64, "name": "x"}, ("/id", "string_pattern_mismatch")),
        ({"id": "x\n", "name": "x"}, ("/id", "string_pattern_mismatch")),
        ({"id": 5, "name": "x"}, ("/id", "string_type")),
        ({"id": "x", "name": " "}, ("/name", "string_pattern_mismatch")),
        ({"id": "x", "name": None}, ("/name", "string_type")),
        ({"id": "x", "name": "x", "state": "active"}, ("/state", "unknown_member")),
        ({"id": "x", "name": "x", "suspended": "yes"}, ("/suspended", "bool_type")),
        ({"id": "x", "name": "x", "limits": {"max_in_flight": 0}}, ("/limits/max_in_flight", "greater_than_equal")),
        ({"id": "x", "name": "x", "limits": {"max_in_flight": 10_001}}, ("/limits/max_in_flight", "less_than_equal")),
        ({"id": "x", "name": "x", "limits": {"calls": 1}}, ("/limits/calls", "unknown_member")),
        ({"id": "x", "name": "x", "hours": []}, ("/hours", "model_type")),
        ({"id": "x", "name": "x", "hours": HOURS | {"from": "9:00"}}, ("/hours/from", "string_pattern_mismatch")),
        ({"id": "x", "name": "x", "hours": HOURS | {"to": "09:00"}}, ("/hours/to", "empty_window")),
        ({"id": "x", "name": "x", "hours": HOURS | {"days": ["mon", "mon"]}}, ("/hours/days/1", "repeated_day")),
        ({"id": "x", "name": "x", "hours": HOURS | {"time_zone": "Mars/Base"}}, ("/hours/time_zone", "unknown_time_zone")),
        ({"id": "x", "name": "x", "hours": HOURS | {"until": "18:00"}}, ("/hours/until", "unknown_member")),
        (
            {"id": "x", "name": "x", "callbacks": {"events": ["rang"], "url": "https://x.example"}},
            ("/callbacks/events/0", "literal_error"),
        ),
        ({"id": "x", "name": "x", "callbacks": {"method": "GET"}}, ("/callbacks/url", "missing")),
        ({"id": "x", "name": "x", "callbacks": {"url": "http://169.254.169.254/"}}, ("/callbacks/url", "url_address_refused")),
        ({"id": "x", "name": "x", "callbacks": {"url": "ftp://x.example"}}, ("/callbacks/url", "url_scheme")),
    ],
)
async def test_an_invalid_tenant_is_refused_by_member_and_changes_nothing(
    operator: Admin, body: dict[str, Any], fault: tuple[str, str]
) -> None:
    refused = await operator.post("/tenants", body)
    assert faults_of(refused) == [fault]
    assert slug_of(await operator.get("/tenants/x")) == (404, "tenant-not-found")


async def test_lists_are_pages_by_key(operator: Admin) -> None:
    for number in range(7):
        await operator.post("/tenants", {"id": f"page-{number}", "name": "x"})
    seen, path = list[str](), "/tenants?limit=3"
    while True:
        page = (await operator.get(path)).json()
        seen += [tenant["id"] for tenant in page["tenants"]]
        assert len(page["tenants"]) <= 3
        if page["next_cursor"] is None:
            break
        path = f"/tenants?limit=3&cursor={page['next_cursor']}"
        await operator.post("/tenants", {"id": f"a-new-one-{len(seen)}", "name": "x"})  # shifts no page
    assert seen == sorted(set(seen))
    assert [tenant for tenant in seen if tenant.startswith("page-")] == [f"page-{number}" for number in range(7)]
    for query, pointer in (
        ("cursor=!", "?cursor"),
        ("cursor=", "?cursor"),
        ("limit=0", "?limit"),
        ("limit=201", "?limit"),
        ("name=x", "?name"),
    ):
        assert [pointer for pointer, _ in faults_of(await operator.get(f"/tenants?{query}"))] == [pointer]


async def test_a_tenants_own_admin_key_reaches_its_own_tenant_only(gateway: Gateway, operator: Admin) -> None:
    own_id, other_id = (await gateway.add_tenant()).id, (await gateway.add_tenant()).id
    own = await admin_of(gateway, own_id)
    assert [tenant["id"] for tenant in (await own.get("/tenants")).json()["tenants"]] == [own_id]
    assert (await own.get(f"/tenants/{own_id}")).json()["id"] == own_id
    assert (await own.patch(f"/tenants/{own_id}", {"name": "renamed"})).json()["name"] == "renamed"
    for path in (f"/tenants/{other_id}", "/tenants/missing"):
        assert slug_of(await own.get(path)) == (404, "tenant-not-found")
        assert slug_of(await own.patch(path, {"name": "stolen"})) == (404, "tenant-not-found")
    assert slug_of(await own.post("/tenants", {"id": "new", "name": "x"})) == (403, "operator-key-required")
    for change in (
        {"suspended": False},
        {"limits": {"max_in_flight": 10_000}},
        {"name": "x", "limits": {"max_in_flight": None}},
    ):
        assert slug_of(await own.patch(f"/tenants/{own_id}", change)) == (403, "operator-key-required")
    assert (await operator.get(f"/tenants/{other_id}")).json()["name"] != "stolen"
    assert (await own.get(f"/tenants/{own_id}")).json()["name"] == "renamed"


async def test_a_key_that_does_not_read_calls_does_not_change_who_is_told_of_them(gateway: Gateway, operator: Admin) -> None:
    tenant_id = (await gateway.add_tenant()).id
    path, url = f"/tenants/{tenant_id}", {"url": "https://hooks.example.com/"}
    admin = await admin_of(gateway, tenant_id, Scope.ADMIN)
    for change in (url, {"events": ["initiated"]}, {"format": "json"}, {"method": "GET"}, {"url": None}):
        refused = await admin.patch(path, {"name": "x", "callbacks": change})
        assert (slug_of(refused), refused.json()["scope"]) == ((403, "scope-required"), "read"), change
    assert (await admin.patch(path, {"name": "renamed"})).json()["name"] == "renamed"
    reader = await admin_of(gateway, tenant_id, Scope.ADMIN, Scope.READ)
    assert (await reader.patch(path, {"callbacks": url})).json()["callbacks"]["url"] == url["url"]
    operator_without_read = await admin_of(gateway, None, Scope.ADMIN)
    assert (await operator_without_read.patch(path, {"callbacks": {"url": None}})).json()["callbacks"]["url"] is None


async def test_the_own_keys_of_a_suspended_tenant_change_nothing(gateway: Gateway, operator: Admin) -> None:
    tenant_id = (await gateway.add_tenant()).id
    own = await admin_of(gateway, tenant_id)
    assert (await operator.patch(f"/tenants/{tenant_id}", {"suspended": True})).status_code == 200
    gateway.invalidate_cache()
    assert (await own.get(f"/tenants/{tenant_id}")).json()["suspended"] is True
    assert slug_of(await own.patch(f"/tenants/{tenant_id}", {"name": "x"})) == (403, "tenant-suspended")
    assert slug_of(await own.post(f"/tenants/{tenant_id}/keys", {})) == (403, "tenant-suspended")
    assert slug_of(await own.delete(f"/tenants/{tenant_id}/keys/{own.key_id}")) == (403, "tenant-suspended")
    assert (await operator.post(f"/tenants/{tenant_id}/keys", {})).status_code == 201


@pytest.mark.parametrize(
    ("of_operator", "scopes"),
    [(False, (Scope.CALL,)), (False, (Scope.READ,)), (False, (Scope.CALL, Scope.READ)), (True, (Scope.CALL,))],
)
async def test_a_key_without_the_scope_reads_and_changes_nothing(
    gateway: Gateway, of_operator: bool, scopes: tuple[Scope, ...]
) -> None:
    tenant_id = (await gateway.add_tenant()).id
    client = await admin_of(gateway, None if of_operator else tenant_id, *scopes)
    refused = [await client.get(f"/tenants/{tenant_id}"), await client.patch(f"/tenants/{tenant_id}", {"name": "x"})]
    refused += [
        await client.get("/tenants"),
        await client.get("/audit-events"),
        await client.post(f"/tenants/{tenant_id}/keys", {}),
    ]
    assert [slug_of(answer) for answer in refused] == [(403, "scope-required")] * 5
    assert {answer.json()["scope"] for answer in refused} == {"admin"}


async def test_an_operators_key_that_reads_changes_nothing(gateway: Gateway) -> None:
    tenant_id = (await gateway.add_tenant()).id
    viewer = await admin_of(gateway, None, Scope.READ)
    for path in ("/tenants", f"/tenants/{tenant_id}", f"/tenants/{tenant_id}/keys", "/audit-events"):
        assert (await viewer.get(path)).status_code == 200
    refused = [
        await viewer.patch(f"/tenants/{tenant_id}", {"name": "x"}),
        await viewer.post(f"/tenants/{tenant_id}/keys", {"scopes": ["read"]}),
    ]
    assert [slug_of(answer) for answer in refused] == [(403, "scope-required")] * 2


async def test_changes_name_their_request_in_the_audit_log(operator: Admin) -> None:
    await operator.post("/tenants", {"id": "logged", "name": "x"})
    changed = await operator.patch("/tenants/logged", {"name": "y", "limits": {"max_in_flight": 2}})
    event, creation = (await operator.get("/audit-events?tenant=logged")).json()["audit_events"]
    assert (event["action"], event["changed"]) == ("tenant.update", ["name", "max_in_flight"])
    assert event["actor"] == {"kind": "key", "name": operator.key_id}
    assert event["request_id"] == changed.headers["X-Request-Id"]
    assert (creation["action"], creation["subject"], creation["changed"]) == ("tenant.create", "logged", [])


async def test_a_name_with_nul_is_refused(operator: Admin) -> None:
    for name in ("\x00", "a\x00b", " \x00"):
        refused = await operator.post("/tenants", {"id": "nul", "name": name})
        assert (slug_of(refused)[0], [pointer for pointer, _ in faults_of(refused)]) == (422, ["/name"]), name
    assert (await operator.get("/tenants/nul")).status_code == 404
