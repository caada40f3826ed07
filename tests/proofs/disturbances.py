"""Disturbances of Postgres and of Callgate's processes, one after another, in an order that the seed determines."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Self

import asyncpg

from app.local.postgres import EmbeddedPostgres
from tests.proofs.fleet import Fleet

_EXTRA_PAUSE_S = 0.3
Disturbance = Callable[[Fleet, random.Random], Awaitable[None]]


@asynccontextmanager
async def administrator(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    url = postgres.url.replace("+asyncpg", "")
    # This connection may write, in order to undo `make_read_only`.
    connection = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
    try:
        yield connection
    finally:
        connection.terminate()  # the server may be gone


async def acknowledge_before_flush(postgres: EmbeddedPostgres) -> None:
    """Sets `synchronous_commit = off` for the database. A crash then loses commits, unless Callgate's sessions override it."""
    async with administrator(postgres) as connection:
        await connection.execute("ALTER DATABASE callgate SET synchronous_commit = off")


class CreationNumbers:
    """Yields the numbers of a proof's creations, from 0. Several clients may iterate over the same object.

    After `creations` numbers, more follow slowly until the disturbances are done, so that none of them disturbs an idle system.
    """

    def __init__(self, creations: int, disturbances: asyncio.Task[None]) -> None:
        self.count = 0
        self._creations, self._disturbances, self._turn = creations, disturbances, asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        if self.count >= self._creations:
            async with self._turn:
                await asyncio.wait([self._disturbances], timeout=_EXTRA_PAUSE_S)
            if self._disturbances.done():
                raise StopAsyncIteration
        self.count += 1
        return self.count - 1


async def restart_postgres(fleet: Fleet, choice: random.Random) -> None:
    """Restarts Postgres with a fast shutdown, which terminates all sessions at once."""
    fleet.postgres.stop()
    await asyncio.sleep(0.5)
    fleet.postgres.start()


async def crash_postgres(fleet: Fleet, choice: random.Random) -> None:
    """Kills the postmaster and all its children with SIGKILL, so that the shared memory is lost."""
    async with administrator(fleet.postgres) as connection:
        postmaster = _parent(await connection.fetchval("SELECT pg_backend_pid()"))
        for pid in [postmaster, *_children(postmaster)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    fleet.postgres.stop()
    fleet.postgres.start()


async def cut_sessions(fleet: Fleet, choice: random.Random) -> None:
    """Terminates every session with pg_terminate_backend, several times."""
    async with administrator(fleet.postgres) as connection:
        for _ in range(6):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(choice.uniform(0.1, 0.6))


async def lock_row(fleet: Fleet, choice: random.Random) -> None:
    """Locks a record for some seconds in an idle transaction. Prefers a record whose outcome is pending."""
    async with administrator(fleet.postgres) as connection, connection.transaction():
        for _ in range(100):
            query = "SELECT id FROM call WHERE execution = 'pending' ORDER BY pending_since DESC LIMIT 1 FOR UPDATE SKIP LOCKED"
            if await connection.fetch(query):
                await asyncio.sleep(choice.uniform(3, 8))
                return
            await asyncio.sleep(0.02)
        await connection.fetch("SELECT id FROM call ORDER BY pending_since DESC LIMIT 1 FOR UPDATE")
        await asyncio.sleep(choice.uniform(3, 8))


async def make_read_only(fleet: Fleet, choice: random.Random) -> None:
    """Makes the database read-only for some seconds, as after a failover to a standby."""
    async with administrator(fleet.postgres) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        try:
            await connection.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(choice.uniform(2, 5))
        finally:
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")


async def freeze_api(fleet: Fleet, choice: random.Random) -> None:
    """Stops an API process with SIGSTOP for 2 to 9 s, and continues it. The budget of a request is 4 s."""
    process = fleet.processes[choice.choice(sorted(name for name in fleet.processes if name.startswith("api")))].running
    if process is None or process.returncode is not None:
        return
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(choice.uniform(2, 9))
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)


DISTURBANCES: dict[str, Disturbance] = {
    "restart": restart_postgres,
    "crash": crash_postgres,
    "cut sessions": cut_sessions,
    "row lock": lock_row,
    "read-only": make_read_only,
    "frozen": freeze_api,
}


@asynccontextmanager
async def disturbed(
    fleet: Fleet,
    seed: int,
    share_done: Callable[[], float],
    rounds: int,
    *,
    kinds: str = "",
    pause_s: tuple[float, float] = (0.5, 3.0),
    max_kills: float = inf,
) -> AsyncIterator[asyncio.Task[None]]:
    """Disturbs Postgres while the body runs. Kills processes whose names begin with `kinds` until the body ends.

    Yields the task of the disturbances. On leaving, waits until all of them are done. If a disturbance cannot be carried out,
    cancels the body, which would wait forever without Postgres.
    """
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(fleet.kill_at_random(seed, done, kinds=kinds, pause_s=pause_s, max_kills=max_kills))
        yield group.create_task(_disturb(fleet, seed, share_done, rounds))
        done.set()


async def _disturb(fleet: Fleet, seed: int, share_done: Callable[[], float], rounds: int) -> None:
    """Carries out each disturbance once a round, one at a time, at equal distances of `share_done` (0 to 1)."""
    choice = random.Random(f"disturbances/{seed}")
    order = [name for _ in range(rounds) for name in choice.sample(sorted(DISTURBANCES), len(DISTURBANCES))]
    for number, name in enumerate(order, 1):
        while share_done() < number / (len(order) + 1):
            await asyncio.sleep(0.05)
        await DISTURBANCES[name](fleet, random.Random(f"{seed}/{number}"))
        fleet.killed[name] += 1


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if _parent(int(folder.name)) == pid:
                    found.append(int(folder.name))
    return found


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat after the process name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
