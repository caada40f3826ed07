"""`callgate doctor` finds problems, says how to fix them, and changes nothing."""

import asyncio
import json
import re
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.database.engine import Database
from app.database.heartbeats import record_heartbeat
from app.doctor.checks import run_checks
from app.doctor.results import CheckResult
from app.local.postgres import EmbeddedPostgres
from app.settings import Settings
from tests.cli.running import environment, failure, run
from tests.support.gateway import SECRET_KEY, Gateway, settings_for
from tests.support.upstream import answer, error, refused_url, running_upstream

PUBLIC_URL = "https://calls.example.com"
UNREACHABLE_DATABASE = refused_url().replace("http://", "postgresql+asyncpg://callgate:planted@") + "/callgate"
LISTED = answer(200, {"calls": [], "next_page_uri": None})


async def examine_by_check(settings: Settings) -> dict[str, list[CheckResult]]:
    """Runs all checks of `callgate doctor`. Returns the results by the name of the check."""
    results: dict[str, list[CheckResult]] = {}
    for result in await run_checks(settings):
        assert result.do or result.state in ("ok", "not checked"), result
        results.setdefault(result.check, []).append(result)
    return results


def settings(database_url: str, **values: Any) -> Settings:
    """Correct settings: with a public URL, and a drain timeout longer than the request budget."""
    return settings_for(database_url, public_url=PUBLIC_URL, twilio_base_url="https://api.twilio.com", **values)


def run_doctor(tmp_path: Path, *options: str, **values: str) -> tuple[int, str]:
    """Returns the exit code and the output of the command."""
    process = run("doctor", *options, environment=environment(tmp_path, **values))
    assert process.stderr == ""
    return process.returncode, process.stdout


