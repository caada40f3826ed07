"""Batches concurrent writes of one kind into one transaction (group commit). Does not import the table models.

A write that arrives while no other is in progress is sent immediately, unless `gather_s` is set. Items that arrive while a
batch is being written form the next batch. Batches therefore grow with the load, and their items share the cost of a commit.
Reads of one kind can be batched in the same way.
"""

import asyncio
import contextvars
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from app.errors import DatabaseUnavailable
from app.observability.tracing import TimedSpan

Item = TypeVar("Item")
Result = TypeVar("Result")

_RESULTS_PER_WAKE_UP = 4
# A batch that takes longer than this probably waits for a lock or an unreachable server. The next batch then does not wait for
# it.
_SLOW_BATCH_AFTER_S = 0.1
_MAX_WRITER_TASKS = 4
# More than Postgres's timeout for an idle transaction (connection.py), which frees the locks of a lost client, and less than
# Twilio's own timeout.
_MAX_ROW_LOCK_WAIT_S = 12.0
_LOCK_RETRY_MIN_DELAY_S, _LOCK_RETRY_MAX_DELAY_S = 0.005, 0.5


class RowLocked(Enum):
    """The enum with the only member LOCKED, which a Batcher's `write` returns for an item whose row another session has locked.

    The Batcher then writes the item again in a later batch.
    """

    LOCKED = "locked"


LOCKED: Final = RowLocked.LOCKED


@dataclass(slots=True, eq=False)
class _PendingItem(Generic[Item, Result]):
    item: Item
    result: "asyncio.Future[Result]"
    queued_at: float
    lock_retry_delay_s: float = _LOCK_RETRY_MIN_DELAY_S

    def succeed(self, result: Result) -> None:
        with suppress(asyncio.InvalidStateError):
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        with suppress(asyncio.InvalidStateError):
            self.result.set_exception(error)


