"""Writes the log line, the metrics and the tracing span of each request, and counts errors."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import structlog
from starlette.types import Scope

from app.errors import CallgateError, DatabaseUnavailable
from app.observability import Metrics
from app.observability.context import bound_fields
from app.observability.tracing import annotate_span, has_recording_span, mark_span_failed

UNLOGGED_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths whose requests are neither logged nor traced, because Kubernetes and Prometheus request them every few seconds."""
# The fields of the log line that are also added to spans. Phone numbers and SIP users are left out, even as pseudonyms.
_SPAN_FIELDS = frozenset({"request_id", "tenant_id", "call_id", "call_sid", "execution"})
_STANDARD_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_COUNTED_AS_UNAVAILABLE_KEY: Final = "callgate.counted_as_unavailable"  # a key of the ASGI scope

logger = structlog.stdlib.get_logger(__name__)


def count_and_log_request(
    metrics: Metrics, scope: Scope, status: int, seconds: float, seconds_by_part: Mapping[str, float]
) -> None:
    """Counts and logs a request that has ended, and adds the result to the request's tracing span.

    `seconds` is the duration of the request. `seconds_by_part` has the seconds of each part, such as `database`.
    """
    method, route = method_label(scope), _route_label(scope)
    metrics.http.requests_series(method, route, str(status)).inc()
    metrics.http.request_seconds_series(method, route).observe(seconds)
    if route not in UNLOGGED_PATHS:
        parts = {f"{part}_ms": round(taken * 1000, 1) for part, taken in seconds_by_part.items()}
        logger.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1), **parts)
    if has_recording_span():
        context = {f"callgate.{name}": value for name, value in bound_fields().items() if name in _SPAN_FIELDS and value}
        request: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        annotate_span(request | context, name=f"{method} {route}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            mark_span_failed(str(status))


def count_error(metrics: Metrics, scope: Scope, error: CallgateError) -> None:
    """Counts an error that is the response to a request, or the result of one line of a bulk request.

    DatabaseUnavailable is counted by route, too, and at most once per request, because an alert divides this number by the
    number of requests.
    """
    metrics.http.refused.labels(error.slug).inc()
    if isinstance(error, DatabaseUnavailable) and not scope.get(_COUNTED_AS_UNAVAILABLE_KEY):
        scope[_COUNTED_AS_UNAVAILABLE_KEY] = True
        metrics.http.database_unavailable.labels(method_label(scope), _route_label(scope)).inc()


def method_label(scope: Scope) -> str:
    """Returns the HTTP method for use as a metric label: "other" if it is not a standard one."""
    return scope["method"] if scope["method"] in _STANDARD_METHODS else "other"


def _route_label(scope: Scope) -> str:
    """Returns the path template of the route, or "unmatched". The real path and query may contain phone numbers."""
    route: str | None = getattr(scope.get("route"), "path", None)
    return route or "unmatched"
