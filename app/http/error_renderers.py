"""Renders errors for a path: problem+json under /v1, Twilio's shape under /2010-04-01.

Both formats make the same promise: a 5xx or 429 means that no call was started.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from starlette.responses import Response

from app.errors import CallgateError


class ErrorRenderer(Protocol):
    """Renders the errors of the paths below one prefix, in one format."""

    def is_creation(self, method: str, path: str) -> bool:
        """Returns whether the request creates a call. Its response must not be a 5xx or 429 if a call may have been placed."""

    def render(self, error: CallgateError, *, method: str, path: str, state: Mapping[str, Any]) -> Response:
        """Returns the response for an error. `state` is the request's state, which always has `request_id`."""

    def render_unknown(self, call_id: UUID | None, *, request_id: str) -> Response:
        """Returns the response to a creation of unknown outcome. Its status is one that no client retries automatically."""


@dataclass(frozen=True, slots=True)
class ErrorRenderers:
    """Maps prefixes of paths to their error renderers. All other paths have the default renderer."""

    default: ErrorRenderer
    by_prefix: Mapping[str, ErrorRenderer]

    def for_path(self, path: str) -> ErrorRenderer:
        return next((renderer for prefix, renderer in self.by_prefix.items() if path.startswith(prefix)), self.default)
