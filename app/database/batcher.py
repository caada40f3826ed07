"""Group commit: writes of one kind that wait at the same moment go to Postgres together. Knows no table.

A lone write goes at once; there is no timer. While a batch is on its way, what arrives waits and is the next batch, so batches
grow with the load and the cost of a commit is shared by all that are in it. Reads of one kind can go together in the same way.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from app.errors import DatabaseUnavailable
from app.observability.tracing import Step

Item = TypeVar("Item")
Result = TypeVar("Result")

_TOLD_AT_ONCE = 4


class Batcher(Generic[Item, Result]):
    """`write` gets items in the order in which they came and returns a result for each, in that order, in one transaction.

    What goes wrong with a batch is found out one by one, so that a bad item harms nobody but its own waiter. `most` items go
    together at the most, and `room` may wait: who comes later waits for room, so nothing here grows without end.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        most: int = 100,
        room: int = 1000,
    ) -> None:
        self._write = write
        self._most = most
        self._room = asyncio.Semaphore(room)
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The result, once it is committed. Whoever is cancelled meanwhile takes nothing from the others.

        Raises what `write` raises for this item. A cancelled item is written all the same if its batch has begun.
        """
        with Step("database"):
            return await self._submit(item)

    async def _submit(self, item: Item) -> Result:
        async with self._room:
            result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            self._waiting.append((item, result))
            # Nothing is awaited between the writer's last look at the queue and its end, nor here: no wake-up can be lost.
            if self._writer is None:
                # In a context of its own, for a batch belongs to no single request.
                self._writer = asyncio.create_task(self._write_all(), context=contextvars.Context())
            return await result

    async def _write_all(self) -> None:
        try:
            while batch := self._take():
                await self._settle(batch)
        finally:
            self._writer = None
            # Only when this task was cancelled from outside, as the event loop ends, does anybody wait still.
            for _, result in self._waiting:
                result.cancel()

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._most:
            item, result = self._waiting.popleft()
            if not result.done():
                batch.append((item, result))
        return batch

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._write([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, waiter in batch:
                waiter.cancel()
            raise
        except DatabaseUnavailable as error:
            # No item's own fault: to try each of them would be as many failures more.
            for _, waiter in batch:
                unavailable = DatabaseUnavailable(after_s=error.after_s)
                unavailable.reason, unavailable.in_doubt = error.reason, error.in_doubt
                _fail(waiter, unavailable)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            for one in batch:
                await self._settle([one])
        else:
            await _tell([waiter for _, waiter in batch], results)


async def _tell(waiters: Sequence["asyncio.Future[Result]"], results: Sequence[Result]) -> None:
    """A few at a time: what has come meanwhile is seen to in between, and does not wait for the work of a whole batch.

    Nor does the batch go on, and come back from a slow upstream, as the crowd that it was here (docs/performance.md).
    """
    told = zip(waiters, results, strict=True)
    try:
        for number, (waiter, result) in enumerate(told, start=1):
            _succeed(waiter, result)
            if number % _TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
    finally:
        # Cancelled: what is committed is told all the same.
        for waiter, result in told:
            _succeed(waiter, result)


def _succeed(waiter: "asyncio.Future[Result]", result: Result) -> None:
    with suppress(asyncio.InvalidStateError):
        waiter.set_result(result)


def _fail(waiter: "asyncio.Future[Result]", error: Exception) -> None:
    with suppress(asyncio.InvalidStateError):
        waiter.set_exception(error)
