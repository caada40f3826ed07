"""Every session has durable commits and timeouts, and changes no settings of a pooler's connections."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import make_url, text

from app.database.connection import MIGRATION_SETTINGS, SESSION_SETTINGS, STATEMENT_POOL_SETTINGS, Connector
from app.database.engine import Database, make_engine
from app.errors import DatabaseUnavailable
from tests.support.pooler import behind_a_pooler

_TIMEOUTS = "idle_in_transaction_session_timeout, lock_timeout, statement_timeout"


def _asyncpg_url(url: str) -> str:
    return url.replace("+asyncpg", "")


@asynccontextmanager
async def _database_with_setting(url: str, setting: str, value: str) -> AsyncIterator[Database]:
    name = make_url(url).database
    connection = await asyncpg.connect(_asyncpg_url(url))
    await connection.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    database = Database(url, pool_size=2)
    try:
        yield database
    finally:
        await database.close()
        await connection.execute(f"ALTER DATABASE {name} RESET {setting}")
        await connection.close()


@pytest.fixture(params=["direct", "pooled"])
async def url(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[str]:
    if request.param == "direct":
        yield database_url
        return
    async with behind_a_pooler(database_url) as pooled:
        yield pooled


SYNCHRONOUS_COMMITS = [
    ("off", "on"),
    ("local", "on"),
    ("remote_write", "remote_write"),
    ("on", "on"),
    ("remote_apply", "remote_apply"),
]


@pytest.mark.parametrize(("configured", "expected"), SYNCHRONOUS_COMMITS)
async def test_a_commit_is_flushed_however_the_database_is_configured(url: str, configured: str, expected: str) -> None:
    async with _database_with_setting(url, "synchronous_commit", configured) as database:
        (row,) = await database.fetch("SELECT current_setting('synchronous_commit') AS it")
        assert row["it"] == expected
        async with database.begin() as session:
            assert await session.scalar(text("SHOW synchronous_commit")) == expected
        # The migrations' connection.
        engine = make_engine(url, pool_size=1, session_settings=MIGRATION_SETTINGS, statement_timeout_s=None)
        async with engine.begin() as connection:
            assert await connection.scalar(text("SHOW synchronous_commit")) == expected
        await engine.dispose()


async def test_every_transaction_has_timeouts(url: str) -> None:
    database = Database(url, pool_size=1)
    shown = ", ".join(f"current_setting('{name.strip()}')" for name in _TIMEOUTS.split(","))
    (row,) = await database.fetch(f"SELECT {shown}, current_setting('enable_seqscan')")
    assert tuple(row) == ("10s", "2s", "14s", "off")
    async with database.begin() as session:
        assert tuple((await session.execute(text(f"SELECT {shown}"))).one()) == ("10s", "5s", "14s")
    await database.close()


async def test_settings_do_not_stay_on_a_poolers_connection(database_url: str) -> None:
    async with behind_a_pooler(database_url) as url:
        for settings in (SESSION_SETTINGS, STATEMENT_POOL_SETTINGS, MIGRATION_SETTINGS):
            connection = await Connector(url, settings, statement_timeout_s=5).connect()
            assert connection.is_pooled
            async with connection.transaction():
                await connection.fetch("SELECT 1")
            left = await connection.fetch(
                "SELECT name FROM pg_settings WHERE source = 'session' AND name NOT IN ('application_name', 'TimeZone')"
            )
            assert left == []
            await connection.close()


async def test_a_direct_session_keeps_its_settings_after_a_reload(database_url: str) -> None:
    connection = await Connector(database_url, STATEMENT_POOL_SETTINGS, statement_timeout_s=5).connect()
    assert not connection.is_pooled
    kept = await connection.fetch("SELECT name FROM pg_settings WHERE source = 'session'")
    assert {"synchronous_commit", *STATEMENT_POOL_SETTINGS} <= {row["name"] for row in kept}
    await connection.close()


async def test_both_ends_of_a_connection_detect_an_unreachable_peer(database_url: str) -> None:
    connection = await Connector(database_url, SESSION_SETTINGS, statement_timeout_s=5).connect()
    ours = connection._transport.get_extra_info("socket")
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
    shown = await connection.fetchrow("SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_user_timeout')")
    assert tuple(shown) == ("10", "10000")
    await connection.close()


@pytest.mark.parametrize(
    ("members", "shown", "value"),
    [
        ("connect_timeout=10&gssencmode=disable&sslmode=disable&channel_binding=disable", "application_name", "callgate"),
        ("application_name=us", "application_name", "us"),
        ("options=-c%20work_mem%3D8MB", "work_mem", "8MB"),
        ("options=-c%20synchronous_commit%3Doff", "synchronous_commit", "on"),
        ("target_session_attrs=read-write", "TimeZone", "UTC"),
        ("prepared_statement_cache_size=0", "application_name", "callgate"),
        ("keepalives_idle=30&tcp_user_timeout=0\n", "application_name", "callgate"),
    ],
)
async def test_parameters_of_the_url_apply_to_every_kind_of_statement(
    database_url: str, members: str, shown: str, value: str
) -> None:
    database = Database(f"{database_url}?{members}", pool_size=1)
    (row,) = await database.fetch(f"SELECT current_setting('{shown}') AS it")
    assert row["it"] == value
    async with database.begin() as session:
        assert await session.scalar(text(f"SHOW {shown}")) == value
    await database.close()


async def test_an_idle_transaction_is_ended(database_url: str) -> None:
    database = Database(database_url, pool_size=1)

    async def leave_idle() -> None:
        async with database.begin() as session:
            await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
            await asyncio.sleep(0.5)
            await session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable) as ended:
        await leave_idle()
    assert ended.value.reason == "connection_lost"
    await database.ping()
    await database.close()


async def test_a_connection_to_a_read_only_server_leaves_the_pool(database_url: str) -> None:
    """Connections to the old primary stay read-only after a failover."""
    database = Database(database_url, pool_size=1)

    async def write() -> None:
        async with database.begin() as session:
            await session.execute(text("CREATE TABLE IF NOT EXISTS taken (id int)"))

    await write()
    async with database.begin() as session:
        await session.execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(DatabaseUnavailable) as refused:
        await write()
    assert (refused.value.reason, refused.value.commit_in_doubt) == ("read_only", False)
    await write()
    await database.close()


async def test_connections_lost_while_idle_cause_no_error(database_url: str) -> None:
    database = Database(database_url, pool_size=2)
    async with database.begin() as one, database.begin() as other:
        pids = [await session.scalar(text("SELECT pg_backend_pid()")) for session in (one, other)]
    admin = await asyncpg.connect(_asyncpg_url(database_url))
    for pid in pids:
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    await admin.close()
    await asyncio.sleep(0.1)
    async with database.begin() as one, database.begin() as other:
        assert {await session.scalar(text("SELECT pg_backend_pid()")) for session in (one, other)}.isdisjoint(pids)
    await database.close()


async def test_the_first_suitable_host_is_used_and_tried_first_from_then_on(database_url: str) -> None:
    url = make_url(database_url)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{url.host}:{url.port}"
        several = f"postgresql://{url.username}:{url.password}@{hosts}/{url.database}?connect_timeout=3&target_session_attrs="
        connector = Connector(several + "read-write", SESSION_SETTINGS, statement_timeout_s=5)
        await (await connector.connect()).close()
        silent.accept()[0].close()
        await (await connector.connect()).close()
        with pytest.raises(BlockingIOError):
            silent.accept()
        silent.close()  # so that the next connections are refused at once
        with pytest.raises(DatabaseUnavailable) as none:
            await Connector(several + "standby", SESSION_SETTINGS, statement_timeout_s=5).connect()
        assert (none.value.reason, none.value.commit_in_doubt) == ("no_suitable_server", False)
        await (await Connector(several + "prefer-standby", SESSION_SETTINGS, statement_timeout_s=5).connect()).close()