async def test_a_correct_installation_has_only_ok_results(gateway: Gateway, database_url: str) -> None:
    async with running_upstream(LISTED) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.http.aclose()
        async with gateway.database.begin() as session:
            await record_heartbeat(session, uuid7(), version="")
        results = await examine_by_check(settings(database_url))
        (asked,) = upstream.received
    assert (asked.method, asked.path) == ("GET", f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json?PageSize=1")
    assert asked.credentials == (tenant.account_sid, tenant.auth_token)
    del results["durability"]  # the test server does not flush commits
    assert {result.state for rows in results.values() for result in rows} == {"ok"}
    account = f"account {tenant.account_sid} of {tenant.id}"
    checks = {"version", "settings", "public URL", "database", "clocks", "schema", "worker", "grants", "keys", account}
    assert results.keys() == checks


async def test_problems_are_reported_with_a_remedy(gateway: Gateway, database_url: str, tmp_path: Path) -> None:
    async with running_upstream(error(401, 20003)) as upstream:
        refused = await gateway.add_tenant(upstream.url)
        away = await gateway.add_tenant(refused_url())
        empty = await gateway.add_tenant(with_account=False)
        key_sid = "SK" + "0" * 32
        await gateway.tenants.add_credential(
            empty.id, account_sid="AC" + "e" * 32, secret="planted", key_sid=key_sid, base_url=upstream.url
        )
        async with gateway.database.begin() as session:
            await session.execute(
                text("UPDATE twilio_credential SET sealed_secret = '\\x01' WHERE username = :sid"), {"sid": key_sid}
            )
        results = await examine_by_check(settings(database_url, drain_timeout=1, log_pii=True))
        named = {"CALLGATE_DATABASE_URL": database_url, "CALLGATE_SECRET_KEYS": SECRET_KEY}
        code, table = await asyncio.to_thread(run_doctor, tmp_path, **named, CALLGATE_PUBLIC_URL="http://callgate.default.svc")
    assert code == 1
    assert "planted" not in table + str(results)
    assert table.split()[:4] == ["STATE", "CHECK", "FOUND", "DO"]
    assert re.search(r"^wrong +public URL +callgate.default.svc is not an address", table, re.MULTILINE)
    assert re.search(r"^wrong +account AC\w+ of [\w-]+ +Twilio refuses credential", table, re.MULTILINE)

    def only(check: str, state: str) -> str:
        (result,) = [one for one in results[check] if one.state == state]
        return result.found

    assert "Twilio refuses credential" in only(f"account {refused.account_sid} of {refused.id}", "wrong")
    assert "connect_error" in only(f"account {away.account_sid} of {away.id}", "wrong")
    assert "no auth token" in only(f"account AC{'e' * 32} of {empty.id}", "warning")
    assert "Twilio credential" in only("keys", "wrong")
    assert [one.state for one in results["settings"]] == ["ok", "warning", "warning"]


@pytest.mark.parametrize(("ahead_s", "state"), [(0, "ok"), (-300, "warning"), (86400, "wrong")])
async def test_twilios_clock_is_compared_with_ours(gateway: Gateway, database_url: str, ahead_s: int, state: str) -> None:
    date = formatdate(time.time() + ahead_s, usegmt=True)
    async with running_upstream(answer(200, {"calls": []}, headers={"Date": date})) as upstream:
        await gateway.add_tenant(upstream.url)
        results = await examine_by_check(settings(database_url, twilio_connect_timeout=0.2))
    (result,) = [one for one in results["clocks"] if "Twilio's" in one.found]
    assert result.state == state


async def test_a_credential_that_is_added_meanwhile_is_checked(gateway: Gateway, database_url: str) -> None:
    second_account = "AC" + "5" * 32

    async def add(secret: str, key_sid: str | None = None) -> None:
        await gateway.tenants.add_credential(
            tenant.id, account_sid=second_account, secret=secret, key_sid=key_sid, base_url=upstream.url
        )

    async def answer_after_addition(*connection: Any) -> None:
        await add("second", "SK" + "5" * 32)
        await LISTED(*connection)

    async with running_upstream(answer_after_addition, LISTED) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await add("first")
        results = await examine_by_check(settings(database_url))
    found = [result.found for result in results[f"account {second_account} of {tenant.id}"]]
    assert [text.partition(" (")[2] for text in found] == ["auth token)", "api key)"]


async def test_a_server_that_may_lose_commits_is_a_warning(state_dir: Path) -> None:
    with EmbeddedPostgres(state_dir) as postgres:

        async def durability() -> list[tuple[str, str]]:
            results = await examine_by_check(settings(postgres.url))
            return [(result.state, result.found) for result in results["durability"]]

        assert await durability() == [("ok", "commits are flushed (synchronous_commit is on)")]
        url = postgres.url.replace("+asyncpg", "")
        standby = await asyncpg.connect(url, server_settings={"replication": "true"})
        connection = await asyncpg.connect(url)
        for setting in ("synchronous_commit = local", "full_page_writes = off"):
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        full_page_writes, standbys, commit = await durability()
        assert full_page_writes[0] == "warning"
        assert "full_page_writes is off" in full_page_writes[1]
        assert standbys[0] == "warning"
        assert standbys[1].startswith("1 standbys, none of them synchronous")
        assert commit == ("ok", "synchronous_commit is local, which Callgate's sessions raise to on")
        standby.terminate()


async def test_a_server_that_does_not_flush_is_wrong(database_url: str) -> None:
    """Checks the Postgres server of the tests, which runs with fsync off. Skips the test if fsync is on."""
    database = Database(database_url, pool_size=1)
    flushes = (await database.read_postgres_server_info()).fsync
    await database.close()
    if flushes:
        pytest.skip("the test server flushes its writes")
    results = await examine_by_check(settings(database_url))
    assert results["durability"][0].state == "wrong"
    assert results["durability"][0].found.startswith("fsync is off")


async def test_a_missing_schema_is_wrong_and_later_checks_are_skipped(empty_database_url: str) -> None:
    results = await examine_by_check(settings(empty_database_url))
    assert (results["schema"][0].state, results["schema"][0].do) == ("wrong", "run `callgate migrate`")
    assert results["keys, accounts"][0].state == "not checked"


@pytest.mark.parametrize(("revision", "state"), [("0001", "wrong"), ("of the next version", "ok")])
async def test_an_older_schema_is_wrong_and_a_newer_one_is_ok(
    gateway: Gateway, database_url: str, revision: str, state: str
) -> None:
    async with gateway.database.begin() as session:
        now = await session.scalar(text("SELECT version_num FROM alembic_version"))
        await session.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
    results = await examine_by_check(settings(database_url, twilio_connect_timeout=0.2))
    async with gateway.database.begin() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": now})
    assert results["schema"][0].state == state


async def test_a_creation_pending_for_long_means_that_no_worker_runs(gateway: Gateway, database_url: str) -> None:
    async with running_upstream(answer(201, {"sid": "CA" + "9" * 32})) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create()
    async with gateway.database.begin() as session:
        await session.execute(
            text("UPDATE call SET execution = 'pending', sid = NULL, pending_since = now() - interval '1 hour'")
        )
    results = await examine_by_check(settings(database_url))
    assert (results["worker"][0].state, results["worker"][0].do) == ("wrong", "run `callgate worker`")


@pytest.mark.parametrize(
    ("url", "state"),
    [
        (None, "warning"),
        ("http://calls.example.com", "warning"),
        ("https://localhost", "wrong"),
        ("https://10.0.0.1", "wrong"),
        ("https://callgate", "wrong"),
        ("https://callgate.default.svc.cluster.local", "wrong"),
        ("https://calls.example.com/callbacks/twilio", "wrong"),
        ("https://calls.example.com/voice:8443", "ok"),
    ],
)
async def test_the_public_url_is_checked_by_its_form(url: str | None, state: str) -> None:
    results = await examine_by_check(settings_for(UNREACHABLE_DATABASE, public_url=url))
    assert results["public URL"][0].state == state


async def test_an_unreachable_database_is_wrong() -> None:
    results = await examine_by_check(settings(UNREACHABLE_DATABASE))
    assert results["database"][0].state == "wrong"
    assert "planted" not in str(results)


async def test_invalid_settings_are_wrong(tmp_path: Path) -> None:
    code, found = await asyncio.to_thread(run_doctor, tmp_path, "--json", CALLGATE_SECRET_KEYS="short")
    (result,) = json.loads(found)
    assert (code, result["state"], result["check"]) == (1, "wrong", "settings")
    assert "CALLGATE_SECRET_KEYS" in result["found"]


async def test_settings_that_serve_refuses_are_wrong(database_url: str) -> None:
    results = await examine_by_check(settings(database_url).model_copy(update={"max_in_flight": 1000, "max_connections": 1000}))
    assert [(result.state, "CALLGATE_MAX_CONNECTIONS is 1000" in result.found) for result in results["settings"][:1]] == [
        ("wrong", True)
    ]


async def test_a_token_is_read_from_standard_input_or_a_file(database_url: str, tmp_path: Path) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    file = tmp_path / "token"
    file.write_text("planted")
    for source, standard_input in (("-", "planted"), (str(file), "")):
        ran = run("doctor", "--token-file", source, "--json", environment=configured, standard_input=standard_input)
        assert "workload token" in {each["check"] for each in json.loads(ran.stdout)}, ran.stderr
        assert "planted" not in ran.stdout
    missing = failure("doctor", "--token-file", str(tmp_path / "none"), environment=configured)
    assert missing == (1, f"callgate: {tmp_path / 'none'}: cannot be read: No such file or directory")
