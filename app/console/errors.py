"""Renders the errors of requests below /console as HTML pages."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starlette.responses import Response

from app.callgate_error import CallgateError
from app.console.navigation import section_link_for_path
from app.console.rendering import render_response
from app.errors import CallNotFound, DatabaseUnavailable, InternalError, InvalidRequest, RouteNotFound, Unauthorized
from app.http.concurrency import CHANGE_IN_DOUBT_DETAIL
from app.tenants.postponed_calls import SETTINGS_NOT_YET_APPLIED_DETAIL

_DATABASE_TEXT = (
    "The database cannot be reached, or took too long to answer. If you wanted to change something, look whether it was "
    "changed before you repeat it."
)
# Texts for people, by the texts of the API that they replace.
_CONSOLE_TEXTS = {
    InternalError.default_detail: "The page could not be made. The log has the cause under this request id.",
    RouteNotFound.default_detail: "The console has no such page.",
    InvalidRequest.default_detail: "Something in the address of the page, or in the form, is wrong. Nothing was changed.",
    CallNotFound.default_detail: "No call has this id or sid, or it belongs to another tenant.",
    DatabaseUnavailable.default_detail: _DATABASE_TEXT,
    CHANGE_IN_DOUBT_DETAIL: _DATABASE_TEXT,
    SETTINGS_NOT_YET_APPLIED_DETAIL: "The change is stored, but may not yet apply to calls that already wait. Make it again.",
}


class ErrorPageRenderer:
    """Renders the errors of requests below /console as HTML pages. Implements app.http.error_renderers.ErrorRenderer.

    `is_call_creation` always returns False, because no request to the console creates a call.
    """

    def is_call_creation(self, method: str, path: str) -> bool:
        return False

    def render(self, error: CallgateError, *, method: str, path: str, state: Mapping[str, Any]) -> Response:
        context = {
            "error": error,
            "detail": _CONSOLE_TEXTS.get(error.detail, error.detail),
            "needs_login": isinstance(error, Unauthorized),
            "back": section_link_for_path(path),
            "request_id": state["request_id"],
        }
        response = render_response("error.html", error.status, path, state, context)
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    def render_unknown_outcome(self, call_id: UUID, *, request_id: str) -> Response:
        return self.render(InternalError(), method="", path="", state={"request_id": request_id})
