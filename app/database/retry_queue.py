"""Writes that Postgres could not take, tried again by one task. Knows no table."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from app.database.errors import is_refusal
from app.errors import DatabaseUnavailable

Item = TypeVar("Item")

logger = structlog.stdlib.get_logger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0


class RetryQueue(Generic[Item]):
    """Keeps an item until `write` succeeds, or a constraint refuses it. Whatever else goes wrong may be over at the next try.

    The pause between two tries doubles while Postgres stays away, however many items wait. `most` items are tried at a time,
    concurrently, the oldest first. At `limit` items the oldest is given up; None: never.
    """

    def __init__(
        self, write: Callable[[Item], Awaitable[None]], *, name: str, max_batch: int, limit: int | None = None
    ) -> None:
        self._write = write
        self._name = name
        self._max_batch = max_batch
        self._limit = limit
        self._items: deque[Item] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item) -> None:
        if self._limit is not None and len(self._items) >= self._limit:
            self._items.popleft()
            logger.error("retry_given_up", queue=self._name)
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Try what waits once more, now. What Postgres does not take then stays in the queue."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        try:
            while self._items:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
                if await self._try_oldest():
                    pause = 0.0
                elif self._closing.is_set():
                    return
                else:
                    pause = min(max(pause * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        finally:
            self._task = None

    async def _try_oldest(self) -> bool:
        """Whether any of them was taken, or refused for good. The others go to the end, so that one stuck row holds up none."""
        tried = [self._items.popleft() for _ in range(min(self._max_batch, len(self._items)))]
        try:
            results = await asyncio.gather(*map(self._write, tried), return_exceptions=True)
        except asyncio.CancelledError:
            self._items.extendleft(reversed(tried))
            raise
        left = []
        for item, result in zip(tried, results, strict=True):
            if isinstance(result, DatabaseUnavailable):
                left.append(item)
            elif isinstance(result, BaseException):
                refused = is_refusal(result)
                logger.error("retry_refused" if refused else "retry_failed", queue=self._name, exc_info=result)
                if not refused:
                    left.append(item)
        self._items.extend(left)
        return len(left) < len(tried)
