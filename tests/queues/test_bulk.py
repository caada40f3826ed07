"""Tests the request that adds many calls to a queue: it creates each call once, and answers each line separately."""

import asyncio
import json
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from app.http.limits import MAX_BODY_BYTES
from app.queues.router import MAX_BULK_BYTES, MAX_BULK_LINES
from tests.support.gateway import BASIC_CALL, Gateway, Tenant
from tests.support.raw import raw_connection, request_head

NDJSON = {"Content-Type": "application/x-ndjson"}
PATH = "/v1/queues/reminders/calls"


@pytest.fixture
async def tenant(gateway: Gateway) -> Tenant:
    made = await gateway.add_tenant()
    (await made.http.put("/v1/queues/reminders", json={"ring_within_s": 600})).raise_for_status()
    return made


def line(key: Any, **members: Any) -> str:
    return json.dumps({"key": key} | BASIC_CALL | members)


async def send(tenant: Tenant, lines: Iterable[str | bytes], **headers: str) -> httpx.Response:
    content = b"\n".join(each if isinstance(each, bytes) else each.encode() for each in lines)
    return await tenant.http.post(PATH, content=content, headers=NDJSON | headers)


async def added(tenant: Tenant, lines: Iterable[str | bytes]) -> list[dict[str, Any]]:
    answer = await send(tenant, lines)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert answer.text.endswith("\n")
    return [json.loads(each) for each in answer.text.splitlines()]


