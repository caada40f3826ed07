"""What is known of the work at hand, for all of its log lines.

One mapping that is replaced and never changed, so that whatever work begets keeps what was known then. structlog's own has a
context variable for each field, and costs a request three times as much.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import structlog

_known: ContextVar[Mapping[str, Any]] = ContextVar("callgate_known", default=MappingProxyType({}))


def forget() -> None:
    """Other work begins."""
    _known.set({})


def note(**fields: object) -> None:
    """Onto every line of this work from now on."""
    _known.set({**_known.get(), **fields})


def noted() -> Mapping[str, Any]:
    return _known.get()


def add_noted(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """For structlog: what a line says itself comes first, and counts."""
    return {**event, **_known.get(), **event}
