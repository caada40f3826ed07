"""Limits on what a client can use before it is authenticated. Bulk requests have a larger limit: app/queues/router.py."""

from dataclasses import dataclass
from typing import Self

from app.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADER_LINES = 100
MAX_BODY_BYTES = 64 * 1024
MAX_FORM_FIELDS = 500
MAX_OPERATIONS_CONNECTIONS = 100
"""The limit of open connections at the operations port. Clients of the API do not count, so probes still get a connection."""
NO_NUL_PATTERN = r"^[^\x00]+$"
"""A pattern for texts in requests: one or more characters, none of them NUL, which Postgres cannot store."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of one HTTP server that operators can configure: open connections, and seconds to read and to write.

    `connections` does not apply to the operations port `ops_port`, which has MAX_OPERATIONS_CONNECTIONS.
    """

    connections: int = 1000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    write_timeout_s: float = 60.0
    ops_port: int | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, ops_port: int | None = None) -> Self:
        timeouts = settings.head_timeout, settings.body_timeout, settings.write_timeout
        return cls(settings.max_connections, *timeouts, ops_port)
