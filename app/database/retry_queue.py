"""Retries failed writes in one background task. Does not import the table models."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from app.database.errors import is_value_refused
from app.errors import DatabaseUnavailable

Item = TypeVar("Item")

logger = structlog.stdlib.get_logger(__name__)

_MIN_PAUSE_S = 0.5
_MAX_PAUSE_S = 5.0


class RetryQueue(Generic[Item]):
    """Writes items in a background task: calls `write` for each item until the call succeeds.

    Gives an item up if Postgres refuses its values (`is_value_refused`).

    Each attempt writes the `max_batch` oldest items concurrently. If no item of an attempt succeeds, the pause before the next
    attempt doubles, up to a limit. If the queue already holds `max_items`, a new item replaces the oldest one. If `max_items`
    is None, the queue has no limit.
    """

    def __init__(
        self, write: Callable[[Item], Awaitable[None]], *, name: str, max_batch: int, max_items: int | None = None
    ) -> None:
        self._write = write
        self._name = name
        self._max_batch = max_batch
        self._max_items = max_items
        self._items: deque[Item] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item) -> None:
        if self._max_items is not None and len(self._items) >= self._max_items:
            self._items.popleft()
            logger.error("retry_given_up", queue=self._name)
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._write_until_empty())

    async def close(self) -> None:
        """Writes the remaining items without pauses, and ends the background task.

        Stops early if an attempt fails for all of its items. Items that were not written stay in the queue.
        """
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _write_until_empty(self) -> None:
        pause = _MIN_PAUSE_S
        try:
            while self._items:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
                if await self._write_oldest():
                    pause = 0.0
                elif self._closing.is_set():
                    return
                else:
                    pause = min(max(pause * 2, _MIN_PAUSE_S), _MAX_PAUSE_S)
        finally:
            self._task = None

    async def _write_oldest(self) -> bool:
        """Tries to write the oldest items. Returns False if all of them failed and stay in the queue.

        Items that failed move to the end of the queue, so that an item that always fails does not block the others.
        """
        tried = [self._items.popleft() for _ in range(min(self._max_batch, len(self._items)))]
        try:
            results = await asyncio.gather(*map(self._write, tried), return_exceptions=True)
        except asyncio.CancelledError:
            self._items.extendleft(reversed(tried))
            raise
        failed = []
        for item, result in zip(tried, results, strict=True):
            if isinstance(result, DatabaseUnavailable):
                failed.append(item)
            elif isinstance(result, BaseException):
                is_rejected = is_value_refused(result)
                logger.error("retry_refused" if is_rejected else "retry_failed", queue=self._name, exc_info=result)
                if not is_rejected:
                    failed.append(item)
        self._items.extend(failed)
        return len(failed) < len(tried)
