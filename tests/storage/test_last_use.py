"""An error while the last use of credentials is stored does not end the recorder."""

import asyncio
from collections.abc import Collection

from sqlalchemy import text

from app.database.engine import Database, Session
from app.tenants.last_use import LastUseRecorder


async def test_uses_are_stored_after_an_unexpected_error(database_url: str) -> None:
    database, stored = Database(database_url, pool_size=1), asyncio.Event()
    attempts: list[set[str]] = []

    async def write(session: Session, used: Collection[str]) -> None:
        attempts.append(set(used))
        await session.execute(text("SELECT 1 / 0" if len(attempts) == 1 else "SELECT 1"))
        if len(attempts) == 2:
            stored.set()

    recorder = LastUseRecorder(database, write, interval_s=0.01)
    async with recorder.flushing_in_background(), asyncio.timeout(60):
        recorder.mark_used("a credential")
        await stored.wait()
    # The end of the block may interrupt the second attempt, which is then repeated.
    assert attempts[:2] == [{"a credential"}] * 2
    await database.close()


async def test_uses_are_stored_if_the_block_ends_while_they_are_being_stored(database_url: str) -> None:
    database, is_writing = Database(database_url, pool_size=1), asyncio.Event()
    attempts: list[set[str]] = []

    async def write(_: Session, used: Collection[str]) -> None:
        attempts.append(set(used))
        if len(attempts) == 1:
            is_writing.set()
            await asyncio.Event().wait()

    recorder = LastUseRecorder(database, write, interval_s=0.01)
    async with asyncio.timeout(60), recorder.flushing_in_background():
        recorder.mark_used("a credential")
        await is_writing.wait()
    assert attempts == [{"a credential"}] * 2
    await database.close()
