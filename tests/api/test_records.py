"""The record of a call and the lists of calls show what was stored."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from app.calls.examples import EXAMPLE_RECORD
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import answer, call_resource, created, error, hang, running_upstream

SID = "CA" + "e" * 32
FULL: dict[str, Any] = {
    "sid": SID,
    "account_sid": "AC" + "a" * 32,
    "answered_by": None,
    "api_version": "2010-04-01",
    "caller_name": None,
    "date_created": "Tue, 31 Aug 2010 20:36:28 +0000",
    "date_updated": "Tue, 31 Aug 2010 20:36:44 +0000",
    "direction": "inbound",
    "duration": "15",
    "end_time": "Tue, 31 Aug 2010 20:36:44 +0000",
    "forwarded_from": "+141586753093",
    "from": "Jack",
    "from_formatted": "(415) 867-5308",
    "group_sid": None,
    "parent_call_sid": None,
    "phone_number_sid": "PN" + "a" * 32,
    "price": "-0.03000",
    "price_unit": "USD",
    "start_time": "Tue, 31 Aug 2010 20:36:29 +0000",
    "status": "completed",
    "subresource_uris": dict.fromkeys(EXAMPLE_RECORD["subresource_uris"], "/x.json") | {"twiml_sessions": "/y.json"},
    "to": "sip:kate@example.com",
    "to_formatted": "(415) 867-5309",
    "trunk_sid": "",
    "uri": "/z.json",
    "queue_time": "1000",
    "annotation": "a key that no document names",
}


@pytest.fixture
async def tenant(gateway: Gateway) -> AsyncIterator[Tenant]:
    async with running_upstream(created()) as upstream:
        yield await gateway.add_tenant(upstream.url)


async def test_all_fields_of_twilios_guide_are_stored_typed_and_raw(gateway: Gateway) -> None:
    async with running_upstream(answer(201, FULL)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        created_ = (await tenant.create()).json()
    record = (await tenant.http.get(f"/v1/calls/{SID}")).json()
    assert record == created_
    assert record["resource"] == FULL
    assert len(record["subresource_uris"]) == 10
    typed = {
        "duration": 15,
        "queue_time": 1000,
        "price": "-0.03000",
        "start_time": "2010-08-31T20:36:29Z",
        "end_time": "2010-08-31T20:36:44Z",
        "date_created": "2010-08-31T20:36:28Z",
        "trunk_sid": None,
        "status": "completed",
        "to_formatted": "(415) 867-5309",
        "phone_number_sid": "PN" + "a" * 32,
        "account_sid": tenant.account_sid,
    }
    assert {name: record[name] for name in typed} == typed
    assert FULL.keys() - record.keys() == {"annotation"}


async def test_the_documented_record_has_the_members_of_a_real_one(tenant: Tenant) -> None:
    assert (await tenant.create()).json().keys() == EXAMPLE_RECORD.keys()


async def test_a_creation_returns_the_location_of_its_record(tenant: Tenant) -> None:
    response = await tenant.create()
    record = await tenant.http.get(response.headers["Location"])
    assert record.json() == response.json()


async def test_pages_are_newest_first_without_gaps_or_repetitions(tenant: Tenant) -> None:
    placed = [(await tenant.create()).json()["id"] for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = (await tenant.http.get("/v1/calls", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [call["id"] for call in page["calls"]]
        if len(seen) == 3:
            await tenant.create()
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == placed[::-1]


async def test_filters_return_the_matching_calls(gateway: Gateway) -> None:
    rejected, unknown = error(400, 21211), hang
    async with running_upstream(created(status="ringing"), rejected, unknown, created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        ringing = (await tenant.create(to="sip:one@example.com")).json()["id"]
        refused = (await tenant.create(to="sip:two@example.com")).json()["call_id"]
        lost = (await tenant.create(to="sip:three@example.com", **{"from": "Jill"})).json()["id"]
        middle = datetime.now(UTC)
        await asyncio.sleep(0.01)
        queued = (await tenant.create(to="sip:one@example.com")).json()["id"]

    async def found(**query: Any) -> list[str]:
        response = await tenant.http.get("/v1/calls", params=query)
        return [call["id"] for call in response.raise_for_status().json()["calls"]]

    assert await found() == [queued, lost, refused, ringing]
    assert await found(status="ringing") == [ringing]
    assert await found(execution="not_started") == [refused]
    assert await found(execution="unknown") == [lost]
    assert await found(execution="started") == [queued, ringing]
    assert await found(to="sip:one@example.com") == [queued, ringing]
    assert await found(**{"from": "Jill"}) == [lost]
    assert await found(created_after=middle.isoformat()) == [queued]
    assert await found(created_before=middle.isoformat()) == [lost, refused, ringing]
    assert await found(to="sip:one@example.com", status="queued") == [queued]
    assert await found(created_before="1900-01-01T00:00:00Z") == []
    assert await found(created_after="2026-01-01t00:00:00.123456789z", created_before="2026-01-01T00:00:00-23:59") == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "?limit"),
        ("limit=201", "?limit"),
        ("status=done", "?status"),
        ("execution=failed", "?execution"),
        ("created_after=yesterday", "?created_after"),
        ("created_after=2026-01-01T00:00:00", "?created_after"),
        ("created_after=2026-01-01", "?created_after"),
        ("created_after=1767225600", "?created_after"),
        ("created_before=2026-01-01%2000:00:00Z", "?created_before"),
        ("created_before=2026-01-01T00:00Z", "?created_before"),
        ("created_before=2026-01-01T00:00:00%2B0100", "?created_before"),
        ("created_before=2026-01-01T00:00:00+01:00", "?created_before"),
        ("created_before=2026-01-01T25:00:00Z", "?created_before"),
        ("created_before=", "?created_before"),
        ("cursor=nonsense", "?cursor"),
        ("cursor=AaIHIoLLdSC13w5F6/+PQg", "?cursor"),
        ("cursor=AaIHIoLLdSC13w5F6_iPQh", "?cursor"),
        ("cursor=AaIHIoLLdSC13w5F6_iPQg%3D%3D", "?cursor"),
        ("to=a%00b", "?to"),
        ("from=%00", "?from"),
        ("limt=3", "?limt"),
        ("status=busy&status=failed", "?status"),
        ("from=%2B14155550100&limit=5&from=%2B14155550199", "?from"),
    ],
)
async def test_the_refusal_names_the_invalid_query_parameter(tenant: Tenant, query: str, pointer: str) -> None:
    response = await tenant.http.get(f"/v1/calls?{query}")
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("to=+14155550100", "?to"), ("from=+14155550100", "?from"), ("to=sip:a+b@example.com", "?to"), ("to=%20", "?to")],
)
async def test_the_refusal_of_an_unencoded_plus_says_how_to_encode_it(tenant: Tenant, query: str, pointer: str) -> None:
    response = await tenant.http.get(f"/v1/calls?{query}")
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert (fault["pointer"], fault["code"]) == (pointer, "unencoded_plus")
    assert "%2B" in fault["detail"]


async def test_times_in_records_are_utc(tenant: Tenant) -> None:
    record = (await tenant.create()).json()
    assert record["created_at"].endswith("Z")
    assert abs(datetime.fromisoformat(record["created_at"]) - datetime.now(UTC)).total_seconds() < 60


async def test_a_resource_with_every_field_null_becomes_a_record(gateway: Gateway) -> None:
    bare = dict.fromkeys(call_resource()) | {"sid": "CA" + "c" * 32}
    async with running_upstream(answer(201, bare)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
    assert (record["execution"], record["status"], record["price"]) == ("started", None, None)
