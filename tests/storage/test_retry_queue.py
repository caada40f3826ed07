"""Failed writes are retried by one task, and a failing item does not delay the others."""

import asyncio
from collections import Counter
from collections.abc import Callable

import asyncpg

from app.database.retry_queue import RetryQueue
from app.errors import DatabaseUnavailable


class RecordingWriter:
    def __init__(self, *, refuses: Callable[[int], Exception | None]) -> None:
        self.refuses = refuses
        self.tried: Counter[int] = Counter()
        self.written: list[int] = []

    async def write(self, item: int) -> None:
        self.tried[item] += 1
        if error := self.refuses(item):
            raise error
        self.written.append(item)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_waiting_items_are_written_when_the_database_is_back_by_one_task() -> None:
    writer = RecordingWriter(refuses=lambda _: DatabaseUnavailable())
    queue = RetryQueue(writer.write, name="test", max_batch=4)
    before = len(asyncio.all_tasks())
    for number in range(10):
        queue.add(number)
    assert len(asyncio.all_tasks()) == before + 1
    await wait_until(lambda: len(writer.tried) == 8)
    assert set(writer.tried.values()) == {1}, "each pause is for all of them"
    writer.refuses = lambda _: None
    await wait_until(lambda: len(queue) == 0)
    assert sorted(writer.written) == list(range(10))


async def test_a_failing_item_does_not_delay_others() -> None:
    writer = RecordingWriter(refuses=lambda item: DatabaseUnavailable() if item < 2 else None)
    queue = RetryQueue(writer.write, name="test", max_batch=2)
    for number in range(6):
        queue.add(number)
    await wait_until(lambda: sorted(writer.written) == [2, 3, 4, 5])
    await queue.close()
    assert len(queue) == 2


async def test_an_unexpected_error_is_retried() -> None:
    writer = RecordingWriter(refuses=lambda item: ValueError("planted") if item == 1 else None)
    queue = RetryQueue(writer.write, name="test", max_batch=4)
    queue.add(1)
    await wait_until(lambda: writer.tried[1] == 1)
    writer.refuses = lambda _: None
    await wait_until(lambda: writer.written == [1])


async def test_a_constraint_violation_is_not_retried() -> None:
    writer = RecordingWriter(refuses=lambda item: asyncpg.UniqueViolationError("planted") if item == 1 else None)
    queue = RetryQueue(writer.write, name="test", max_batch=4)
    for number in range(3):
        queue.add(number)
    await wait_until(lambda: writer.written == [0, 2])
    assert (len(queue), writer.tried[1]) == (0, 1)


async def test_closing_retries_once_immediately() -> None:
    writer = RecordingWriter(refuses=lambda item: DatabaseUnavailable() if item == 1 else None)
    queue = RetryQueue(writer.write, name="test", max_batch=4)
    queue.add(0)
    queue.add(1)
    await queue.close()
    assert (writer.written, len(queue)) == ([0], 1)
    assert writer.tried[1] <= 2


async def test_a_full_queue_discards_the_oldest_item() -> None:
    writer = RecordingWriter(refuses=lambda _: None)
    queue = RetryQueue(writer.write, name="test", max_batch=4, max_items=2)
    for number in range(3):
        queue.add(number)
    await queue.close()
    assert writer.written == [1, 2]
