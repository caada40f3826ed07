"""A cache of tenants' data in the memory of the process, and a limit for how often the process does some work."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


def never_coherent() -> bool:
    """Returns False. A cache that gets this function as `is_coherent` stores nothing.

    Use the function for a cache that is not notified of changes in the database.
    """
    return False


class TTLCache(Generic[Value]):
    """Keeps values for at most `lifetime_s` seconds, and returns them only while `is_coherent` returns true.

    `is_coherent` may return true only while every change of the data leads to a call of `invalidate`. If `invalidate` is called
    while a value is read, the value is not kept, because it may be older than the change. None is not cached.
    """

    def __init__(self, *, is_coherent: Callable[[], bool], lifetime_s: float = 30.0, max_entries: int = 10_000) -> None:
        self._is_coherent = is_coherent
        self._lifetime_s = lifetime_s
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._invalidations = 0

    def peek(self, name: Hashable) -> Value | None:
        """Returns the cached value of `name`; None if no valid value is cached."""
        entry = self._entries.get(name)
        return entry[1] if entry is not None and entry[0] > time.monotonic() and self._is_coherent() else None

    async def get_or_read(self, name: Hashable, read: Callable[[], Awaitable[Value]]) -> Value:
        """Returns the cached value of `name`. If no valid value is cached, calls `read`, caches its result, and returns it."""
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
        """Removes all values. The results of reads that are in progress will not be cached."""
        self._entries.clear()
        self._invalidations += 1


class IntervalLimit:
    """Allows work at most once in `interval_s` seconds for each name.

    Remembers only the `max_entries` names that were allowed last. Work for a forgotten name is allowed at once.
    """

    def __init__(self, interval_s: float, *, max_entries: int = 10_000) -> None:
        self._interval_s = interval_s
        self._max_entries = max_entries
        self._allowed_at: OrderedDict[Hashable, float] = OrderedDict()

    def try_acquire(self, name: Hashable) -> bool:
        """Returns whether the work may be done now. If so, starts the interval in which it may not be done again."""
        now = time.monotonic()
        allowed_at = self._allowed_at.get(name)
        if allowed_at is not None and now - allowed_at < self._interval_s:
            return False
        self._allowed_at[name] = now
        self._allowed_at.move_to_end(name)
        if len(self._allowed_at) > self._max_entries:
            self._allowed_at.popitem(last=False)
        return True
