"""A set of tasks that may outlive the request that started them, and that are cancelled when the application stops."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self


class BackgroundTaskSet:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
