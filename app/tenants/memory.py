"""What was read of tenants lately, so that not every request asks Postgres who is calling. Knows no table."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


def never() -> bool:
    """For who does not listen to changes: nothing is remembered."""
    return False


class Memory(Generic[Value]):
    """Answers for at most `lifetime_s` seconds, and only while `is_current` says that changes would be heard of.

    What is being read while `forget` is called is not remembered: it may be older than the change. Nothing is remembered of
    what is not there.
    """

    def __init__(self, *, is_current: Callable[[], bool], lifetime_s: float = 30.0, most: int = 10_000) -> None:
        self._is_current = is_current
        self._lifetime_s = lifetime_s
        self._most = most
        self._entries: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._forgotten = 0

    async def get(self, name: Hashable, read: Callable[[], Awaitable[Value]]) -> Value:
        """What is remembered under this name, or what `read` finds."""
        entry = self._entries.get(name)
        if entry is not None and entry[0] > time.monotonic() and self._is_current():
            return entry[1]
        forgotten = self._forgotten
        value = await read()
        if value is not None and forgotten == self._forgotten and self._is_current():
            self._entries[name] = time.monotonic() + self._lifetime_s, value
            if len(self._entries) > self._most:
                self._entries.popitem(last=False)
        return value

    def forget(self) -> None:
        self._entries.clear()
        self._forgotten += 1
