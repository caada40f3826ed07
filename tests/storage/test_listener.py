"""The listener receives notifications with every kind of URL, and reconnects after every error."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from sqlalchemy import make_url

from app.database.listener import Listener
from tests.support.pooler import behind_a_pooler
from tests.support.upstream import refused_url

CHANNEL = "planted"


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def _notify(database_url: str) -> None:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    await connection.execute(f"NOTIFY {CHANNEL}")
    await connection.close()


@pytest.mark.parametrize("members", ["", "ssl=disable", "prepared_statement_cache_size=0", "target_session_attrs=read-write"])
async def test_notifications_arrive_with_every_kind_of_url(database_url: str, members: str) -> None:
    notifications = 0

    def on_change() -> None:
        nonlocal notifications
        notifications += 1

    listener = Listener(f"{database_url}?{members}", channel=CHANNEL, on_change=on_change)
    async with listener.listening_in_background():
        await wait_until(lambda: listener.connected)
        before = notifications
        await _notify(database_url)
        await wait_until(lambda: notifications == before + 1)


@pytest.mark.parametrize(
    "changes",
    [{"query": {"target_session_attrs": "standby"}}, {"port": int(refused_url().rpartition(":")[2])}, {"password": "x"}],
)
async def test_the_listener_reconnects_after_any_error(
    database_url: str, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_url(database_url).set(**changes)  # type: ignore[arg-type]  # one parameter set, of several types
    listener = Listener(url.render_as_string(hide_password=False), channel=CHANNEL, on_change=lambda: None)
    output = ""
    async with listener.listening_in_background(), asyncio.timeout(60):
        while output.count("listener_lost") < 2:
            await asyncio.sleep(0.05)
            output += capsys.readouterr().out
    assert not listener.connected


async def test_the_listener_reconnects_after_a_lost_connection(database_url: str) -> None:
    listener = Listener(database_url, channel=CHANNEL, on_change=lambda: None)
    async with listener.listening_in_background():
        await wait_until(lambda: listener.connected)
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'callgate'"
        )
        await connection.close()
        await wait_until(lambda: not listener.connected)
        await wait_until(lambda: listener.connected)


async def test_the_listener_is_never_connected_behind_a_pooler(database_url: str) -> None:
    changed = asyncio.Event()
    async with behind_a_pooler(database_url) as url:
        listener = Listener(url, channel=CHANNEL, on_change=changed.set)
        async with listener.listening_in_background():
            await asyncio.sleep(1)
            assert not listener.connected
