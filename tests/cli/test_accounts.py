"""Credentials are checked before they are stored. `accounts list` shows when each was created and last used."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.schema import migrate
from app.tenants.errors import InvalidValue
from tests.cli.running import ACCEPT_CTRL_C, CALLGATE, environment, run
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import SECRET_KEY, Gateway, running_gateway, settings_for
from tests.support.upstream import created, running_upstream


async def test_accounts_list_shows_when_each_credential_was_created_and_last_used(
    empty_database_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=empty_database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)

    async def listed(tenant: str) -> list[dict[str, Any]]:
        ran = await asyncio.to_thread(run, "accounts", "list", tenant, "--json", environment=configured)
        rows: list[dict[str, Any]] = json.loads(ran.stdout)
        return rows

    async with running_upstream(created()) as upstream, running_gateway(settings_for(empty_database_url)) as gateway:
        tenant = await gateway.add_tenant(upstream.url)
        second = await gateway.tenants.add_credential(
            tenant.id, account_sid=tenant.account_sid, secret="second", key_sid=None, base_url=None
        )
        assert [row["last_used_at"] for row in await listed(tenant.id)] == [None, None]
        assert (await tenant.create()).status_code == 201
    # A process writes the times once a minute and when it ends.
    rows = {row["credential"]: row for row in await listed(tenant.id)}
    unused = rows.pop(str(second.id))
    (used,) = rows.values()
    assert unused["last_used_at"] is None
    assert used["last_used_at"] >= used["created_at"]
    assert used["created_at"] <= unused["created_at"]


@pytest.mark.parametrize("secret", ["two words", "lines\nof text", "tökén", "x" * 257])
async def test_a_secret_that_the_api_refuses_is_not_stored(gateway: Gateway, secret: str) -> None:
    tenant = await gateway.add_tenant()
    for key_sid, pointer in ((None, "/auth_token"), ("SK" + "b" * 32, "/secret")):
        with pytest.raises(InvalidValue) as refused:
            await gateway.tenants.add_credential(
                tenant.id, account_sid="AC" + "b" * 32, secret=secret, key_sid=key_sid, base_url=None
            )
        assert (refused.value.pointer, refused.value.code) == (pointer, "invalid_secret")
        assert secret not in str(refused.value)
    assert [account.account_sid for account, _ in await gateway.tenants.list_accounts(tenant.id)] == [tenant.account_sid]


@pytest.mark.parametrize("command", ["add", "rotate"])
async def test_ctrl_c_ends_the_prompt_for_a_secret(gateway: Gateway, database_url: str, tmp_path: Path, command: str) -> None:
    tenant = await gateway.add_tenant()
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    account = (tenant.account_sid,) if command == "rotate" else ("--account-sid", tenant.account_sid)

    def interrupt() -> int:
        keyboard, terminal = os.openpty()
        asking = subprocess.Popen(
            [*ACCEPT_CTRL_C, "setsid", "--ctty", CALLGATE, "accounts", command, tenant.id, *account],
            env=configured, stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        try:
            shown = b""
            while b"Auth token of" not in shown:
                shown += os.read(keyboard, 1024)
            os.write(keyboard, b"\x03")
            return asking.wait(20)
        finally:
            asking.kill()
            os.close(keyboard)

    assert await asyncio.to_thread(interrupt) == 130


async def test_an_auth_token_that_only_verifies_callbacks_is_in_use(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    settings = settings_for(empty_database_url, public_url=PUBLIC_URL)
    async with running_upstream(created()) as upstream, running_gateway(settings) as first:
        tenant = await first.add_tenant(upstream.url)
        ((_, (token,)),) = await first.tenants.list_accounts(tenant.id)
        record = (await tenant.create()).json()
    async with running_gateway(settings) as gateway:
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM credential_use"))
        response = await call_back(gateway, tenant, record["id"], status_callback_fields(tenant, record, "completed", 3))
        assert response.status_code == 204
    async with running_gateway(settings) as gateway:
        ((_, (used,)),) = await gateway.tenants.list_accounts(tenant.id)
    assert token.last_used_at is None
    assert used.last_used_at is not None
