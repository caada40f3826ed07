"""Handles every request: sets its id, reads its body, renders unexpected errors, then logs, counts and times it."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid4

from app.errors import (
    BodyTooLarge,
    CallgateError,
    InternalError,
    RequestTimeout,
    ResponseTruncated,
    RouteNotFound,
    ShuttingDown,
)
from app.http.error_renderers import ErrorRenderer, ErrorRenderers
from app.http.limits import MAX_BODY_BYTES
from app.http.operations import OperationsPort
from app.http.problems import count_and_log_error
from app.http.request_body import body_too_large_error, limit_body, read_body, replay_body
from app.http.request_log import UNLOGGED_PATHS, count_and_log_request, method_label
from app.observability import Metrics
from app.observability.context import bind_log_fields, clear_log_fields
from app.observability.tracing import Tracing

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID_RAW_NAME = REQUEST_ID_HEADER.lower().encode()
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# For pages that set no policy themselves, such as the documentation: browsers load nothing from other hosts.
_CSP_RAW_NAME = b"content-security-policy"
_DEFAULT_CSP = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)
# nginx's status for a client that disconnected before its request was read. No response is sent.
_CLIENT_DISCONNECTED_STATUS = 499
# Bodies are sent in pieces of at most this size. A body that is sent at once would wait in the memory of its connection.
_BODY_PIECE_BYTES = 64 * 1024
_NO_TRACING = Tracing()

logger = structlog.stdlib.get_logger(__name__)


class RequestMiddleware:
    """The outermost ASGI middleware. Renders every exception as an error response, and counts and logs each request."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tracing: Tracing,
        renderers: ErrorRenderers,
        require_capacity: Callable[[Scope], None],
        body_timeout_s: float,
        operations: OperationsPort,
        untrusted_path_prefix: str,
        large_body_limit: Callable[[Scope], int | None],
        fast_path_endpoint: Callable[[Scope], ASGIApp | None],
    ) -> None:
        """Wraps the ASGI application `app`.

        `require_capacity` raises a CallgateError if a request that creates a call must be refused because too many are in
        progress, or because the process is shutting down. `operations` decides which paths each port serves. Requests below
        `untrusted_path_prefix` come from the internet, so their `traceparent` header is ignored.

        `fast_path_endpoint` returns the endpoint of a request that skips the routing of Starlette and FastAPI; None for all
        other requests.

        `large_body_limit` returns a limit in bytes, or None. With a limit, the body may be longer than MAX_BODY_BYTES, and the
        endpoint reads it itself after it has authenticated the client. With None, the middleware reads the body first.
        """
        self.app = app
        self.metrics = metrics
        self.tracing = tracing
        self.renderers = renderers
        self.require_capacity = require_capacity
        self.body_timeout_s = body_timeout_s
        self.operations = operations
        self.untrusted_path_prefix = untrusted_path_prefix
        self.large_body_limit = large_body_limit
        self.fast_path_endpoint = fast_path_endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        clear_log_fields()
        tracing = _NO_TRACING if scope["path"] in UNLOGGED_PATHS else self.tracing
        trusted = not scope["path"].startswith(self.untrusted_path_prefix)
        with tracing.trace_request(method_label(scope), headers, trusted=trusted) as seconds_by_part:
            exchange = _HttpExchange(
                scope, send, headers, self.renderers.renderer_for_path(scope["path"]), self.metrics, seconds_by_part
            )
            try:
                await self._respond_or_send_error(exchange, receive)
            finally:
                count_and_log_request(self.metrics, scope, exchange.status, exchange.elapsed_seconds, seconds_by_part)

    async def _respond_or_send_error(self, exchange: "_HttpExchange", receive: Receive) -> None:
        try:
            try:
                await self._call_endpoint(exchange, receive)
            except CallgateError as error:
                await exchange.send_error(error)
        except asyncio.CancelledError:
            # CALLGATE_DRAIN_TIMEOUT is over. uvicorn would send a 500, which would say that no call was started. A call whose
            # intent (its first record) may be committed may have been started.
            call_id = exchange.state.get("placed") or exchange.state.get("intent")
            await exchange.send_fallback_error(ShuttingDown(retry_after_s=1), possibly_started_call_id=call_id)
            raise
        except ResponseTruncated as error:
            logger.warning("response_truncated", reason=str(error))
        except ClientDisconnect:
            exchange.status = _CLIENT_DISCONNECTED_STATUS
        except Exception:
            logger.exception("unexpected_error")
            await exchange.send_fallback_error(InternalError(), possibly_started_call_id=exchange.state.get("placed"))

    async def _call_endpoint(self, exchange: "_HttpExchange", receive: Receive) -> None:
        """Reads the body and calls the endpoint. Raises a CallgateError if the request is refused.

        Some requests are refused before their body is read: requests for paths that this port does not serve, requests that
        create a call while too many of them are in progress, and requests whose Content-Length is over the limit.
        """
        scope = exchange.scope
        # The router's patterns end in `$`, which also matches before a final line break.
        if scope["path"].endswith("\n") or not self.operations.serves_path(scope):
            raise RouteNotFound
        if exchange.is_creation:
            self.require_capacity(scope)
        declared, limit = _content_length(exchange.headers), self.large_body_limit(scope)
        if limit is not None:
            if declared > limit:
                raise body_too_large_error(limit)
            await self.app(scope, limit_body(receive, limit=limit, timeout_s=self.body_timeout_s), exchange.send)
            return
        if declared > MAX_BODY_BYTES:
            raise BodyTooLarge
        body = await read_body(receive, timeout_s=self.body_timeout_s)
        if exchange.is_creation:
            self.require_capacity(scope)  # again: other creations may have started while the body arrived
        endpoint = self.fast_path_endpoint(scope) or self.app
        await endpoint(scope, replay_body(body, receive), exchange.send)


