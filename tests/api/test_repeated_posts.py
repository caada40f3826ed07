"""Callgate repeats a POST that Twilio refused only if it can read the call's record and the record is still pending."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import running_gateway, settings_for
from tests.support.upstream import after, created, error, running_upstream

TIMEOUT_S = 60


@pytest.mark.parametrize(("status", "code"), [(429, 20429), (401, 20003)])
async def test_a_call_that_a_callback_has_settled_is_not_sent_again(database_url: str, status: int, code: int) -> None:
    """Covers a request that Twilio, or a proxy in between, refused although Twilio had created the call."""
    sid = f"CA{status:032x}"
    settings = settings_for(database_url, public_url=PUBLIC_URL, twilio_read_timeout=20, request_budget=90)

    async def called_back() -> None:
        (call,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        fields = status_callback_fields(tenant, {"sid": sid}, "ringing", 1)
        assert (await call_back(gateway, tenant, call["id"], fields)).status_code == 204

    async with (
        running_gateway(settings) as gateway,
        running_upstream(after(called_back, error(status, code)), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="s" * 32, key_sid="SK" + "1" * 32, base_url=None
        )
        gateway.invalidate_cache()
        response = await tenant.create("k")
        assert len(upstream.posts) == 1, "the call has already started"
        assert (response.status_code, response.json()["sid"], response.json()["settled_by"]) == (201, sid, "callback")
        assert (await tenant.create("k")).json()["sid"] == sid


async def test_a_refused_post_is_repeated_while_the_record_is_pending(database_url: str) -> None:
    async with (
        running_gateway(settings_for(database_url)) as gateway,
        running_upstream(error(429, 20429), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        assert len(upstream.posts) == 2


async def test_a_call_that_was_canceled_meanwhile_is_not_sent_again(database_url: str) -> None:
    async def canceled() -> None:
        (call,) = [each for each in (await tenant.http.get("/v1/calls")).json()["calls"] if each["execution"] == "pending"]
        assert (await tenant.http.patch(f"/v1/calls/{call['id']}", json={"status": "canceled"})).status_code == 202

    async with (
        running_gateway(settings_for(database_url)) as gateway,
        running_upstream(after(canceled, error(429, 20429)), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create()
        assert (response.status_code, response.json()["execution"]) == (503, "not_started")
        assert len(upstream.posts) == 1


async def test_a_request_to_end_an_earlier_attempt_does_not_prevent_repetitions(database_url: str) -> None:
    """No worker runs, so the request that was stored during the first attempt is still stored during the second one."""

    async def canceled() -> None:
        (call,) = (await tenant.http.get("/v1/calls")).json()["calls"]
        assert (await tenant.http.patch(f"/v1/calls/{call['id']}", json={"status": "canceled"})).status_code == 202

    async with (
        running_gateway(settings_for(database_url)) as gateway,
        running_upstream(after(canceled, error(429, 20429)), error(429, 20429), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create("k")).status_code == 503
        assert len(upstream.posts) == 1
        response = await tenant.create("k")
        assert (response.status_code, response.json()["execution"]) == (201, "started")
        assert len(upstream.posts) == 3


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="callgate-repeated-") as name:
        Path(name).chmod(0o755)
        with EmbeddedPostgres(Path(name)) as server:
            yield server


async def test_nothing_is_repeated_while_the_record_cannot_be_read(postgres: EmbeddedPostgres) -> None:
    await asyncio.to_thread(migrate, postgres.url)

    async def stopped() -> None:
        postgres.stop()

    settings = settings_for(postgres.url, twilio_read_timeout=20, request_budget=90)
    async with (
        running_gateway(settings) as gateway,
        running_upstream(after(stopped, error(429, 20429)), created()) as upstream,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        response = await tenant.create("k")
        assert (response.status_code, response.json()["execution"]) == (202, "unknown"), "the outcome waits for Postgres"
        postgres.start()
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                record = await tenant.http.get(f"/v1/calls/{response.json()['id']}")
                if record.is_success and record.json()["execution"] == "not_started":
                    break
                await asyncio.sleep(0.1)
        assert len(upstream.posts) == 1
        assert (await tenant.create("k")).status_code == 201
