"""A restartable timer for the timeouts of one HTTP connection."""

import asyncio
from collections.abc import Callable
from weakref import WeakMethod


class ConnectionTimer:
    """Calls the bound method `on_expiry` once, `seconds` after `start`, unless `cancel` is called first.

    After `cancel`, the timer can be started again. Before `start` and after `cancel`, the timer holds only a weak reference
    to the method's instance. So they form no reference cycle, and the instance is freed as soon as nothing else refers to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expiry: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expiry = WeakMethod(on_expiry)
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Starts the timer. Does nothing if it was started before and not canceled since, even if it has expired."""
        if self._timer is None and (on_expiry := self._on_expiry()):
            self._timer = self._loop.call_later(seconds, on_expiry)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