class _HttpExchange:
    """One HTTP request and its response. Adds headers to the response, and sends error responses."""

    def __init__(
        self,
        scope: Scope,
        send: Send,
        headers: Headers,
        renderer: ErrorRenderer,
        metrics: Metrics,
        seconds_by_part: Mapping[str, float],
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.is_creation = renderer.is_call_creation(scope["method"], scope["path"])
        self.status = 0
        self._send = send
        self._renderer = renderer
        self._metrics = metrics
        self._seconds_by_part = seconds_by_part
        self._began = time.perf_counter()
        self._request_id = self.state["request_id"] = _request_id(headers)
        bind_log_fields(request_id=self._request_id)

    @property
    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self._began

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            timing = _server_timing(self.elapsed_seconds, self._seconds_by_part)
            headers = [*message["headers"], (_REQUEST_ID_RAW_NAME, self._request_id.encode()), (b"server-timing", timing)]
            is_page = any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers)
            if is_page and not any(name == _CSP_RAW_NAME for name, _ in headers):
                headers.append((_CSP_RAW_NAME, _DEFAULT_CSP))
            message["headers"] = headers
        elif message["type"] == "http.response.body":
            message = await self._send_all_but_the_last_piece(message)
        await self._send(message)

    async def _send_all_but_the_last_piece(self, message: Message) -> Message:
        """Splits a long body into pieces, and sends all but the last piece at the speed at which the client reads.

        Returns the message that is still to be sent: the last piece, or `message` itself if the body is short.
        """
        body, sent = message.get("body", b""), 0
        while len(body) - sent > _BODY_PIECE_BYTES:
            piece = body[sent : sent + _BODY_PIECE_BYTES]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += len(piece)
        return {**message, "body": body[sent:]} if sent else message

    async def send_error(self, error: CallgateError) -> None:
        count_and_log_error(error, self._metrics, self.scope)
        response = self._renderer.render(error, method=self.scope["method"], path=self.scope["path"], state=self.state)
        if isinstance(error, RequestTimeout):
            response.headers["Connection"] = "close"
        await response(self.scope, _disconnected_receive, self.send)

    async def send_fallback_error(self, error: CallgateError, *, possibly_started_call_id: UUID | None) -> None:
        """Sends an error response to a request that was canceled or failed unexpectedly, unless a response has started.

        `possibly_started_call_id` is the id of a call that Twilio may have started for the request. With it, the response says
        that the outcome is unknown, and its status is not a 5xx.
        """
        if self.status:
            return
        if possibly_started_call_id is not None:
            response = self._renderer.render_unknown_outcome(possibly_started_call_id, request_id=self._request_id)
            await response(self.scope, _disconnected_receive, self.send)
        else:
            await self.send_error(self.state.get("indeterminate_error") or error)


async def _disconnected_receive() -> Message:
    """Returns `http.disconnect`. This is the ASGI `receive` that is passed to error responses, which read no request body."""
    return {"type": "http.disconnect"}


def _server_timing(seconds: float, seconds_by_part: Mapping[str, float]) -> bytes:
    """Returns the value of the Server-Timing header (https://www.w3.org/TR/server-timing/), in milliseconds.

    `seconds` is the duration of the request. `seconds_by_part` has the seconds of each part, such as `database`. The rest of
    the duration is reported as `gateway`.
    """
    parts = {"gateway": seconds - sum(seconds_by_part.values()), **seconds_by_part}
    return ", ".join(f"{part};dur={max(seconds_taken, 0) * 1000:.1f}" for part, seconds_taken in parts.items()).encode()


def _request_id(headers: Headers) -> str:
    """Returns the client's X-Request-Id if it is valid, otherwise a new id.

    With the client's id, the client's logs and Callgate's can be joined.
    """
    value = headers.get(REQUEST_ID_HEADER, "")
    return value if _VALID_REQUEST_ID.fullmatch(value) else uuid4().hex


def _content_length(headers: Headers) -> int:
    """Returns the Content-Length in bytes; 0 if the header is missing or not a number."""
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() else 0
