"""Renders errors as RFC 9457 problem+json, and describes them for OpenAPI.

The titles and texts of the errors are in app/errors.py and app/request_errors.py.
"""

from collections.abc import Mapping
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
from starlette.types import Scope

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
    PaceExceeded,
    RequestTimeout,
    RouteNotFound,
    ShuttingDown,
    TooManyAttempts,
    Unauthorized,
    UpstreamThrottled,
    UpstreamUnreachable,
    WorkloadKeysUnavailable,
)
from app.http.error_renderers import ErrorRenderers
from app.http.openapi import drop_null_types, header_references
from app.http.request_log import count_error
from app.observability import Metrics
from app.observability.context import bind_log_fields

PROBLEM_MEDIA_TYPE = "application/problem+json"
CREATION_PATH = "/v1/calls"
_MAX_FIELD_ERRORS = 100
PROBLEM_TYPE_PREFIX = "urn:callgate:problem:"
# By response header: the errors whose response can have it.
_ERRORS_WITH_HEADER: dict[str, tuple[type[CallgateError], ...]] = {
    "Retry-After": (
        CallPending,
        DatabaseUnavailable,
        Overloaded,
        PaceExceeded,
        ShuttingDown,
        TooManyAttempts,
        UpstreamThrottled,
        UpstreamUnreachable,
        WorkloadKeysUnavailable,
    ),
    "WWW-Authenticate": (Unauthorized,),
}


class Retry(BaseModel):
    """The member `retry` of a problem: whether the client may repeat the request, and how."""

    safe: bool = Field(description="Whether repeating the request can never place a second call.")
    same_key: bool = Field(description="Whether to repeat it with the same Idempotency-Key; if false, use a new one.")
    after_s: int | None = Field(None, description="Seconds to wait before repeating it.")


class FieldErrorDetail(BaseModel):
    pointer: str = Field(description="RFC 6901 JSON pointer into the body; `?name` for a query parameter.")
    code: str = Field(description="A stable code for the fault.")
    detail: str


class UpstreamDetail(BaseModel):
    """Twilio's error response, as part of a problem."""

    model_config = ConfigDict(json_schema_extra=drop_null_types)

    status: int | None = Field(None, description="The HTTP status.")
    code: int | None = Field(None, description="Twilio's error code.")
    message: str | None = None
    more_info: str | None = Field(None, description="Twilio's page about the error code.")
    request_id: str | None = Field(None, description="Twilio's id of the request, for Twilio's support.")


class Problem(BaseModel):
    """An RFC 9457 problem, with what happened to the call and whether repeating the request is safe."""

    model_config = ConfigDict(json_schema_extra=drop_null_types)

    type: str = Field(description="A stable URI; [Errors](/docs/errors) has a section for each.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request.")
    execution: Literal["not_started", "unknown"] | None = Field(
        None, description="Creations only: what this request did. `not_started` means that it placed no call."
    )
    retry: Retry
    request_id: str
    call_id: UUID | None = Field(None, description="The id of the call's record, if there is one.")
    scope: str | None = Field(None, description="The scope that the API key lacks: `call`, `read` or `admin`.")
    errors: list[FieldErrorDetail] | None = Field(None, description="All faults of an invalid request.")
    upstream: UpstreamDetail | None = None


class UnknownOutcomeResponse(BaseModel):
    """The body of the 202 response to a creation that was interrupted after it may have started a call."""

    id: UUID = Field(description="The id of the call's record, in which the outcome will be.")
    execution: Literal["unknown"]
    request_id: str


