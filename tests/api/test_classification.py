"""Tests ADR 3's table of what Twilio may answer: for each row the POSTs, the response, the stored record and its events."""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.upstream import (
    Behaviour,
    answer,
    call_resource,
    close,
    created,
    created_and_unasked,
    created_then_closed,
    endless_head,
    error,
    half_a_body,
    half_a_chunked_answer,
    half_a_head,
    half_an_answer,
    hang,
    not_http,
    preceded,
    proxy_page,
    refused_url,
    reset,
    running_upstream,
)

GZIP = {"Content-Encoding": "gzip"}


@dataclass(frozen=True)
class Row:
    script: tuple[Behaviour, ...]
    posts: int
    status: int
    execution: str
    slug: str | None = None
    result: str | None = None


def unknown(behaviour: Behaviour, result: str) -> Row:
    return Row((behaviour,), posts=1, status=202, execution="unknown", result=result)


ROWS = {
    "2xx with a sid": Row((created(),), posts=1, status=201, execution="started", result="started"),
    "200 with a sid": Row((answer(200, {"sid": "CA" + "7" * 32}),), posts=1, status=201, execution="started", result="started"),
    "429 until the budget is used up": Row(
        (error(429, 20429),), posts=5, status=503, execution="not_started", slug="upstream-throttled", result="throttled"
    ),
    "429 once, then created": Row((error(429, 20429), created()), posts=2, status=201, execution="started", result="started"),
    "429 with a Retry-After longer than the budget": Row(
        (error(429, 20429, headers={"Retry-After": "17"}),),
        posts=1,
        status=503,
        execution="not_started",
        slug="upstream-throttled",
        result="throttled",
    ),
    "400": Row((error(400, 21211),), posts=1, status=422, execution="not_started", slug="upstream-rejected", result="rejected"),
    "404": Row((error(404, 20404),), posts=1, status=422, execution="not_started", slug="upstream-rejected", result="rejected"),
    "401": Row(
        (error(401, 20003),),
        posts=1,
        status=502,
        execution="not_started",
        slug="upstream-credentials-rejected",
        result="credential_rejected",
    ),
    "403": Row(
        (error(403, 20008),),
        posts=1,
        status=502,
        execution="not_started",
        slug="upstream-credentials-rejected",
        result="credential_rejected",
    ),
    "400 with code 20003": Row(
        (error(400, 20003),),
        posts=1,
        status=502,
        execution="not_started",
        slug="upstream-credentials-rejected",
        result="credential_rejected",
    ),
    "500": unknown(error(500, 20500), "status_500"),
    "502": unknown(answer(502, body=b"bad gateway"), "status_502"),
    "503": unknown(error(503, 20503), "status_503"),
    "504": unknown(answer(504, body=b""), "status_504"),
    "408, which proxies send": unknown(answer(408, body=b""), "status_408"),
    "redirect": unknown(answer(307, body=b"", headers={"Location": "/elsewhere"}), "status_307"),
    "read timeout": unknown(hang, "read_timeout"),
    "reset after the request was read": unknown(reset, "read_error"),
    "closed after the request was read": unknown(close, "remote_protocol_error"),
    "half an answer": unknown(half_an_answer, "remote_protocol_error"),
    "half an answer, chunked": unknown(half_a_chunked_answer, "remote_protocol_error"),
    "half a header, then silence": unknown(half_a_head, "read_timeout"),
    "half a body, then silence": unknown(half_a_body, "read_timeout"),
    "a header of 300,000 characters": unknown(endless_head, "remote_protocol_error"),
    "an interim answer, then created": Row(
        (preceded(b"HTTP/1.1 100 Continue\r\n\r\n", created()),), posts=1, status=201, execution="started", result="started"
    ),
    "an interim answer, then nothing": unknown(preceded(b"HTTP/1.1 100 Continue\r\n\r\n", close), "remote_protocol_error"),
    "2xx, compressed": Row(
        (answer(201, body=gzip.compress(json.dumps(call_resource()).encode()), headers=GZIP),),
        posts=1,
        status=201,
        execution="started",
        result="started",
    ),
    "2xx that claims to be compressed": unknown(answer(201, call_resource(), headers=GZIP), "decoding_error"),
    "an answer that is not HTTP": unknown(not_http, "remote_protocol_error"),
    "2xx that is not JSON": unknown(answer(201, body=b"<html>fine</html>"), "unreadable_answer"),
    "2xx without a sid": unknown(answer(201, {"status": "queued"}), "answer_without_sid"),
    "2xx with a malformed sid": unknown(answer(201, {"sid": "CA123"}), "answer_without_sid"),
    "2xx with an empty body": unknown(answer(201, body=b""), "unreadable_answer"),
    "2xx that is too long": unknown(answer(201, body=b"[" + b"1," * 700_000 + b"1]"), "answer_too_long"),
}


