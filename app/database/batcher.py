"""Group commit: writes of one kind that wait at the same moment go to Postgres together. Knows no table.

A lone write goes at once; there is no timer. While a batch is on its way, what arrives waits and is the next batch, so batches
grow with the load and the cost of a commit is shared by all that are in it. Reads of one kind can go together in the same way.
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

_WAKE_BATCH = 4
# A batch that takes longer waits for a lock, or for a server that has disappeared: the next one does not wait for it.
SLOW_AFTER_S = 0.1
_MAX_WRITERS = 4
# Longer than Postgres keeps a session that has disappeared in mid-transaction (connection.py), and less than Twilio waits.
_LOCKED_PATIENCE_S = 12.0
_LOCKED_FIRST_DELAY_S, _LOCKED_MAX_DELAY_S = 0.005, 0.5


class Busy(Enum):
    """In place of a result: the item's row is locked by another session. The item goes into a later batch."""

    LOCKED = "locked"


LOCKED: Final = Busy.LOCKED


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    result: "asyncio.Future[Result]"
    since: float
    delay: float = _LOCKED_FIRST_DELAY_S

    def succeed(self, result: Result) -> None:
        with suppress(asyncio.InvalidStateError):
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        with suppress(asyncio.InvalidStateError):
            self.result.set_exception(error)


class Batcher(Generic[Item, Result]):
    """`write` gets items and returns a result for each, in the same order, in one transaction.

    What goes wrong with a batch is found out one by one, so that a bad item harms nobody but its own waiter. The same holds for
    an item whose row is locked: `write` either returns LOCKED for it and does not wait, or runs into its lock timeout. `most`
    items go together at the most, and `room` may wait: who comes later waits for room, so nothing here grows without end. The
    next batch does not wait for one that takes longer than `slow_after_s`.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Busy]]],
        *,
        max_batch: int = 100,
        max_queue: int = 1000,
        slow_after_s: float = SLOW_AFTER_S,
    ) -> None:
        self._write = write
        self._slow_after_s = slow_after_s
        self._max_batch = max_batch
        self._room = asyncio.Semaphore(max_queue)
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._writers = set[asyncio.Task[None]]()
        self._running = 0
        self._slow = 0

    async def submit(self, item: Item) -> Result:
        """The result, once it is committed. Whoever is cancelled meanwhile takes nothing from the others.

        Raises what `write` raises for this item. A cancelled item is written all the same if its batch has begun.
        """
        with TimedSpan("database"):
            async with self._room:
                loop = asyncio.get_running_loop()
                waiting = _Waiting[Item, Result](item, loop.create_future(), loop.time())
                self._enqueue(waiting)
                return await waiting.result

    def _enqueue(self, waiting: _Waiting[Item, Result]) -> None:
        self._waiting.append(waiting)
        self._start_writer()

    def _start_writer(self) -> None:
        """Unless one is about to look for what waits, or there are as many as may be."""
        # Nothing is awaited between a writer's last look at the queue and its end, nor here: no wake-up can be lost.
        if self._running > self._slow or self._running >= _MAX_WRITERS:
            return
        self._running += 1
        # In a context of its own, for a batch belongs to no single request.
        writer = asyncio.create_task(self._write_all(), context=contextvars.Context())
        self._writers.add(writer)
        writer.add_done_callback(self._writers.discard)

    async def _write_all(self) -> None:
        try:
            while batch := self._take():
                await self._write_timed(batch)
                if self._running - self._slow > 1:
                    return
        finally:
            self._running -= 1
            if not self._running:
                # Only when this task was cancelled from outside, as the event loop ends, does anybody wait still.
                for waiting in self._waiting:
                    waiting.result.cancel()

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.result.done():
                batch.append(waiting)
        return batch

    async def _write_timed(self, batch: list[_Waiting[Item, Result]]) -> None:
        is_slow = False

        def let_next_begin() -> None:
            nonlocal is_slow
            is_slow = True
            self._slow += 1
            if self._waiting:
                self._start_writer()

        timer = asyncio.get_running_loop().call_later(self._slow_after_s, let_next_begin)
        try:
            await self._settle(batch)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.result.cancel()
            raise
        finally:
            timer.cancel()
            self._slow -= is_slow

    async def _settle(self, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._write([waiting.item for waiting in batch])
        except DatabaseUnavailable as error:
            if error.reason == "locked" and len(batch) > 1:
                await self._settle_apart(batch)
                return
            # No item's own fault: to try each of them would be as many failures more.
            for waiting in batch:
                waiting.fail(copy.copy(error))
        except Exception as error:
            if len(batch) == 1:
                batch[0].fail(error)
                return
            for waiting in batch:
                await self._settle([waiting])
        else:
            await self._tell(batch, results)

    async def _settle_apart(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Each alone and some at a time, so that nobody waits long for the one that waits for a lock."""
        left = deque(batch)

        async def settle_each() -> None:
            while left:
                await self._settle([left.popleft()])

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_MAX_WRITERS, len(batch))):
                group.create_task(settle_each())

    async def _tell(self, batch: list[_Waiting[Item, Result]], results: Sequence[Result | Busy]) -> None:
        """A few at a time: what has come meanwhile is seen to in between, and does not wait for the work of a whole batch.

        Waking waiters in small groups also keeps a batch from moving through a slow upstream in lockstep (docs/performance.md).
        """
        told = zip(batch, results, strict=True)
        try:
            for number, (waiting, result) in enumerate(told, start=1):
                self._tell_one(waiting, result)
                if number % _WAKE_BATCH == 0:
                    await asyncio.sleep(0)
        finally:
            # Cancelled: what is committed is told all the same.
            for waiting, result in told:
                self._tell_one(waiting, result)

    def _tell_one(self, waiting: _Waiting[Item, Result], result: Result | Busy) -> None:
        if not isinstance(result, Busy):
            waiting.succeed(result)
            return
        loop = asyncio.get_running_loop()
        if loop.time() - waiting.since > _LOCKED_PATIENCE_S:
            error = DatabaseUnavailable(after_s=2)
            error.reason, error.commit_in_doubt = "locked", False
            waiting.fail(error)
            return
        loop.call_later(waiting.delay, self._enqueue, waiting)
        waiting.delay = min(waiting.delay * 2, _LOCKED_MAX_DELAY_S)
