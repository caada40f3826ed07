"""Errors → RFC 9457 problem+json, in one function; and their description for OpenAPI."""

from http import HTTPStatus
from typing import Any, Literal
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Mount

from app.errors import (
    CallgateError,
    CallPending,
    DatabaseUnavailable,
    FieldError,
    InternalError,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    Overloaded,
    RouteNotFound,
    ShuttingDown,
    Unauthorized,
    UpstreamThrottled,
    UpstreamUnreachable,
)
from app.http.error_renderers import ErrorRenderers
from app.http.openapi import headers, nulls_left_out
from app.observability import Metrics
from app.observability.context import bind

MEDIA_TYPE = "application/problem+json"
CREATION_PATH = "/v1/calls"
_MAX_FIELD_ERRORS = 100
TYPE_PREFIX = "urn:callgate:problem:"
# Which errors may carry which header.
_HEADERS: dict[str, tuple[type[CallgateError], ...]] = {
    "Retry-After": (CallPending, DatabaseUnavailable, Overloaded, ShuttingDown, UpstreamThrottled, UpstreamUnreachable),
    "WWW-Authenticate": (Unauthorized,),
}


class Retry(BaseModel):
    """May the same request be repeated?"""

    safe: bool = Field(description="Repeating it can never ring a second phone.")
    same_key: bool = Field(description="Repeat it under the same Idempotency-Key; false: take a new one.")
    after_s: int | None = Field(None, description="Seconds to wait first.")


class FieldErrorDetail(BaseModel):
    pointer: str = Field(description="RFC 6901 JSON pointer into the body; `?name` for a query parameter.")
    code: str = Field(description="Stable.")
    detail: str


class UpstreamDetail(BaseModel):
    """What Twilio said."""

    model_config = ConfigDict(json_schema_extra=nulls_left_out)

    status: int | None = Field(None, description="The HTTP status.")
    code: int | None = Field(None, description="Twilio's error code.")
    message: str | None = None
    more_info: str | None = Field(None, description="The page about the code.")
    request_id: str | None = Field(None, description="Twilio's own id of the request, for its support.")


class Problem(BaseModel):
    """RFC 9457, with what happened to the call and whether repeating the request is safe."""

    model_config = ConfigDict(json_schema_extra=nulls_left_out)

    type: str = Field(description="A stable URI; [Errors](/docs/errors) has a section for each.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request.")
    execution: Literal["not_started", "unknown"] | None = Field(
        None, description="Of a creation: what this request did. `not_started` means that it placed no call."
    )
    retry: Retry
    request_id: str
    call_id: UUID | None = Field(None, description="The record, where there is one.")
    errors: list[FieldErrorDetail] | None = Field(None, description="Every fault of an invalid request.")
    upstream: UpstreamDetail | None = None


def problem_of(error: CallgateError, *, method: str, instance: str, request_id: str) -> Problem:
    """Only a creation has an execution to speak of: what is asked about a call that is live must not look like its end."""
    upstream = error.upstream
    creation = ProblemRenderer().is_creation(method, instance)
    return Problem(
        type=TYPE_PREFIX + error.slug,
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        execution=error.execution if creation else None,
        retry=Retry(safe=error.safe, same_key=error.same_key, after_s=error.after_s),
        request_id=request_id,
        call_id=error.call_id,
        errors=[
            FieldErrorDetail(pointer=f.pointer, code=f.code, detail=f.detail) for f in error.field_errors[:_MAX_FIELD_ERRORS]
        ]
        or None,
        upstream=upstream
        and UpstreamDetail(
            status=upstream.status,
            code=upstream.code,
            message=upstream.message,
            more_info=upstream.more_info,
            request_id=upstream.request_id,
        ),
    )


class ProblemRenderer:
    """The API's own: RFC 9457, and 202 for what is not known."""

    def is_creation(self, method: str, path: str) -> bool:
        return method == "POST" and path == CREATION_PATH

    def render(self, error: CallgateError, *, method: str, path: str, request_id: str) -> Response:
        problem = problem_of(error, method=method, instance=path, request_id=request_id)
        headers = {}
        if error.after_s is not None:
            headers["Retry-After"] = str(error.after_s)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Bearer realm="callgate"'
        return JSONResponse(
            problem.model_dump(mode="json", exclude_none=True) | {"retry": problem.retry.model_dump()},
            status_code=error.status,
            headers=headers,
            media_type=MEDIA_TYPE,
        )

    def render_unknown(self, call_id: UUID | None, *, request_id: str) -> Response:
        told = {"id": call_id and str(call_id), "execution": "unknown", "request_id": request_id}
        return JSONResponse(told, status_code=202)


def note_refusal(error: CallgateError, metrics: Metrics) -> None:
    """For the request's log line, and counted."""
    metrics.http.refused.labels(error.slug).inc()
    bind(problem=error.slug)
    if error.call_id:
        bind(call_id=str(error.call_id))


def install_handlers(app: FastAPI, metrics: Metrics, renderers: ErrorRenderers) -> None:
    """Every expected way out of a handler that is not an answer becomes a refusal; the middleware answers the rest."""

    async def answer(request: Request, error: CallgateError, headers: dict[str, str] | None = None) -> Response:
        note_refusal(error, metrics)
        path = request.url.path
        response = renderers.of(path).render(error, method=request.method, path=path, request_id=request.state.request_id)
        response.headers.update(headers or {})
        return response

    async def on_callgate_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, CallgateError)  # noqa: S101  # registered for this class only
        return await answer(request, error)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return await answer(request, InvalidRequest(field_errors=tuple(_fault(fault) for fault in error.errors())))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        known = {404: RouteNotFound, 405: MethodNotAllowed, 400: MalformedBody}
        translated = known.get(error.status_code, InternalError)
        headers = dict(error.headers or {})
        if translated is MethodNotAllowed:
            headers["Allow"] = ", ".join(_allowed(app, request.scope["path"]))
        return await answer(request, translated(), headers)

    app.add_exception_handler(CallgateError, on_callgate_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _allowed(app: FastAPI, path: str) -> list[str]:
    """Starlette names the methods of one route only; a path may have several."""

    def takes(method: str) -> bool:
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        matching = [route for route in app.routes if route.matches(scope)[0] is Match.FULL]
        return any(method == "GET" or not isinstance(route, Mount) for route in matching)  # files are what is mounted

    allowed = [method for method in ("DELETE", "GET", "PATCH", "POST", "PUT") if takes(method)]
    return sorted([*allowed, "HEAD"]) if "GET" in allowed else allowed


def _fault(detail: dict[str, Any]) -> FieldError:
    """A query parameter, header or path segment that FastAPI refused."""
    place, *names = detail["loc"]
    marks = {"query": "?", "header": "", "path": "path/", "body": "/"}
    return FieldError(marks.get(place, "/") + "/".join(map(str, names)), detail["type"], detail["msg"])


def responses(*errors: type[CallgateError], method: str = "GET", instance: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these errors of an operation, an example each."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        told = [name for name, owners in _HEADERS.items() if issubclass(error, owners)]
        entry = documented.setdefault(
            error.status,
            {
                "description": HTTPStatus(error.status).phrase,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        if told:
            entry["headers"] = entry.get("headers", {}) | headers(*told)
        example = problem_of(error(), method=method, instance=instance, request_id="0199e2f0c7d27f0f8f1d8c1c0d6a4b11")
        entry["content"][MEDIA_TYPE]["examples"][error.slug] = {
            "summary": error.title,
            "value": example.model_dump(mode="json", exclude_none=True),
        }
    return documented
