"""/readyz succeeds if Postgres answers and the schema fits the code."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import make_url, text

from app import __version__
from app.audit.events import command_actor
from app.database.engine import Database
from app.http.health import probe_app
from app.observability import Metrics
from app.revisions import known_revisions, newest_revision
from app.schema import alembic_config, migrate
from app.security.keyring import Keyring
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from tests.support.clients import http_client
from tests.support.gateway import SECRET_KEY, running_app, running_gateway, settings_for
from tests.support.tcp import silent_first_host
from tests.support.upstream import hang, running_upstream

NOT_MIGRATED = {"status": "unavailable", "database": "not_migrated"}


def unavailable(reason: str) -> dict[str, str]:
    return {"status": "unavailable", "database": "unavailable", "reason": reason}


async def becomes(url: str, status: int, expected: dict[str, str]) -> None:
    """Waits until /readyz answers with this status and these members.

    One answer is not enough, because on a busy machine even a healthy Postgres can exceed its timeout.
    """
    async with http_client(base_url=url) as http, asyncio.timeout(60):
        while True:
            answer = await http.get("/readyz")
            health = answer.json()
            if (answer.status_code, health.pop("version")) == (status, __version__) and expected.items() <= health.items():
                return
            await asyncio.sleep(0.05)


async def test_a_process_is_ready_once_its_migrations_have_run(empty_database_url: str) -> None:
    async with running_gateway(settings_for(empty_database_url)) as gateway:
        await becomes(gateway.url, 503, NOT_MIGRATED)
        first = next(revision for revision, before in known_revisions().items() if before is None)
        await asyncio.to_thread(migrate, empty_database_url, revision=first)
        await becomes(gateway.url, 503, NOT_MIGRATED)
        await asyncio.to_thread(migrate, empty_database_url)
        await becomes(gateway.url, 200, {"status": "ok", "database": "ok", "schema_revision": newest_revision()})
        # A process that was ready stays ready, whatever happens to the schema.
        await asyncio.to_thread(command.downgrade, alembic_config(empty_database_url), first)
        await becomes(gateway.url, 200, {"status": "degraded", "database": "not_migrated"})


async def test_a_schema_newer_than_the_process_is_ready(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    database = Database(empty_database_url, pool_size=1)
    async with database.begin() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'of the next version'"))
    await database.close()
    async with running_gateway(settings_for(empty_database_url)) as gateway:
        await becomes(gateway.url, 200, {"status": "ok", "database": "ok", "schema_revision": "of the next version"})


WRONG_KEY = b64encode(bytes(32)).decode()
KEYS_WRONG = {"status": "unavailable", "database": "ok", "reason": "secret_keys_wrong"}


@pytest.mark.parametrize("stored", ["credential", "API key", "callback secret"])
async def test_a_process_whose_keys_open_no_stored_secret_is_not_ready(empty_database_url: str, stored: str) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    wrong = settings_for(empty_database_url, secret_keys=WRONG_KEY)
    async with running_gateway(wrong) as gateway:
        await becomes(gateway.url, 200, {"status": "ok"})  # no secret is stored yet
    await _store(empty_database_url, stored)
    async with running_gateway(wrong) as gateway:
        await becomes(gateway.url, 503, KEYS_WRONG)
    async with running_gateway(settings_for(empty_database_url, secret_keys=f"{WRONG_KEY},{SECRET_KEY}")) as gateway:
        await becomes(gateway.url, 200, {"status": "ok"})


async def _store(database_url: str, what: str) -> None:
    database, keyring = Database(database_url, pool_size=1), Keyring([b64decode(SECRET_KEY)])
    administration = TenantAdministration(database, keyring, command_actor())
    await administration.create_tenant("acme", name="Acme")
    if what == "credential":
        await administration.add_credential("acme", account_sid="AC" + "0" * 32, secret="x", key_sid=None, base_url=None)
    elif what == "API key":
        await administration.create_key("acme", name=None, creator=COMMAND_LINE_CALLER)
    else:
        await administration.renew_callback_secret("acme")
    await database.close()


async def test_a_postgres_that_does_not_answer_is_reported_before_a_probe_times_out() -> None:
    # The upstream waits for the end of an HTTP head, which a Postgres client never sends.
    async with running_upstream(hang) as silent:
        url = silent.url.replace("http://", "postgresql://callgate@")
        async with running_gateway(settings_for(f"{url}/callgate")) as gateway:
            await becomes(gateway.url, 503, unavailable("timeout"))


async def test_a_process_becomes_ready_if_only_the_first_database_host_does_not_answer(database_url: str) -> None:
    with silent_first_host(database_url) as url:
        # The probes of a worker: no other task of theirs connects to the second host.
        async with running_app(probe_app(settings_for(url), Metrics())) as probes:
            await becomes(probes, 503, unavailable("timeout"))
            await becomes(probes, 200, {"status": "ok"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "planted"}, "authentication"),
        ({"database": "planted"}, "no_such_database"),
        ({"host": "nowhere.invalid"}, "unreachable"),
        ({"query": {"sslmode": "require"}}, "tls"),
        ({"query": {"options": "-cplanted=1"}}, "configuration"),
    ],
)
async def test_the_reason_of_an_unavailable_database_is_reported(
    database_url: str, changes: dict[str, Any], reason: str
) -> None:
    url = make_url(database_url).set(**changes).render_as_string(hide_password=False)
    async with running_gateway(settings_for(url)) as gateway:
        await becomes(gateway.url, 503, unavailable(reason))
        async with http_client(base_url=gateway.url) as http:
            answer = await http.get("/v1/calls", headers={"Authorization": "Bearer cgk_0123456789abcdef_0123456789abcdef"})
        assert answer.status_code in (401, 503)
        assert "planted" not in answer.text


async def test_a_role_without_permissions_is_reported_apart_from_a_missing_schema(database_url: str) -> None:
    role = f"stranger_{make_url(database_url).database}"
    async with _role(database_url, role) as url, running_gateway(settings_for(url)) as gateway:
        await becomes(gateway.url, 503, unavailable("no_permission"))


@asynccontextmanager
async def _role(database_url: str, name: str) -> AsyncIterator[str]:
    """Creates a database role without permissions and yields the URL with this role. Drops the role at the end."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'planted'")
    try:
        yield make_url(database_url).set(username=name, password="planted").render_as_string(hide_password=False)
    finally:
        await connection.execute(f"DROP ROLE {name}")
        await connection.close()


def test_the_revisions_equal_those_that_alembic_reads() -> None:
    directory = ScriptDirectory.from_config(alembic_config("postgresql+asyncpg://nowhere/x"))
    assert newest_revision() == directory.get_current_head()
    assert known_revisions() == {script.revision: script.down_revision for script in directory.walk_revisions()}
