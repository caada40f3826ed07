"""In whose words a request is answered that is not answered as it wished: chosen by the path, once, for all who refuse.

The same promises hold in each dialect; only the words differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from starlette.responses import Response

from app.errors import CallgateError


class ErrorRenderer(Protocol):
    def is_creation(self, method: str, path: str) -> bool:
        """Whether the request asks for a call; then no 5xx or 429 may be answered once a dial has begun."""

    def refusal(self, error: CallgateError, *, method: str, path: str, request_id: str) -> Response:
        """An error as an answer."""

    def unknown(self, call_id: UUID | None, *, request_id: str) -> Response:
        """A call may have been started. Of a status that nobody repeats blindly."""


@dataclass(frozen=True, slots=True)
class ErrorRenderers:
    default: ErrorRenderer
    by_prefix: Mapping[str, ErrorRenderer]

    def of(self, path: str) -> ErrorRenderer:
        return next((dialect for prefix, dialect in self.by_prefix.items() if path.startswith(prefix)), self.default)
