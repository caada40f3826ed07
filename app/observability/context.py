"""The log context: fields that every log line of a request or job carries.

All fields are in one immutable mapping in one context variable, which child tasks inherit. `structlog.contextvars` has a
context variable for each field, and takes about five times as much CPU time for the same lines (docs/adr/0026).
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import structlog

_bound_fields: ContextVar[Mapping[str, Any]] = ContextVar("callgate_known", default=MappingProxyType({}))


def clear_log_fields() -> None:
    """Removes all fields from the log context, so that a new request begins without fields."""
    _bound_fields.set({})


def bind_log_fields(**fields: object) -> None:
    """Adds the fields to every log line of this request or job from now on."""
    _bound_fields.set({**_bound_fields.get(), **fields})


def bound_fields() -> Mapping[str, Any]:
    """Returns the fields that every log line of this request or job carries."""
    return _bound_fields.get()


def add_bound_fields(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Adds the fields of the log context to a log line (a structlog processor).

    The line's own fields come first. They take precedence over fields of the context with the same name.
    """
    return {**event, **_bound_fields.get(), **event}
