"""An in-process cache with a lifetime, for data of tenants."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


def always_stale() -> bool:
    """Serves as the `is_coherent` of a process that does not listen for changes: nothing is cached."""
    return False


class TTLCache(Generic[Value]):
    """Keeps values for at most `lifetime_s` seconds, and only while `is_coherent` returns true.

    A value whose read began before `invalidate` was called is not kept: it may be older than the change. None is not cached.
    """

    def __init__(self, *, is_coherent: Callable[[], bool], lifetime_s: float = 30.0, max_entries: int = 10_000) -> None:
        self._is_coherent = is_coherent
        self._lifetime_s = lifetime_s
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._invalidations = 0

    def peek(self, name: Hashable) -> Value | None:
        """Returns the cached value of `name`, or None."""
        entry = self._entries.get(name)
        return entry[1] if entry is not None and entry[0] > time.monotonic() and self._is_coherent() else None

    async def get(self, name: Hashable, read: Callable[[], Awaitable[Value]]) -> Value:
        """Returns the cached value of `name`, or what `read` returns."""
        cached = self.peek(name)
        if cached is not None:
            return cached
        invalidations = self._invalidations
        value = await read()
        if value is not None and invalidations == self._invalidations and self._is_coherent():
            self._entries[name] = time.monotonic() + self._lifetime_s, value
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return value

    def invalidate(self) -> None:
        """Removes all values, and keeps reads in progress from being cached."""
        self._entries.clear()
        self._invalidations += 1
