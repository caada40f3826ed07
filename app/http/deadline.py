"""A time limit for one thing that a connection waits for."""

import asyncio
from collections.abc import Callable
from weakref import WeakMethod


class Deadline:
    """Calls the method `on_expiry` when the time is over, unless it is canceled before.

    Holds a reference to the method's object only while the time runs. Otherwise the two would be garbage that only the cyclic
    collector frees.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expiry: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expiry = WeakMethod(on_expiry)
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Starts the time. If it is running already, does nothing."""
        if self._timer is None and (on_expiry := self._on_expiry()):
            self._timer = self._loop.call_later(seconds, on_expiry)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
