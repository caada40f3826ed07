"""Concurrent writes share a commit. An error or a cancellation affects only its own item."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from app.database.batcher import LOCKED, Batcher, RowLocked
from app.errors import DatabaseUnavailable


class RecordingWriter:
    """Records the batches that it gets. It can block and fail."""

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


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_a_single_write_is_sent_at_once() -> None:
    writer = RecordingWriter()
    assert await Batcher(writer.write).submit(1) == "wrote 1"
    assert writer.batches == [[1]]


async def test_items_that_wait_for_a_batch_form_the_next_one_and_get_their_own_results() -> None:
    writer = RecordingWriter()
    batcher = Batcher(writer.write, max_batch=3, slow_after_s=60)
    writer.open.clear()
    first = asyncio.create_task(batcher.submit(0))
    await wait_until(lambda: writer.batches == [[0]])
    others = [asyncio.create_task(batcher.submit(number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    writer.open.set()
    assert await asyncio.gather(first, *others) == [f"wrote {number}" for number in range(6)]
    assert writer.batches == [[0], [1, 2, 3], [4, 5]]


async def test_a_batch_that_gathers_begins_when_it_has_enough_items() -> None:
    writer = RecordingWriter()
    batcher = Batcher(writer.write, gather_s=3600, gather_max_items=3)
    submissions = [asyncio.create_task(batcher.submit(number)) for number in range(2)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert writer.batches == []
    submissions.append(asyncio.create_task(batcher.submit(2)))
    assert await asyncio.gather(*submissions) == ["wrote 0", "wrote 1", "wrote 2"]
    assert writer.batches == [[0, 1, 2]]


async def test_a_batch_gathers_no_longer_than_it_may() -> None:
    writer = RecordingWriter()
    batcher = Batcher(writer.write, gather_s=0.01, gather_max_items=3)
    assert await batcher.submit(0) == "wrote 0"
    assert [*await asyncio.gather(batcher.submit(1), batcher.submit(2))] == ["wrote 1", "wrote 2"]
    assert writer.batches == [[0], [1, 2]]


async def test_a_bad_item_fails_only_its_own_submission() -> None:
    writer = RecordingWriter(refuses=lambda item: item == 2)
    batcher = Batcher(writer.write, slow_after_s=60)
    results = await asyncio.gather(*(batcher.submit(number) for number in range(4)), return_exceptions=True)
    assert [str(result) for result in results] == ["wrote 0", "wrote 1", "one of [2]", "wrote 3"]


async def test_a_bad_item_is_found_with_few_writes() -> None:
    writer = RecordingWriter(refuses=lambda item: item == 10)
    batcher = Batcher(writer.write, slow_after_s=60, gather_s=3600, gather_max_items=16)
    results = await asyncio.gather(*(batcher.submit(number) for number in range(16)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, ValueError)] == [10]
    assert [len(batch) for batch in writer.batches] == [16, 8, 8, 4, 2, 2, 1, 1, 4]


async def test_items_are_not_written_again_while_the_database_is_unavailable() -> None:
    writer = RecordingWriter(fails=DatabaseUnavailable(retry_after_s=2))
    batcher = Batcher(writer.write, slow_after_s=60)
    results = await asyncio.gather(*(batcher.submit(number) for number in range(4)), return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) and result.retry_after_s == 2 for result in results)
    assert len(writer.batches) <= 2


async def test_a_cancelled_submission_loses_no_wake_up() -> None:
    writer = RecordingWriter()
    batcher = Batcher(writer.write, slow_after_s=60)
    writer.open.clear()
    first = asyncio.create_task(batcher.submit(0))
    await wait_until(lambda: writer.batches == [[0]])
    cancelled, other = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    first.cancel()
    writer.open.set()
    assert await other == "wrote 2"
    assert writer.batches == [[0], [2]], "a cancelled item that has not begun is not written"
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_no_item_is_lost_whenever_it_is_submitted() -> None:
    """Submits at every point of a writer's life, in particular at its end, where a naive version loses an item."""
    writer = RecordingWriter()
    batcher = Batcher(writer.write, max_batch=2, slow_after_s=60)

    async def submit_after(turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await batcher.submit(turns)

    async with asyncio.timeout(60):
        for _ in range(20):
            results = await asyncio.gather(*(submit_after(turns) for turns in range(40)))
            assert results == [f"wrote {turns}" for turns in range(40)]


async def test_a_full_queue_makes_further_submissions_wait() -> None:
    writer = RecordingWriter()
    batcher = Batcher(writer.write, max_batch=100, max_queue=3, slow_after_s=60)
    writer.open.clear()
    waiting = [asyncio.create_task(batcher.submit(number)) for number in range(9)]
    for _ in range(20):
        await asyncio.sleep(0)
    writer.open.set()
    assert await asyncio.gather(*waiting) == [f"wrote {number}" for number in range(9)]
    assert max(len(batch) for batch in writer.batches) <= 3
    assert sorted(number for batch in writer.batches for number in batch) == list(range(9))


async def _submit_one_batch(
    writer: RecordingWriter, batcher: Batcher[int, str], on_result: Callable[[int], None]
) -> list[asyncio.Task[str]]:
    """Submits items that form one batch. Calls `on_result` with each item whose result arrives."""

    async def submit(number: int) -> str:
        result = await batcher.submit(number)
        on_result(number)
        return result

    writer.open.clear()
    first = asyncio.create_task(submit(0))
    await wait_until(lambda: writer.batches == [[0]])
    others = [asyncio.create_task(submit(number)) for number in range(1, 17)]
    await asyncio.sleep(0)
    writer.open.set()
    await first
    await wait_until(lambda: len(writer.batches) == 2)
    assert writer.batches[1] == list(range(1, 17))
    return others


async def test_a_new_item_does_not_wait_for_all_results_of_a_batch() -> None:
    writer, events = RecordingWriter(), list[int | str]()
    loop = asyncio.get_running_loop()

    def on_result(number: int) -> None:
        events.append(number)
        if number == 1:
            loop.call_soon(events.append, "something else")

    batcher = Batcher(writer.write, slow_after_s=60)
    await asyncio.gather(*await _submit_one_batch(writer, batcher, on_result))
    assert [event for event in events if event != "something else"] == list(range(17))
    assert events.index("something else") < events.index(16)


async def test_committed_results_are_delivered_even_if_the_writer_is_cancelled() -> None:
    writer = RecordingWriter()
    batcher = Batcher(writer.write, slow_after_s=60)

    def on_result(number: int) -> None:
        if number == 1:
            tasks = [task for task in asyncio.all_tasks() if "_write_queued_batches" in repr(task.get_coro())]
            assert [task.cancel() for task in tasks] == [True]

    async with asyncio.timeout(60):
        results = await asyncio.gather(*await _submit_one_batch(writer, batcher, on_result))
    assert results == [f"wrote {number}" for number in range(1, 17)]
    assert await batcher.submit(17) == "wrote 17"


class LockableRows:
    """Writes rows, of which another session has locked some. With `waits`, a batch with a locked row fails as a whole."""

    def __init__(self, *locked: int, waits: bool) -> None:
        self.locked = set(locked)
        self.batches: list[list[int]] = []
        self._waits = waits

    async def write(self, items: Sequence[int]) -> list[str | RowLocked]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        if self._waits and self.locked & set(items):
            error = DatabaseUnavailable(retry_after_s=2)
            error.reason = "locked"
            raise error
        return [LOCKED if item in self.locked else f"wrote {item}" for item in items]


async def test_an_item_with_a_locked_row_goes_into_a_later_batch_and_delays_no_other() -> None:
    rows = LockableRows(2, waits=False)
    batcher: Batcher[int, str] = Batcher(rows.write)
    locked = asyncio.create_task(batcher.submit(2))
    async with asyncio.timeout(60):
        for number in (1, 3, 4):
            assert await batcher.submit(number) == f"wrote {number}"
        while len([batch for batch in rows.batches if 2 in batch]) < 3:
            await asyncio.sleep(0.01)
        assert not locked.done()
        rows.locked.clear()
        assert await locked == "wrote 2"


async def test_a_lock_timeout_fails_only_the_item_with_the_locked_row() -> None:
    rows = LockableRows(2, waits=True)
    batcher: Batcher[int, str] = Batcher(rows.write)
    results = await asyncio.gather(*(batcher.submit(number) for number in range(5)), return_exceptions=True)
    failed = results.pop(2)
    assert isinstance(failed, DatabaseUnavailable)
    assert failed.reason == "locked"
    assert results == ["wrote 0", "wrote 1", "wrote 3", "wrote 4"]


async def test_few_items_that_may_wait_for_a_lock_are_written_at_once() -> None:
    """Each takes a connection, however many batches have had a lock timeout."""
    alone: list[int] = []
    release, four_batches = asyncio.Event(), asyncio.Barrier(4)

    async def write(items: Sequence[int]) -> list[int]:
        if len(items) > 1:
            await four_batches.wait()
            error = DatabaseUnavailable(retry_after_s=2)
            error.reason = "locked"
            raise error
        alone.extend(items)
        await release.wait()
        return list(items)

    batcher = Batcher(write, max_batch=5, slow_after_s=0, gather_s=3600, gather_max_items=20)
    submissions = [asyncio.create_task(batcher.submit(number)) for number in range(20)]
    await wait_until(lambda: len(alone) >= 4)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(alone) == 4
    release.set()
    assert await asyncio.gather(*submissions) == sorted(alone) == list(range(20))


async def test_a_slow_batch_does_not_delay_the_next_ones_and_few_run_at_once() -> None:
    running, max_running, opened = 0, 0, asyncio.Event()

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        if any(item < 0 for item in items):
            await opened.wait()
        running -= 1
        return list(items)

    batcher: Batcher[int, int] = Batcher(write, slow_after_s=0.01)
    hanging = [asyncio.create_task(batcher.submit(-1))]
    async with asyncio.timeout(60):
        await asyncio.sleep(0.05)
        assert await batcher.submit(1) == 1
        for _ in range(5):
            hanging.append(asyncio.create_task(batcher.submit(-1)))
            await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        opened.set()
        assert await waiting == 2
        await asyncio.gather(*hanging)
        assert max_running == 4
        assert await asyncio.gather(*(batcher.submit(number) for number in range(20))) == list(range(20))
        assert max_running == 4
