"""What a client may cost before it is known."""

from dataclasses import dataclass
from typing import Self

from app.settings import Settings

HEAD_LIMIT = 64 * 1024
HEADER_LINES_LIMIT = 100
BODY_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of one server that an operator can set."""

    connections: int = 1000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    write_timeout_s: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.max_connections, settings.head_timeout, settings.body_timeout, settings.write_timeout)
