"""The log context: fields that every log line of a request or job carries.

One immutable mapping in one context variable; child tasks inherit it. `structlog.contextvars` has one context variable for
each field, which costs a creation five times as much (docs/adr/0026).
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import structlog

_bound_fields: ContextVar[Mapping[str, Any]] = ContextVar("callgate_known", default=MappingProxyType({}))


def clear() -> None:
    """Removes all fields, for a new request or job."""
    _bound_fields.set({})


def bind(**fields: object) -> None:
    """Adds the fields to every log line of this request or job from now on."""
    _bound_fields.set({**_bound_fields.get(), **fields})


def bound_fields() -> Mapping[str, Any]:
    """Returns the fields of this request or job."""
    return _bound_fields.get()


def add_context(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Adds the log context to a log line (a structlog processor). The line's own fields come first and take precedence."""
    return {**event, **_bound_fields.get(), **event}
