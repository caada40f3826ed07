"""Limits on what a client can use before it is authenticated."""

from dataclasses import dataclass
from typing import Self

from app.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADER_LINES = 100
MAX_BODY_BYTES = 64 * 1024
MAX_FORM_FIELDS = 500
WITHOUT_NUL = r"^[^\x00]+$"
"""The pattern of a text in a path, a query or a body: Postgres stores no NUL."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of one server that operators can configure."""

    connections: int = 1000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    write_timeout_s: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.max_connections, settings.head_timeout, settings.body_timeout, settings.write_timeout)
