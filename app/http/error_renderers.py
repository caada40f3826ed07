"""Chooses the format of error responses by the path.

The formats are Twilio's error format under /2010-04-01, HTML pages under /console, and problem+json for all other paths. This
module defines the interface of the renderers, one for each format.

In every format, the response to a request that creates a call has a status of 5xx or 429 only if no call was started.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from starlette.responses import Response

from app.errors import CallgateError


class ErrorRenderer(Protocol):
    """The interface of a class that renders error responses in one format, such as ProblemRenderer."""

    def is_call_creation(self, method: str, path: str) -> bool:
        """Returns whether the request creates a call. If so, it gets a 5xx or 429 only if it has started no call."""

    def render(self, error: CallgateError, *, method: str, path: str, state: Mapping[str, Any]) -> Response:
        """Returns the response for an error. `state` is the request's state, which always has `request_id`."""

    def render_unknown_outcome(self, call_id: UUID, *, request_id: str) -> Response:
        """Returns the response to a request to create a call if it is unknown whether Twilio has started the call.

        The status of the response is one that does not make HTTP clients repeat the request automatically.
        """


@dataclass(frozen=True, slots=True)
class ErrorRenderers:
    """Chooses the error renderer for a path by the path's prefix. Paths without a known prefix get the default renderer."""

    default: ErrorRenderer
    by_prefix: Mapping[str, ErrorRenderer]

    def renderer_for_path(self, path: str) -> ErrorRenderer:
        return next((renderer for prefix, renderer in self.by_prefix.items() if path.startswith(prefix)), self.default)
