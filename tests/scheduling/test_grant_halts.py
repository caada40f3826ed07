"""Tests that no worker grants calls after Postgres was replaced by another server, and that `callgate doctor` reports this."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

from app.calls.creation.grants.service import grant_calls
from app.database.engine import Database
from app.doctor.grants import check_dial_grants
from app.jobs.gauges import BacklogGauges
from app.jobs.lost_grants import LostGrantWatch
from app.observability import Metrics
from app.scheduling.grant_counters import KnownGrantCounts
from app.scheduling.grant_halts import read_grant_halt_state
from tests.support.gateway import Gateway
from tests.support.tcp import TIMEOUT_S, running_proxy

IDENTITY = "pg_control_system(), pg_walfile_name(pg_lsn)"
"""The functions of Postgres that identify the server. A managed Postgres may not permit them."""


@pytest.fixture(autouse=True)
async def nothing_recorded(gateway: Gateway) -> None:
    for table in ("scheduled_dial", "grant_guard"):
        await gateway.database.fetch(f"DELETE FROM {table}")  # noqa: S608


async def halted_gauge(gateway: Gateway) -> float:
    metrics = Metrics()
    await BacklogGauges(gateway.database, metrics, KnownGrantCounts()).step()
    families = text_string_to_metric_families(metrics.exposition().decode())
    return next(family.samples[0].value for family in families if family.name == "callgate_grants_halted")


async def test_the_first_grant_records_the_server_and_another_server_halts_all(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        assert (await (await gateway.add_tenant()).create(priority="normal")).status_code == 202
    first, second, third = [row["account_id"] for row in await gateway.database.fetch("SELECT account_id FROM scheduled_dial")]
    assert await read_grant_halt_state(gateway.database) is None
    assert len((await grant_calls(gateway.database, first, limit=10)).grants) == 1
    assert await halted_gauge(gateway) == 0
    assert (await check_dial_grants(gateway.database)).state == "ok"

    await gateway.database.fetch("UPDATE grant_guard SET server = 'another'")
    assert (await check_dial_grants(gateway.database)).state == "wrong"
    rounds = await asyncio.gather(*(grant_calls(gateway.database, each, limit=10) for each in (second, third)))
    assert [(made.grants, made.is_last) for made in rounds] == [([], True)] * 2
    assert await halted_gauge(gateway) == 1
    # A person has to release the grants even if the server is the old one again.
    await gateway.database.fetch("UPDATE grant_guard SET server = callgate_server() || '/' || tableoid")
    assert (await grant_calls(gateway.database, third, limit=10)).grants == []
    assert capsys.readouterr().out.count("grants_halted") == 1
    await gateway.database.fetch("UPDATE grant_guard SET halted_at = NULL")
    assert len((await grant_calls(gateway.database, third, limit=10)).grants) == 1


async def test_another_server_is_accepted_while_no_call_waits(gateway: Gateway) -> None:
    watch = LostGrantWatch(gateway.database)
    await watch.step()
    await gateway.database.fetch("UPDATE grant_guard SET server = 'another'")
    await watch.step()
    state = await read_grant_halt_state(gateway.database)
    assert state is not None
    assert state.may_grant
    assert (await (await gateway.add_tenant()).create(priority="normal")).status_code == 202
    await gateway.database.fetch("UPDATE grant_guard SET server = 'another'")
    await watch.step()
    halted = await read_grant_halt_state(gateway.database)
    assert halted is not None
    assert (halted.server, halted.seen_at) == ("another", state.seen_at)
    assert halted.halted_at is not None


async def test_a_grant_that_is_recorded_while_the_watch_reads_the_counts_does_not_look_lost(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    for _ in range(3):
        await tenant.create(priority="normal")
    account_id: UUID = (await gateway.database.fetch("SELECT account_id FROM scheduled_dial"))[0]["account_id"]
    counters = KnownGrantCounts()
    assert len((await grant_calls(gateway.database, account_id, limit=1, counters=counters)).grants) == 1
    url = make_url(gateway.settings.require_database_url())
    assert url.host is not None
    assert url.port is not None
    async with running_proxy(url.host, url.port) as proxy:
        behind = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        database = Database(behind, pool_size=1)
        # The answer has the account's id beside its count, in binary.
        proxy.hold_answer(account_id.bytes)
        checking = asyncio.create_task(LostGrantWatch(database, counters).step())
        await asyncio.wait_for(proxy.answer_held.wait(), TIMEOUT_S)
        assert len((await grant_calls(gateway.database, account_id, limit=1, counters=counters)).grants) == 1
        proxy.answer_released.set()
        await checking
        await database.close()
    state = await read_grant_halt_state(gateway.database)
    assert state is not None
    assert state.may_grant


async def hide_server(gateway: Gateway) -> None:
    """Gives `callgate_server()` an owner that may not read the system identifier and the timeline."""
    for statement in (
        "CREATE ROLE callgate_limited",
        "ALTER FUNCTION callgate_server() OWNER TO callgate_limited",
        f"REVOKE EXECUTE ON FUNCTION {IDENTITY} FROM PUBLIC",
    ):
        await gateway.database.fetch(statement)


@asynccontextmanager
async def hiding_server(gateway: Gateway) -> AsyncIterator[None]:
    (row,) = await gateway.database.fetch("SELECT current_user AS name")
    await hide_server(gateway)
    try:
        yield
    finally:
        for statement in (
            f"GRANT EXECUTE ON FUNCTION {IDENTITY} TO PUBLIC",
            f"ALTER FUNCTION callgate_server() OWNER TO {row['name']}",
            "DROP ROLE callgate_limited",
        ):
            await gateway.database.fetch(statement)


async def test_without_the_right_to_know_the_timeline_restores_are_noticed_and_doctor_warns(gateway: Gateway) -> None:
    async with hiding_server(gateway):
        await LostGrantWatch(gateway.database).step()
        state = await read_grant_halt_state(gateway.database)
        assert state is not None
        assert state.server.startswith("-/started ")
        assert state.may_grant
        found = await check_dial_grants(gateway.database)
        assert found.state == "warning"
        assert "hides its timeline" in found.found