def problem_of(
    error: CallgateError, *, method: str, instance: str, request_id: str, is_of_creation: bool | None = None
) -> Problem:
    """Returns the body of an error response. `instance` is the path of the request.

    The member `execution` says whether the request started a call. It is set only if the request creates a call: elsewhere, a
    reader could take `not_started` for the state of an existing call. `is_of_creation` says whether the request creates a call.
    If it is None, `method` and `instance` decide.
    """
    upstream = error.upstream
    if is_of_creation is None:
        is_of_creation = is_call_creation(method, instance)
    return Problem(
        type=PROBLEM_TYPE_PREFIX + error.slug,
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        execution=error.execution if is_of_creation else None,
        retry=Retry(safe=error.is_safe_to_repeat, same_key=error.repeat_with_same_key, after_s=error.retry_after_s),
        request_id=request_id,
        call_id=error.call_id,
        scope=error.scope,
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


def problem_json(problem: Problem) -> dict[str, Any]:
    """Returns the problem as JSON. Members that are null are left out, except those of `retry`."""
    return problem.model_dump(mode="json", exclude_none=True) | {"retry": problem.retry.model_dump()}


def is_call_creation(method: str, path: str) -> bool:
    """Returns whether a request creates a call under `/v1`."""
    return method == "POST" and path == CREATION_PATH


class ProblemRenderer:
    """Renders errors as RFC 9457 problem+json. If it is unknown whether a call was started, the status is 202."""

    def is_call_creation(self, method: str, path: str) -> bool:
        return is_call_creation(method, path)

    def render(self, error: CallgateError, *, method: str, path: str, state: Mapping[str, Any]) -> Response:
        problem = problem_of(error, method=method, instance=path, request_id=state["request_id"])
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Bearer realm="callgate"'
        return JSONResponse(
            problem_json(problem),
            status_code=error.status,
            headers=headers,
            media_type=PROBLEM_MEDIA_TYPE,
        )

    def render_unknown_outcome(self, call_id: UUID, *, request_id: str) -> Response:
        body = UnknownOutcomeResponse(id=call_id, execution="unknown", request_id=request_id)
        return JSONResponse(body.model_dump(mode="json"), 202, headers={"Location": f"{CREATION_PATH}/{call_id}"})


def count_and_log_error(error: CallgateError, metrics: Metrics, scope: Scope) -> None:
    """Counts the error in the metrics, and adds the error's slug and the id of the call to the request's log line."""
    count_error(metrics, scope, error)
    bind_log_fields(problem=error.slug)
    if error.call_id:
        bind_log_fields(call_id=str(error.call_id))


def install_error_handlers(app: FastAPI, metrics: Metrics, renderers: ErrorRenderers) -> None:
    """Registers handlers that render CallgateErrors and FastAPI's own errors. RequestMiddleware renders all others."""

    async def answer(request: Request, error: CallgateError, headers: dict[str, str] | None = None) -> Response:
        count_and_log_error(error, metrics, request.scope)
        path = request.url.path
        response = renderers.renderer_for_path(path).render(
            error, method=request.method, path=path, state=request.scope["state"]
        )
        response.headers.update(headers or {})
        return response

    async def on_callgate_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, CallgateError)  # noqa: S101  # registered for this class only
        return await answer(request, error, {"Connection": "close"} if isinstance(error, RequestTimeout) else None)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return await answer(
            request, InvalidRequest(field_errors=tuple(_field_error_of_fastapi(detail) for detail in error.errors()))
        )

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        known = {404: RouteNotFound, 405: MethodNotAllowed, 400: MalformedBody}
        translated = known.get(error.status_code, InternalError)
        headers = dict(error.headers or {})
        if translated is MethodNotAllowed:
            headers["Allow"] = ", ".join(_allowed_methods(app, request.scope["path"]))
        return await answer(request, translated(), headers)

    app.add_exception_handler(CallgateError, on_callgate_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Returns the HTTP methods that the path supports, over all its routes. Starlette's Allow header has those of one route."""

    def is_allowed(method: str) -> bool:
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        matching = [route for route in app.routes if route.matches(scope)[0] is Match.FULL]
        return any(method == "GET" or not isinstance(route, Mount) for route in matching)  # mounts serve static files

    allowed = [method for method in ("DELETE", "GET", "PATCH", "POST", "PUT") if is_allowed(method)]
    return sorted([*allowed, "HEAD"]) if "GET" in allowed else allowed


def _field_error_of_fastapi(detail: dict[str, Any]) -> FieldError:
    """Converts an error that FastAPI found in a query parameter, header or path segment to a FieldError."""
    place, *names = detail["loc"]
    prefixes = {"query": "?", "header": "", "path": "path/", "body": "/"}
    return FieldError(prefixes.get(place, "/") + "/".join(map(str, names)), detail["type"], detail["msg"])


DATABASE_READ_ERRORS = (InvalidRequest, InternalError, DatabaseUnavailable)
"""The errors of a route that reads from the database."""


def error_responses(
    *errors: type[CallgateError] | CallgateError, method: str = "GET", instance: str
) -> dict[int | str, dict[str, Any]]:
    """Returns the `responses` of an OpenAPI operation that can answer with these errors, with an example of each.

    `method` and `instance` are the request's method and path in the examples. `describe_access` adds the errors of
    authentication to every route that needs a scope, so `errors` does not include them.
    """
    documented: dict[int | str, dict[str, Any]] = {}
    for each in errors:
        error = each if isinstance(each, CallgateError) else each()
        header_names = [name for name, owners in _ERRORS_WITH_HEADER.items() if isinstance(error, owners)]
        entry = documented.setdefault(
            error.status,
            {
                "description": HTTPStatus(error.status).phrase,
                "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        if header_names:
            entry["headers"] = entry.get("headers", {}) | header_references(*header_names)
        example = problem_of(error, method=method, instance=instance, request_id="0199e2f0c7d27f0f8f1d8c1c0d6a4b11")
        entry["content"][PROBLEM_MEDIA_TYPE]["examples"][error.slug] = {
            "summary": error.title,
            "value": example.model_dump(mode="json", exclude_none=True),
        }
    return documented
