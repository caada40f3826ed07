"""Writes that wait together are committed together, and nobody pays for another's fault or impatience."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from app.database.batcher import LOCKED, Batcher, Busy
from app.errors import DatabaseUnavailable


class Ledger:
    """A database of sorts: keeps the batches that it was given, and can be held up or made to refuse."""

    def __init__(self, *, refuses: Callable[[int], bool] = lambda _: False, fails: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self._refuses = refuses
        self._fails = fails

    async def write(self, items: Sequence[int]) -> list[str]:
        self.batches.append(list(items))
        await self.open.wait()
        if self._fails:
            raise self._fails
        if any(self._refuses(item) for item in items):
            raise ValueError(f"one of {list(items)}")
        return [f"wrote {item}" for item in items]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_a_lone_write_goes_at_once() -> None:
    ledger = Ledger()
    assert await Batcher(ledger.write).submit(1) == "wrote 1"
    assert ledger.batches == [[1]]


async def test_what_waits_while_a_batch_is_on_its_way_is_the_next_batch_and_each_gets_its_own_result() -> None:
    ledger = Ledger()
    group = Batcher(ledger.write, max_batch=3, slow_after_s=60)
    ledger.open.clear()
    first = asyncio.create_task(group.submit(0))
    await until(lambda: ledger.batches == [[0]])
    others = [asyncio.create_task(group.submit(number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    ledger.open.set()
    assert await asyncio.gather(first, *others) == [f"wrote {number}" for number in range(6)]
    assert ledger.batches == [[0], [1, 2, 3], [4, 5]]


async def test_a_bad_item_harms_nobody_but_its_own_waiter() -> None:
    ledger = Ledger(refuses=lambda item: item == 2)
    group = Batcher(ledger.write, slow_after_s=60)
    results = await asyncio.gather(*(group.submit(number) for number in range(4)), return_exceptions=True)
    assert [str(result) for result in results] == ["wrote 0", "wrote 1", "one of [2]", "wrote 3"]


async def test_a_database_that_is_away_is_not_asked_again_for_every_item() -> None:
    ledger = Ledger(fails=DatabaseUnavailable(after_s=2))
    group = Batcher(ledger.write, slow_after_s=60)
    results = await asyncio.gather(*(group.submit(number) for number in range(4)), return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) and result.after_s == 2 for result in results)
    assert len(ledger.batches) <= 2


async def test_a_waiter_that_goes_away_takes_no_wake_up_with_it() -> None:
    ledger = Ledger()
    group = Batcher(ledger.write, slow_after_s=60)
    ledger.open.clear()
    first = asyncio.create_task(group.submit(0))
    await until(lambda: ledger.batches == [[0]])
    leaving, staying = asyncio.create_task(group.submit(1)), asyncio.create_task(group.submit(2))
    await asyncio.sleep(0)
    leaving.cancel()
    first.cancel()
    ledger.open.set()
    assert await staying == "wrote 2"
    assert ledger.batches == [[0], [2]], "what nobody waits for any more is not begun"
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_no_item_is_stranded_whenever_it_comes() -> None:
    """Submissions at every point of a writer's life, its very end above all, where the obvious version loses one."""
    ledger = Ledger()
    group = Batcher(ledger.write, max_batch=2, slow_after_s=60)

    async def submit_after(turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await group.submit(turns)

    async with asyncio.timeout(10):
        for _ in range(20):
            results = await asyncio.gather(*(submit_after(turns) for turns in range(40)))
            assert results == [f"wrote {turns}" for turns in range(40)]


async def test_no_more_than_there_is_room_for_wait_and_the_others_wait_for_room() -> None:
    ledger = Ledger()
    group = Batcher(ledger.write, max_batch=100, max_queue=3, slow_after_s=60)
    ledger.open.clear()
    waiting = [asyncio.create_task(group.submit(number)) for number in range(9)]
    for _ in range(20):
        await asyncio.sleep(0)
    ledger.open.set()
    assert await asyncio.gather(*waiting) == [f"wrote {number}" for number in range(9)]
    assert max(len(batch) for batch in ledger.batches) <= 3
    assert sorted(number for batch in ledger.batches for number in batch) == list(range(9))


async def _one_batch(ledger: Ledger, group: Batcher[int, str], each: Callable[[int], None]) -> list[asyncio.Task[str]]:
    """Submissions that are one batch, on its way; `each` is called as its result arrives."""

    async def submit(number: int) -> str:
        result = await group.submit(number)
        each(number)
        return result

    ledger.open.clear()
    first = asyncio.create_task(submit(0))
    await until(lambda: ledger.batches == [[0]])
    others = [asyncio.create_task(submit(number)) for number in range(1, 17)]
    await asyncio.sleep(0)
    ledger.open.set()
    await first
    await until(lambda: len(ledger.batches) == 2)
    assert ledger.batches[1] == list(range(1, 17))
    return others


async def test_what_comes_while_a_batch_is_told_does_not_wait_for_all_of_it() -> None:
    ledger, told = Ledger(), list[int | str]()
    loop = asyncio.get_running_loop()

    def each(number: int) -> None:
        told.append(number)
        if number == 1:
            loop.call_soon(told.append, "something else")

    group = Batcher(ledger.write, slow_after_s=60)
    await asyncio.gather(*await _one_batch(ledger, group, each))
    assert [each for each in told if each != "something else"] == list(range(17))
    assert told.index("something else") < told.index(16)


async def test_what_is_committed_is_told_also_when_the_writer_is_cancelled_meanwhile() -> None:
    ledger = Ledger()
    group = Batcher(ledger.write, slow_after_s=60)

    def each(number: int) -> None:
        if number == 1:
            writers = [task for task in asyncio.all_tasks() if "_write_all" in repr(task.get_coro())]
            assert [writer.cancel() for writer in writers] == [True]

    async with asyncio.timeout(5):
        results = await asyncio.gather(*await _one_batch(ledger, group, each))
    assert results == [f"wrote {number}" for number in range(1, 17)]
    assert await group.submit(17) == "wrote 17"


class Rows:
    """Rows of a database, some of which another session has locked."""

    def __init__(self, *locked: int, waits: bool) -> None:
        self.locked = set(locked)
        self.batches: list[list[int]] = []
        self._waits = waits

    async def write(self, items: Sequence[int]) -> list[str | Busy]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        if self._waits and self.locked & set(items):
            error = DatabaseUnavailable(after_s=2)
            error.reason = "locked"
            raise error
        return [LOCKED if item in self.locked else f"wrote {item}" for item in items]


async def test_an_item_whose_row_is_locked_goes_into_a_later_batch_and_the_others_do_not_wait_for_it() -> None:
    rows = Rows(2, waits=False)
    group: Batcher[int, str] = Batcher(rows.write)
    stuck = asyncio.create_task(group.submit(2))
    async with asyncio.timeout(10):
        for number in (1, 3, 4):
            assert await group.submit(number) == f"wrote {number}"
        while len([batch for batch in rows.batches if 2 in batch]) < 3:
            await asyncio.sleep(0.01)
        assert not stuck.done()
        rows.locked.clear()
        assert await stuck == "wrote 2"


async def test_of_a_batch_that_ran_into_its_lock_timeout_only_the_item_that_waits_fails() -> None:
    rows = Rows(2, waits=True)
    group: Batcher[int, str] = Batcher(rows.write)
    results = await asyncio.gather(*(group.submit(number) for number in range(5)), return_exceptions=True)
    failed = results.pop(2)
    assert isinstance(failed, DatabaseUnavailable)
    assert failed.reason == "locked"
    assert results == ["wrote 0", "wrote 1", "wrote 3", "wrote 4"]


async def test_a_batch_that_takes_long_does_not_hold_up_the_next_ones_but_few_are_under_way_at_once() -> None:
    under_way, most, opened = 0, 0, asyncio.Event()

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if any(item < 0 for item in items):
            await opened.wait()
        under_way -= 1
        return list(items)

    group: Batcher[int, int] = Batcher(write, slow_after_s=0.01)
    hanging = [asyncio.create_task(group.submit(-1))]
    async with asyncio.timeout(10):
        await asyncio.sleep(0.05)
        assert await group.submit(1) == 1
        for _ in range(5):
            hanging.append(asyncio.create_task(group.submit(-1)))
            await asyncio.sleep(0.05)
        waiting = asyncio.create_task(group.submit(2))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        opened.set()
        assert await waiting == 2
        await asyncio.gather(*hanging)
        assert most == 4
        assert await asyncio.gather(*(group.submit(number) for number in range(20))) == list(range(20))
        assert most == 4