class Batcher(Generic[Item, Result]):
    """Collects the items that concurrent tasks submit, and calls `write` with up to `max_batch` of them at a time.

    `write` returns one result per item, in order. If a batch fails because of an item, the halves of the batch are written
    separately, then the halves of a half that fails, and so on. Thus only this item gets the error. If the database fails, all
    items of the batch get the error.

    Another session may have locked the row of an item. If `write` returns LOCKED for the item, the item is written again after
    a delay that doubles up to `lock_retry_max_delay_s`. If a batch fails with a lock timeout, each of its items is written
    separately, and an item that fails again gets the error.

    Up to `max_queue` items wait at a time; further submissions wait until there is space, so memory is bounded. If a batch
    takes longer than `slow_after_s`, the next batch starts without waiting for it.

    If `gather_s` is set, a batch starts `gather_s` seconds after its first item has arrived, or as soon as it has
    `gather_max_items` items. This saves commits at low rates, and delays each result by up to `gather_s` seconds.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result | RowLocked]]],
        *,
        max_batch: int = 100,
        max_queue: int = 1000,
        slow_after_s: float = _SLOW_BATCH_AFTER_S,
        lock_retry_max_delay_s: float = _LOCK_RETRY_MAX_DELAY_S,
        gather_s: float = 0.0,
        gather_max_items: int = 1,
    ) -> None:
        self._write = write
        self._slow_after_s = slow_after_s
        self._lock_retry_max_delay_s = lock_retry_max_delay_s
        self._gather_s = gather_s
        self._gather_max_items = gather_max_items if gather_s else 1
        self._gathering: asyncio.TimerHandle | None = None
        self._max_batch = max_batch
        self._queue_slots = asyncio.Semaphore(max_queue)
        self._waiting: deque[_PendingItem[Item, Result]] = deque()
        self._writers = set[asyncio.Task[None]]()
        self._individual_writes = asyncio.Semaphore(_MAX_WRITER_TASKS)
        self._writer_count = 0
        self._slow_writer_count = 0

    async def submit(self, item: Item) -> Result:
        """Queues the item, waits until the batch with the item is committed, and returns the item's result.

        Raises the error that `write` raises for this item, or DatabaseUnavailable if the item's row stays locked for too long.

        If the caller is cancelled, other items are not affected. If the batch of the item has already begun, the item is still
        written.
        """
        with TimedSpan("database"):
            async with self._queue_slots:
                loop = asyncio.get_running_loop()
                waiting: _PendingItem[Item, Result] = _PendingItem(item, loop.create_future(), loop.time())
                self._enqueue(waiting)
                return await waiting.result

    def _enqueue(self, waiting: _PendingItem[Item, Result]) -> None:
        self._waiting.append(waiting)
        if len(self._waiting) >= self._gather_max_items:
            self._start_writer()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(self._gather_s, self._stop_gathering)

    def _stop_gathering(self) -> None:
        self._gathering = None
        if self._waiting:
            self._start_writer()

    def _start_writer(self) -> None:
        """Starts a task that writes batches. Does nothing if one that is not slow runs: it takes the next batch itself.

        Does nothing, too, if _MAX_WRITER_TASKS tasks run. A task is slow while its batch takes longer than `slow_after_s`.
        """
        # No item is left without a writer: neither this method nor a writer that has found the queue empty awaits anything.
        if self._writer_count > self._slow_writer_count or self._writer_count >= _MAX_WRITER_TASKS:
            return
        self._writer_count += 1
        # An empty context, because a batch does not belong to a single request.
        writer = asyncio.create_task(self._write_queued_batches(), context=contextvars.Context())
        self._writers.add(writer)
        writer.add_done_callback(self._writers.discard)

    async def _write_queued_batches(self) -> None:
        try:
            while batch := self._take_batch():
                await self._write_batch_or_unblock_next(batch)
                if self._writer_count - self._slow_writer_count > 1:
                    return
        finally:
            self._writer_count -= 1
            if not self._writer_count:
                # Items still wait only if this task was cancelled from outside, as when the event loop ends.
                for waiting in self._waiting:
                    waiting.result.cancel()

    def _take_batch(self) -> list[_PendingItem[Item, Result]]:
        batch: list[_PendingItem[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.result.done():
                batch.append(waiting)
        return batch

    async def _write_batch_or_unblock_next(self, batch: list[_PendingItem[Item, Result]]) -> None:
        is_slow = False

        def let_next_begin() -> None:
            nonlocal is_slow
            is_slow = True
            self._slow_writer_count += 1
            if self._waiting:
                self._start_writer()

        timer = asyncio.get_running_loop().call_later(self._slow_after_s, let_next_begin)
        try:
            await self._write_or_split_batch(batch)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.result.cancel()
            raise
        finally:
            timer.cancel()
            self._slow_writer_count -= is_slow

    async def _write_or_split_batch(self, batch: list[_PendingItem[Item, Result]]) -> None:
        try:
            results = await self._write([waiting.item for waiting in batch])
        except DatabaseUnavailable as error:
            if error.is_lock_timeout and len(batch) > 1:
                await self._write_items_separately(batch)
                return
            # The database failed, not an item. Writing the items again would only fail again.
            for waiting in batch:
                waiting.fail(copy.copy(error))
        except Exception as error:
            if len(batch) == 1:
                batch[0].fail(error)
                return
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._write_or_split_batch(half)
        else:
            await self._deliver_results(batch, results)

    async def _write_items_separately(self, batch: list[_PendingItem[Item, Result]]) -> None:
        """Writes each item in its own transaction, several at a time, so that one locked item does not delay the others.

        At most _MAX_WRITER_TASKS items, of all batches, are written in this way at a time: each write takes a connection while
        it waits for the lock.
        """

        async def settle(waiting: _PendingItem[Item, Result]) -> None:
            async with self._individual_writes:
                await self._write_or_split_batch([waiting])

        async with asyncio.TaskGroup() as group:
            for waiting in batch:
                group.create_task(settle(waiting))

    async def _deliver_results(self, batch: list[_PendingItem[Item, Result]], results: Sequence[Result | RowLocked]) -> None:
        """Passes the results to the waiting tasks, a few at a time, so that the event loop runs other work in between.

        An item whose result is LOCKED is queued again, or gets an error if it has waited for too long.

        If all tasks that wait for a result woke up at once, they would all send their requests to Twilio at the same moment,
        and all answers would arrive at the same moment (docs/performance.md).
        """
        remaining = zip(batch, results, strict=True)
        try:
            for number, (waiting, result) in enumerate(remaining, start=1):
                self._deliver_or_requeue(waiting, result)
                if number % _RESULTS_PER_WAKE_UP == 0:
                    await asyncio.sleep(0)
        finally:
            # If this task is cancelled, the remaining results are committed all the same and must be delivered.
            for waiting, result in remaining:
                self._deliver_or_requeue(waiting, result)

    def _deliver_or_requeue(self, waiting: _PendingItem[Item, Result], result: Result | RowLocked) -> None:
        if not isinstance(result, RowLocked):
            waiting.succeed(result)
            return
        loop = asyncio.get_running_loop()
        if loop.time() - waiting.queued_at > _MAX_ROW_LOCK_WAIT_S:
            error = DatabaseUnavailable(retry_after_s=2)
            error.reason, error.commit_in_doubt = "locked", False
            waiting.fail(error)
            return
        loop.call_later(waiting.lock_retry_delay_s, self._enqueue, waiting)
        waiting.lock_retry_delay_s = min(waiting.lock_retry_delay_s * 2, self._lock_retry_max_delay_s)
