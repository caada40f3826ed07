"""`callgate keys` creates and lists API keys with scopes, both for tenants and for operators."""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.schema import migrate
from app.tenants.caller import COMMAND_LINE_CALLER
from tests.cli.running import environment, failure, failure_to_print, run, run_with_closed_output
from tests.support.gateway import SECRET_KEY, Gateway, running_gateway, settings_for


def configured(tmp_path: Path, database_url: str) -> dict[str, str]:
    return environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)


def ran(*arguments: str, settings: dict[str, str]) -> Any:
    finished = run(*arguments, "--json", environment=settings)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_a_tenants_key_has_the_given_scopes_or_call_and_read(empty_database_url: str, tmp_path: Path) -> None:
    settings = configured(tmp_path, empty_database_url)
    run("migrate", environment=settings)
    ran("tenants", "create", "acme", "--name", "Acme", settings=settings)
    assert ran("keys", "create", "acme", settings=settings)["scopes"] == ["call", "read"]
    chosen = ran("keys", "create", "acme", "--scope", "admin", "--scope", "read", settings=settings)
    assert chosen["scopes"] == ["read", "admin"]
    operators = ran("keys", "create", "--operator", "--name", "fleet", settings=settings)
    assert (operators["tenant"], operators["scopes"]) == (None, ["call", "read", "admin"])
    viewer = ran("keys", "create", "--operator", "--scope", "read", settings=settings)
    assert viewer["scopes"] == ["read"]

    listed = ran("keys", "list", "acme", settings=settings)
    assert [(row["tenant"], row["scopes"]) for row in listed] == [("acme", ["call", "read"]), ("acme", ["read", "admin"])]
    of_operators = ran("keys", "list", "--operator", settings=settings)
    assert [(row["id"], row["tenant"], row["scopes"]) for row in of_operators] == [
        (operators["id"], None, ["call", "read", "admin"]),
        (viewer["id"], None, ["read"]),
    ]
    table = run("keys", "list", "acme", environment=settings).stdout
    assert "SCOPES" in table
    assert "read,admin" in table
    assert ran("keys", "revoke", operators["id"], settings=settings)["state"] == "revoked"
    code, message = failure("keys", "create", "nobody", environment=settings)
    assert (code, message) == (1, "callgate: there is no tenant nobody: see `callgate tenants list`")


async def test_a_result_that_cannot_be_printed(gateway: Gateway, database_url: str, tmp_path: Path) -> None:
    tenant, settings = await gateway.add_tenant(), configured(tmp_path, database_url)
    code, message = failure_to_print("keys", "create", tenant.id, environment=settings)
    created = ran("keys", "list", tenant.id, settings=settings)[-1]["id"]
    advice = f"revoke it with `callgate keys revoke {created}`"
    assert (code, message) == (1, f"callgate: the key {created} was created, but could not be printed: {advice}\n")
    code, message = failure_to_print("tenants", "callback-secret", tenant.id, environment=settings)
    assert (code, message) == (3, "callgate: there is a new secret, but it could not be printed: run the command again\n")
    code, message = failure_to_print("tenants", "list", environment=settings)
    assert (code, message) == (1, "callgate: the output or a file could not be written: No space left on device\n")


async def test_no_secret_is_created_without_a_standard_output(gateway: Gateway, database_url: str, tmp_path: Path) -> None:
    tenant, settings = await gateway.add_tenant(), configured(tmp_path, database_url)
    before = run("audit", "--json", environment=settings).stdout
    for command in (("keys", "create", tenant.id), ("tenants", "callback-secret", tenant.id), ("console", "link")):
        code, message = run_with_closed_output(*command, environment=settings)
        reason = "standard output is closed, so the secret could not be printed"
        assert (code, message) == (1, f"callgate: {reason}: nothing was changed\n")
    assert run("audit", "--json", environment=settings).stdout == before


def test_an_argument_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    refused = run("keys", "list", "acm\udce9", environment=environment(tmp_path))
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (2, "Error: Invalid value: an argument is not UTF-8")


async def test_a_key_of_the_version_before_may_call_and_read(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    insert = """INSERT INTO api_key (id, tenant_id, prefix, keyed_hash)
        VALUES (gen_random_uuid(), $1, $2, '') RETURNING scopes"""
    async with gateway.tenants.database.transaction() as connection:
        row = await connection.fetchrow(insert, tenant.id, f"cgk_{tenant.id}")
    assert row["scopes"] == ["call", "read"]


@pytest.mark.parametrize("scopes", [[], ["write"], ["call", "everything"]])
async def test_the_database_accepts_known_scopes_only(gateway: Gateway, scopes: list[str]) -> None:
    tenant = await gateway.add_tenant()
    change = "UPDATE api_key SET scopes = $2 WHERE tenant_id = $1"
    with pytest.raises(asyncpg.CheckViolationError):
        async with gateway.tenants.database.transaction() as connection:
            await connection.execute(change, tenant.id, scopes)


async def test_keys_list_shows_when_each_key_was_last_used(empty_database_url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    settings = configured(tmp_path, empty_database_url)
    async with running_gateway(settings_for(empty_database_url)) as gateway:
        tenant = await gateway.add_tenant()
        unused, _ = await gateway.tenants.create_key(tenant.id, name="unused", creator=COMMAND_LINE_CALLER)
        wrong = tenant.key[:-4] + "AAAA"
        refused, wrong_key = await gateway.tenants.create_key(tenant.id, name="wrong", creator=COMMAND_LINE_CALLER)
        for key, status in ((tenant.key, 404), (wrong, 401), (wrong_key[:-4] + "AAAA", 401)):
            response = await tenant.http.get("/v1/calls/none", headers={"Authorization": f"Bearer {key}"})
            assert response.status_code == status
        before = await asyncio.to_thread(ran, "keys", "list", tenant.id, settings=settings)
        assert [row["last_used_at"] for row in before] == [None, None, None]
    # A process writes the times once a minute and when it ends.
    rows = {row["id"]: row for row in await asyncio.to_thread(ran, "keys", "list", tenant.id, settings=settings)}
    assert rows.pop(unused.prefix)["last_used_at"] is None
    assert rows.pop(refused.prefix)["last_used_at"] is None
    (used,) = rows.values()
    assert used["last_used_at"] >= used["created_at"]
