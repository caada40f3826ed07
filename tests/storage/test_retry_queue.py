"""Writes that Postgres could not take: one task tries them again, and one stuck item holds up none."""

import asyncio
from collections import Counter
from collections.abc import Callable

import asyncpg

from app.database.retry_queue import RetryQueue
from app.errors import DatabaseUnavailable


class Ledger:
    def __init__(self, *, refuses: Callable[[int], Exception | None]) -> None:
        self.refuses = refuses
        self.tried: Counter[int] = Counter()
        self.written: list[int] = []

    async def write(self, item: int) -> None:
        self.tried[item] += 1
        if error := self.refuses(item):
            raise error
        self.written.append(item)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_waits_is_written_once_the_database_is_back_and_one_task_tries_for_all() -> None:
    ledger = Ledger(refuses=lambda _: DatabaseUnavailable())
    queue = RetryQueue(ledger.write, name="test", max_batch=4)
    before = len(asyncio.all_tasks())
    for number in range(10):
        queue.add(number)
    assert len(asyncio.all_tasks()) == before + 1
    await until(lambda: len(ledger.tried) == 8)
    assert set(ledger.tried.values()) == {1}, "each pause is for all of them"
    ledger.refuses = lambda _: None
    await until(lambda: len(queue) == 0)
    assert sorted(ledger.written) == list(range(10))


async def test_a_stuck_item_holds_up_none() -> None:
    ledger = Ledger(refuses=lambda item: DatabaseUnavailable() if item < 2 else None)
    queue = RetryQueue(ledger.write, name="test", max_batch=2)
    for number in range(6):
        queue.add(number)
    await until(lambda: sorted(ledger.written) == [2, 3, 4, 5])
    await queue.close()
    assert len(queue) == 2


async def test_whatever_else_goes_wrong_may_be_over_at_the_next_try() -> None:
    ledger = Ledger(refuses=lambda item: ValueError("planted") if item == 1 else None)
    queue = RetryQueue(ledger.write, name="test", max_batch=4)
    queue.add(1)
    await until(lambda: ledger.tried[1] == 1)
    ledger.refuses = lambda _: None
    await until(lambda: ledger.written == [1])


async def test_what_a_constraint_refuses_is_not_tried_again() -> None:
    ledger = Ledger(refuses=lambda item: asyncpg.UniqueViolationError("planted") if item == 1 else None)
    queue = RetryQueue(ledger.write, name="test", max_batch=4)
    for number in range(3):
        queue.add(number)
    await until(lambda: ledger.written == [0, 2])
    assert (len(queue), ledger.tried[1]) == (0, 1)


async def test_closing_tries_once_more_and_at_once() -> None:
    ledger = Ledger(refuses=lambda item: DatabaseUnavailable() if item == 1 else None)
    queue = RetryQueue(ledger.write, name="test", max_batch=4)
    queue.add(0)
    queue.add(1)
    await queue.close()
    assert (ledger.written, len(queue)) == ([0], 1)
    assert ledger.tried[1] <= 2


async def test_a_full_queue_gives_up_the_oldest() -> None:
    ledger = Ledger(refuses=lambda _: None)
    queue = RetryQueue(ledger.write, name="test", max_batch=4, limit=2)
    for number in range(3):
        queue.add(number)
    await queue.close()
    assert ledger.written == [1, 2]
