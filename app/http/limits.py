"""Limits of connections, request heads and bodies. They apply to every client, also before it is authenticated.

Only the bodies of bulk requests may be longer (app/queues/router.py).
"""

from dataclasses import dataclass
from typing import Self

from app.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADER_LINES = 100
MAX_BODY_BYTES = 64 * 1024
MAX_FORM_FIELDS = 500
MAX_OPERATIONS_CONNECTIONS = 100
"""The limit of open connections at the operations port. The API's port has its own limit, so probes get a connection."""
NO_NUL_PATTERN = r"^[^\x00]+$"
"""A pattern for texts in requests: one or more characters, none of them NUL, which Postgres cannot store."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The configurable limits of one HTTP server: the number of open connections, and the seconds for reads and writes.

    `ops_port` is the separate port for probes, metrics and operators; None means that there is no such port. The limit of
    connections at this port is MAX_OPERATIONS_CONNECTIONS, and not `connections`.
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