def refusal(answered: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    problem = answered["problem"]
    return problem["type"].removeprefix("urn:callgate:problem:"), [
        (fault["pointer"], fault["code"]) for fault in problem.get("errors", ())
    ]


async def test_each_line_is_a_scheduled_call_of_the_queue(tenant: Tenant) -> None:
    answered = await added(tenant, [line("a"), line("b", priority="urgent"), line("c", queue="reminders")])
    assert [(each["line"], each["key"], each["status"], each["execution"]) for each in answered] == [
        (1, "a", 202, "scheduled"),
        (2, "b", 202, "scheduled"),
        (3, "c", 202, "scheduled"),
    ]
    records = [(await tenant.http.get(f"/v1/calls/{each['id']}")).json() for each in answered]
    assert [record["idempotency_key"] for record in records] == ["a", "b", "c"]
    assert [record["parameters"]["queue"] for record in records] == ["reminders"] * 3
    assert records[1]["parameters"]["priority"] == "urgent"
    assert (await tenant.http.get("/v1/queues/reminders")).json()["waiting"] == 3


async def test_lines_that_are_sent_again_are_answered_with_their_calls(tenant: Tenant) -> None:
    first = await added(tenant, [line("a"), line("b")])
    again = await added(tenant, [line("b"), line("c"), line("a")])
    assert [each["status"] for each in again] == [200, 202, 200]
    assert [again[0]["id"], again[2]["id"]] == [first[1]["id"], first[0]["id"]]
    # Also as a single creation, which names the queue in its body.
    single = await tenant.create("a", queue="reminders")
    assert (single.status_code, single.json()["id"]) == (200, first[0]["id"])


async def test_the_key_of_a_line_for_another_queue_is_looked_up_before_the_line_is_refused(tenant: Tenant) -> None:
    (await tenant.http.put("/v1/queues/others", json={})).raise_for_status()
    call_id = (await tenant.create("a", queue="others")).json()["id"]
    same, different, new = await added(
        tenant, [line("a", queue="others"), line("a", queue="others", priority="urgent"), line("b", queue="others")]
    )
    assert (same.get("status"), same.get("id")) == (200, call_id)
    assert (refusal(different), different["problem"]["call_id"]) == (("idempotency-key-reused", []), call_id)
    assert refusal(new) == ("invalid-request", [("/queue", "another_queue")])
    assert (await tenant.http.get("/v1/queues/reminders")).json()["waiting"] == 0


async def test_a_key_twice_in_one_body_is_one_call(tenant: Tenant) -> None:
    answered = await added(tenant, [line("a"), line("a"), line("a", to="sip:jack@example.com")])
    assert {each.get("status") for each in answered[:2]} == {200, 202}
    assert answered[0]["id"] == answered[1]["id"]
    assert refusal(answered[2]) == ("idempotency-key-reused", [])
    assert answered[2]["problem"]["call_id"] == answered[0]["id"]


async def test_a_line_that_is_refused_does_not_affect_the_others(tenant: Tenant) -> None:
    lines: list[tuple[str | bytes, tuple[str, list[tuple[str, str]]]]] = [
        ("{", ("malformed-body", [])),
        (b'{"key": "\xff"}', ("malformed-body", [])),
        ("[]", ("invalid-request", [("", "not_an_object")])),
        (json.dumps(BASIC_CALL), ("invalid-request", [("/key", "missing")])),
        (line(None), ("invalid-request", [("/key", "string_type")])),
        (line("k" * 256), ("invalid-request", [("/key", "string_too_long")])),
        (line("é"), ("invalid-request", [("/key", "string_pattern_mismatch")])),
        (line("bad", to="nobody"), ("invalid-request", [("/to", "to_unknown_form")])),
        (line("other", queue="others"), ("invalid-request", [("/queue", "another_queue")])),
        (line("secret", sip_auth_username="u", sip_auth_password="planted"), ("invalid-request", [])),
        (line("late", ring_by="2026-01-01T00:00:00Z"), ("invalid-request", [("/ring_by", "in_the_past")])),
        (line("long", url="http://example.com/" + "x" * MAX_BODY_BYTES), ("body-too-large", [])),
        (b'{"key": "deep", "to": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", ("malformed-body", [])),
    ]
    bodies = [each for pair in lines for each in (pair[0], line(f"good-{hash(pair[0])}"))]
    answer = await send(tenant, bodies)
    answered = [json.loads(each) for each in answer.text.splitlines()]
    assert [each["line"] for each in answered] == list(range(1, len(bodies) + 1))
    assert {each.get("status") for each in answered[1::2]} == {202}
    for (_, (slug, faults)), refused in zip(lines, answered[::2], strict=True):
        assert refused.keys() == {"line", "key", "problem"}
        found = refusal(refused)
        assert found == (slug, faults or found[1]), refused
        assert refused["problem"]["execution"] == "not_started"
        assert refused["problem"]["instance"] == PATH
    assert "planted" not in answer.text
    assert answered[0]["key"] is None
    assert answered[14]["key"] == "bad"


async def test_empty_lines_are_left_out_and_counted(tenant: Tenant) -> None:
    answered = await added(tenant, ["", line("a"), "  ", "\r", line("b"), "", ""])
    assert [each["line"] for each in answered] == [2, 5]


async def test_a_thousand_lines_are_answered_in_order(tenant: Tenant) -> None:
    answered = await added(tenant, [line(f"k-{number}") for number in range(MAX_BULK_LINES)])
    assert [each["key"] for each in answered] == [f"k-{number}" for number in range(MAX_BULK_LINES)]
    assert {each["status"] for each in answered} == {202}
    assert len({each["id"] for each in answered}) == MAX_BULK_LINES
    assert (await tenant.http.get("/v1/queues/reminders")).json()["counts"]["execution"] == {"scheduled": MAX_BULK_LINES}


async def test_a_body_as_a_whole_can_be_refused(tenant: Tenant) -> None:
    async def slug(answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json()["type"].removeprefix("urn:callgate:problem:")

    assert await slug(await send(tenant, [])) == (422, "invalid-request")
    assert await slug(await send(tenant, ["\n\n"])) == (422, "invalid-request")
    assert await slug(await send(tenant, ["{}"] * (MAX_BULK_LINES + 1))) == (413, "body-too-large")
    assert await slug(await send(tenant, [""] * (2 * MAX_BULK_LINES + 2))) == (413, "body-too-large")
    large = await send(tenant, ["x" * MAX_BULK_BYTES, ""])
    assert await slug(large) == (413, "body-too-large")
    assert str(MAX_BULK_BYTES) in large.json()["detail"]
    assert await slug(await send(tenant, [line("a")], **{"Content-Type": "application/json"})) == (
        415,
        "unsupported-media-type",
    )
    missing = await tenant.http.post("/v1/queues/others/calls", content=line("a"), headers=NDJSON)
    assert await slug(missing) == (404, "queue-not-found")
    assert (await tenant.http.get("/v1/queues/reminders")).json()["waiting"] == 0


async def test_a_body_without_a_length_is_limited_while_it_arrives(tenant: Tenant) -> None:
    async def chunks() -> Any:
        for _ in range(MAX_BULK_BYTES // 65536 + 1):
            yield b"x" * 65536

    answer = await tenant.http.post(PATH, content=chunks(), headers=NDJSON)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:callgate:problem:body-too-large")


async def test_slow_bodies_of_some_tenants_do_not_delay_others(gateway: Gateway, tenant: Tenant) -> None:
    async with AsyncExitStack() as stack:
        for slow in (await gateway.add_tenant(), await gateway.add_tenant()):
            (await slow.http.put("/v1/queues/reminders", json={})).raise_for_status()
            for _ in range(2):
                connection = await stack.enter_async_context(raw_connection(gateway.url))
                lines = [f"Authorization: Bearer {slow.key}", "Content-Type: application/x-ndjson", "Content-Length: 1000000"]
                await connection.send(request_head("POST", PATH, *lines, "Expect: 100-continue"))
                # The server asks for the body once the endpoint reads it.
                assert (await connection.answer(content=False)).status == 100
        answered = await added(tenant, [line("a")])
        assert answered[0]["status"] == 202


async def test_a_client_without_a_key_is_refused_before_its_body_is_read(gateway: Gateway) -> None:
    async with raw_connection(gateway.url) as connection:
        await connection.send(request_head("POST", PATH, "Content-Type: application/x-ndjson", "Content-Length: 1000000"))
        assert (await connection.answer()).slug == "unauthorized"


async def test_a_suspended_tenant_gets_what_it_has_and_nothing_new(gateway: Gateway, tenant: Tenant) -> None:
    (known,) = await added(tenant, [line("a")])
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
    gateway.invalidate_cache()
    again, refused = await added(tenant, [line("a"), line("b")])
    assert (again["status"], again["id"]) == (200, known["id"])
    assert refusal(refused) == ("tenant-suspended", [])


async def test_the_same_body_twice_at_once_creates_each_call_once(tenant: Tenant) -> None:
    lines = [line(f"k-{number}") for number in range(300)]
    answers = await asyncio.gather(added(tenant, lines), added(tenant, lines))
    ids = [[each["id"] for each in answered] for answered in answers]
    assert ids[0] == ids[1]
    assert sum(each["status"] == 202 for answered in answers for each in answered) == 300


async def test_the_calls_of_a_client_that_disconnects_are_created_whole(gateway: Gateway, tenant: Tenant) -> None:
    lines = [line(f"k-{number}") for number in range(MAX_BULK_LINES)]
    content = "\n".join(lines)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await tenant.http.post(PATH, content=content, headers=NDJSON)
    answered = await added(tenant, lines)
    assert {each["status"] for each in answered} <= {200, 202}
    statement = """SELECT count(*) = count(dial.call_id) FROM call LEFT JOIN scheduled_dial AS dial ON dial.call_id = call.id
        WHERE call.tenant_id = $1 HAVING count(*) = $2"""
    assert [row[0] for row in await gateway.database.fetch(statement, tenant.id, MAX_BULK_LINES)] == [True]
