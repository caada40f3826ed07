"""An idempotency key belongs to one call for as long as the record of the call is kept (ADR 4)."""

import asyncio

import pytest

from tests.support.gateway import BASIC_CALL, Gateway
from tests.support.upstream import created, created_after_release, error, hang, refused_url, running_upstream


async def test_a_repeated_request_is_answered_with_the_record_and_not_dialled(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = await tenant.create("order-1")
        again = await tenant.create("order-1")
        assert (first.status_code, again.status_code) == (201, 200)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json() == first.json()
        assert len(upstream.posts) == 1


async def test_the_order_of_members_does_not_change_the_request(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.http.post("/v1/calls", json=BASIC_CALL, headers={"Idempotency-Key": "k"})
        turned = dict(reversed(BASIC_CALL.items()))
        again = await tenant.http.post("/v1/calls", json=turned, headers={"Idempotency-Key": "k"})
        assert again.status_code == 200


async def test_the_same_key_with_another_request_is_refused_with_the_calls_id(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = await tenant.create("order-1")
        other = await tenant.create("order-1", to="sip:mallory@example.com")
        assert other.status_code == 422
        body = other.json()
        assert body["type"] == "urn:callgate:problem:idempotency-key-reused"
        assert body["call_id"] == first.json()["id"]
        assert body["retry"]["same_key"] is False
        assert len(upstream.posts) == 1


async def test_a_secret_parameter_is_part_of_the_request(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create("k", sip_auth_username="jack", sip_auth_password="one")
        other = await tenant.create("k", sip_auth_username="jack", sip_auth_password="two")
        assert other.json()["type"] == "urn:callgate:problem:idempotency-key-reused"


async def test_keys_are_scoped_to_the_tenant(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        one, other = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        assert (await one.create("k")).status_code == 201
        assert (await other.create("k")).status_code == 201
        assert len(upstream.posts) == 2


async def test_a_repetition_while_the_first_request_is_pending_gets_retry_after(patient_gateway: Gateway) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await patient_gateway.add_tenant(upstream.url)
        first = asyncio.create_task(tenant.create("k"))
        await upstream.wait_for_post()
        waiting = await tenant.create("k")
        upstream.released.set()
        assert waiting.status_code == 409
        assert waiting.headers["Retry-After"] == "1"
        body = waiting.json()
        assert body["type"] == "urn:callgate:problem:call-pending"
        assert (body["execution"], body["retry"]) == ("unknown", {"safe": True, "same_key": True, "after_s": 1})
        assert body["call_id"] == (await first).json()["id"]
        assert len(upstream.posts) == 1


async def test_twenty_concurrent_requests_with_one_key_place_one_call(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answers = await asyncio.gather(*(tenant.create("k") for _ in range(20)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(201) == 1
        assert set(statuses) <= {200, 201, 409}
        ids = {answer.json().get("call_id") or answer.json()["id"] for answer in answers}
        assert len(ids) == 1
        assert len(upstream.posts) == 1


async def test_a_call_not_started_for_a_temporary_reason_is_retried_in_the_same_record(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant(refused_url())
    first = await tenant.create("k")
    assert first.status_code == 503
    async with running_upstream(created()) as upstream:
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret=tenant.auth_token, key_sid=None, base_url=upstream.url
        )
        gateway.invalidate_cache()
        second = await tenant.create("k")
        third = await tenant.create("k")
        assert (second.status_code, third.status_code) == (201, 200)
        assert first.json()["call_id"] == second.json()["id"] == third.json()["id"]
        assert second.json()["problem"] is None
        assert len(upstream.posts) == 1
    types = [event["type"] for event in await tenant.events(second.json()["id"])]
    assert types == ["call.pending", "call.not_started", "call.pending", "call.started"]


async def test_throttling_and_refused_credentials_are_temporary_reasons(gateway: Gateway) -> None:
    for failure in (error(429, 20429, headers={"Retry-After": "60"}), error(401, 20003)):
        async with running_upstream(failure, created()) as upstream:
            tenant = await gateway.add_tenant(upstream.url)
            assert (await tenant.create("k")).status_code >= 500
            assert (await tenant.create("k")).status_code == 201


@pytest.mark.parametrize("slug", ["no-usable-credentials", "internal-error"])
async def test_a_call_that_ended_before_anything_was_sent_is_retried(gateway: Gateway, slug: str) -> None:
    """Earlier versions ended scheduled calls with these problems."""
    async with running_upstream(error(400, 21211), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create("k")).status_code == 422
        statement = "UPDATE call SET problem = jsonb_build_object('slug', $1::text, 'detail', '') WHERE tenant_id = $2"
        await gateway.database.fetch(statement, slug, tenant.id)
        assert (await tenant.create("k")).status_code == 201


async def test_twenty_concurrent_repetitions_of_an_unplaced_call_place_one(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create("k")).status_code == 502
        answers = await asyncio.gather(*(tenant.create("k") for _ in range(20)))
        assert [answer.status_code for answer in answers].count(201) == 1
        assert len(upstream.posts) == 2


async def test_a_permanent_rejection_is_replayed(gateway: Gateway) -> None:
    async with running_upstream(error(400, 21211), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first, again = await tenant.create("k"), await tenant.create("k")
        assert (first.status_code, again.status_code) == (422, 422)
        per_request = {"request_id"}
        assert {k: v for k, v in again.json().items() if k not in per_request} == {
            k: v for k, v in first.json().items() if k not in per_request
        }
        assert len(upstream.posts) == 1


async def test_an_unknown_outcome_is_replayed_and_never_dialled_again(gateway: Gateway) -> None:
    async with running_upstream(hang, created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first, again = await tenant.create("k"), await tenant.create("k")
        assert (first.status_code, again.status_code) == (202, 200)
        assert again.json()["execution"] == "unknown"
        assert len(upstream.posts) == 1


async def test_a_refused_retry_never_hides_a_live_call(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        first = await tenant.create("k")
        await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
        gateway.invalidate_cache()
        again = await tenant.create("k")
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        assert (await tenant.create("another")).status_code == 403
        invalid = await tenant.create("k", timeout="soon")
        assert invalid.json()["call_id"] == first.json()["id"]
        with_query = await tenant.http.post("/v1/calls?timeout=30", json=BASIC_CALL, headers={"Idempotency-Key": "k"})
        assert (with_query.status_code, with_query.json()["id"]) == (200, first.json()["id"])


async def test_a_refused_request_does_not_use_up_its_key(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create("k", timeout=0)).status_code == 422
        assert (await tenant.create("k", timeout=30)).status_code == 201
        assert len(upstream.posts) == 1


async def test_a_key_that_is_not_printable_ascii_or_too_long_is_refused(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for key in (b"", b"k" * 256, b"tab\there", "schlüssel".encode("latin-1")):
            response = await tenant.http.post("/v1/calls", json=BASIC_CALL, headers=[(b"Idempotency-Key", key)])
            assert response.status_code == 422, key
            assert response.json()["errors"][0]["pointer"] == "Idempotency-Key"
        assert upstream.posts == []