# Either of these marks a response as Twilio's: its header, or its error code.
TWILIOS: dict[str, Callable[[int], Behaviour]] = {
    "by the header": lambda status: answer(status, body=b"", headers={"Twilio-Request-Id": "RQ" + "e" * 32}),
    "by the code": lambda status: answer(status, {"code": 20001}),
}
NOT_TWILIOS: dict[str, Callable[[int], Behaviour]] = {
    "a proxy's page": proxy_page,
    "an empty body": lambda status: answer(status, body=b""),
    "JSON without a code": lambda status: answer(status, {"message": "No", "status": status}),
    "a code that is text": lambda status: answer(status, {"code": "20429"}),
    "a code that is true": lambda status: answer(status, {"code": True}),
}
REFUSALS = {
    400: (422, "upstream-rejected", "rejected", 1),
    401: (502, "upstream-credentials-rejected", "credential_rejected", 1),
    403: (502, "upstream-credentials-rejected", "credential_rejected", 1),
    404: (422, "upstream-rejected", "rejected", 1),
    413: (422, "upstream-rejected", "rejected", 1),
    429: (503, "upstream-throttled", "throttled", 5),
}
ROWS |= {
    f"{status}, Twilio's {how}": Row((twilios(status),), posts, http_status, "not_started", slug, result)
    for how, twilios in TWILIOS.items()
    for status, (http_status, slug, result, posts) in REFUSALS.items()
}
ROWS |= {
    f"{status}, not Twilio's: {how}": unknown(somebodys(status), f"status_{status}")
    for how, somebodys in NOT_TWILIOS.items()
    for status in REFUSALS
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
async def test_row_of_the_classification_table(gateway: Gateway, row: Row) -> None:
    async with running_upstream(*row.script) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create()
        assert response.status_code == row.status, response.text
        assert len(upstream.posts) == row.posts
        await _assert_response_and_record(tenant, response.json(), row)


async def _assert_response_and_record(tenant: Any, body: dict[str, Any], row: Row) -> None:
    assert body["execution"] == row.execution
    call_id = body.get("call_id") or body["id"]
    if row.slug:
        assert body["type"] == f"urn:callgate:problem:{row.slug}"
        assert body["retry"]["safe"] is True
    record = (await tenant.http.get(f"/v1/calls/{call_id}")).json()
    assert record["execution"] == row.execution
    assert (record["problem"] or {}).get("slug") == row.slug
    assert record["settled_by"] == (None if row.execution == "unknown" else "response")
    assert (record["sid"] is not None) == (row.execution == "started")
    pending, outcome = await tenant.events(call_id)
    assert (pending["type"], outcome["type"]) == ("call.pending", f"call.{row.execution}")
    assert outcome["data"]["attempts"][-1]["result"] == row.result
    assert len(outcome["data"]["attempts"]) == row.posts


UNREACHABLE = {
    "connection refused": refused_url,
    "no such name": lambda: "http://twilio.invalid",
}


@pytest.mark.parametrize("url", UNREACHABLE.values(), ids=UNREACHABLE.keys())
async def test_an_unreachable_upstream_is_retried_and_then_reported_as_not_started(gateway: Gateway, url: Any) -> None:
    tenant = await gateway.add_tenant(url())
    response = await tenant.create()
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    body = response.json()
    assert (body["type"], body["execution"]) == ("urn:callgate:problem:upstream-unreachable", "not_started")
    outcome = (await tenant.events(body["call_id"]))[-1]
    results = {attempt["result"] for attempt in outcome["data"]["attempts"]}
    assert len(outcome["data"]["attempts"]) > 1
    assert results <= {"connect_error", "connect_timeout"}


async def test_failed_tls_handshake_is_not_started_and_sends_nothing_readable(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url.replace("http://", "https://"))
        response = await tenant.create()
        assert response.status_code == 503
        assert response.json()["type"] == "urn:callgate:problem:upstream-unreachable"
        assert upstream.posts == []


async def test_connection_that_is_closed_in_the_tls_handshake_is_not_started(gateway: Gateway) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        tenant = await gateway.add_tenant(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        response = await tenant.create()
    assert (response.status_code, response.json()["execution"]) == (503, "not_started")
    assert response.json()["type"] == "urn:callgate:problem:upstream-unreachable"


async def test_an_idle_connection_that_was_closed_is_not_reused(gateway: Gateway) -> None:
    async with running_upstream(created_then_closed, created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert [(await tenant.create()).status_code for _ in range(2)] == [201, 201]
        assert len(upstream.posts) == 2


@pytest.mark.parametrize("loss", [close, reset])
async def test_a_request_lost_on_a_reused_connection_is_unknown_and_not_resent(gateway: Gateway, loss: Behaviour) -> None:
    async with running_upstream(created(), loss, created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        lost = await tenant.create()
        assert (lost.status_code, lost.json()["execution"]) == (202, "unknown")
        assert len(upstream.posts) == 2


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "a moment later"])
async def test_an_unsolicited_response_is_never_taken_for_that_of_the_next_call(gateway: Gateway, at_once: bool) -> None:
    stray = "CA" + ("d" if at_once else "e") * 32
    async with running_upstream(created_and_unasked(call_resource(stray), at_once=at_once), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = (await tenant.create()).json()
        upstream.released.set()
        await asyncio.sleep(0.1)
        second = (await tenant.create()).json()
        assert (first["execution"], second["execution"]) == ("started", "started")
        assert stray not in (first["sid"], second["sid"])
        assert len(upstream.posts) == 2


async def test_a_rejection_has_twilios_own_texts(gateway: Gateway) -> None:
    async with running_upstream(error(400, 21211, "The number is not valid")) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        body = (await tenant.create()).json()
    assert body["upstream"] == {
        "status": 400,
        "code": 21211,
        "message": "The number is not valid",
        "more_info": "https://www.twilio.com/docs/errors/21211",
        "request_id": "RQ" + "e" * 32,
    }


async def test_a_throttled_request_gets_twilios_retry_after(gateway: Gateway) -> None:
    async with running_upstream(error(429, 20429, headers={"Retry-After": "17"})) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create()
    assert response.headers["Retry-After"] == "17"
    assert response.json()["retry"] == {"safe": True, "same_key": True, "after_s": 17}


@pytest.mark.parametrize(("headers", "pauses"), [({}, [0.09, 0.18]), ({"Retry-After": "1"}, [1])])
async def test_a_throttled_request_is_repeated_only_after_a_pause(
    gateway: Gateway, headers: dict[str, str], pauses: list[float]
) -> None:
    """The pauses are those of the backoff, or as long as Twilio asks. A slow machine only makes them longer."""
    throttled = error(429, 20429, headers=headers)
    async with running_upstream(*[throttled] * len(pauses), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
    made = [after.at - before.at for before, after in pairwise(upstream.posts)]
    assert len(made) == len(pauses)
    assert all(pause >= least for pause, least in zip(made, pauses, strict=True)), made


async def test_the_next_active_credential_is_tried_if_the_first_is_refused(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        key_sid = "SK" + "5" * 32
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="second", key_sid=key_sid, base_url=None
        )
        gateway.invalidate_cache()
        response = await tenant.create()
    assert response.status_code == 201
    assert [request.credentials for request in upstream.posts] == [
        (tenant.account_sid, tenant.auth_token),
        (key_sid, "second"),
    ]


async def test_a_creation_may_be_repeated_if_no_time_is_left_for_the_next_credential(database_url: str) -> None:
    settings = settings_for(database_url, request_budget=7)  # the time of one attempt, so that none is left after the first
    async with running_gateway(settings) as gateway, running_upstream(error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        key_sid = "SK" + "7" * 32
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="second", key_sid=key_sid, base_url=None
        )
        gateway.invalidate_cache()
        refused = await tenant.create("k")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:callgate:problem:upstream-unreachable")
        assert refused.json()["retry"]["same_key"] is True
        assert (await tenant.create("k")).status_code == 201
        assert [request.credentials[0] for request in upstream.posts] == [tenant.account_sid, key_sid]


async def test_a_proxys_401_does_not_mark_the_credential_as_rejected(gateway: Gateway) -> None:
    async with running_upstream(proxy_page(401), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="second", key_sid="SK" + "6" * 32, base_url=None
        )
        gateway.invalidate_cache()
        assert (await tenant.create()).json()["execution"] == "unknown"
        assert (await tenant.create()).json()["execution"] == "started"
        assert [post.credentials[0] for post in upstream.posts] == [tenant.account_sid] * 2
    ((_, credentials),) = await gateway.tenants.list_accounts(tenant.id)
    assert [credential.rejected_at for credential in credentials] == [None, None]


async def test_a_response_that_postgres_cannot_store_is_cleaned_and_stored(gateway: Gateway) -> None:
    sid = "CA" + "9" * 32
    body = (
        b'{"sid": "'
        + sid.encode()
        + b'", "caller_name": "a\\u0000b\\ud800", "price": "1e999999", "duration": "99999999999", "new": 1e400}'
    )
    async with running_upstream(answer(201, body=body)) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
    assert (record["execution"], record["sid"]) == ("started", sid)
    assert (record["caller_name"], record["price"], record["duration"]) == ("ab?", None, None)


async def test_a_sid_of_another_record_is_never_reported_as_not_started(gateway: Gateway) -> None:
    same = answer(201, {"sid": "CA" + "8" * 32, "status": "queued"})
    async with running_upstream(same) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        second = await tenant.create()
    assert (second.status_code, second.json()["execution"]) == (202, "unknown")


POISON: dict[str, dict[str, Any]] = {
    "a price of 20,000 digits": {"price": "0." + "1" * 20_000},
    "a status of 6,000 characters": {"status": "q" * 6000},
    "300 lists in each other": {"x": json.loads("[" * 300 + "]" * 300)},
    "a key that Callgate uses itself": {"raw": {"a": 1}},
    "subresources in each other": {"subresource_uris": {"a": json.loads("[" * 300 + "]" * 300)}},
}


@pytest.mark.parametrize(("number", "fields"), list(enumerate(POISON.values())), ids=POISON.keys())
async def test_a_value_that_cannot_be_stored_does_not_lose_the_call(
    gateway: Gateway, number: int, fields: dict[str, Any]
) -> None:
    async with running_upstream(answer(201, call_resource(f"CA{number:030x}ff", **fields))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        created_ = await tenant.create()
    assert (created_.status_code, created_.json()["execution"]) == (201, "started")
    assert (await tenant.http.get(f"/v1/calls/{created_.json()['id']}")).status_code == 200
    assert (await tenant.http.get("/v1/calls")).status_code == 200


async def test_a_huge_retry_after_is_limited(gateway: Gateway) -> None:
    async with running_upstream(error(429, 20429, headers={"Retry-After": "9" * 400})) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create()
    assert (response.status_code, response.json()["type"]) == (503, "urn:callgate:problem:upstream-throttled")
    assert len(response.headers["Retry-After"]) < 12
