"""Where a request's time goes, for its `Server-Timing` header (https://www.w3.org/TR/server-timing/)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Part = Literal["database", "upstream"]
# One for each request, shared by the tasks that it starts; None outside of requests.
_spent: ContextVar[dict[Part, float] | None] = ContextVar("spent", default=None)


def begin_timing() -> dict[Part, float]:
    """From here on, in this task and those it starts, `spending` adds to the returned seconds."""
    spent: dict[Part, float] = {}
    _spent.set(spent)
    return spent


@contextmanager
def spending(part: Part) -> Iterator[None]:
    """The time of the block is `part`'s. Blocks of one part are not nested."""
    began = time.perf_counter()
    try:
        yield
    finally:
        spent = _spent.get()
        if spent is not None:
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - began


def server_timing(total: float, spent: dict[Part, float]) -> str:
    """The header's value, in milliseconds. `gateway` is what is left of `total` (seconds) for Callgate itself."""
    gateway = max(0.0, total - sum(spent.values()))
    parts = {"gateway": gateway, "database": spent.get("database", 0.0), "upstream": spent.get("upstream", 0.0)}
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
