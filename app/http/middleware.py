"""Around every request: its id, the limit on its body, its time, its one log line, and the answer of last resort."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from uuid import UUID, uuid4

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import (
    BodyTooLarge,
    CallgateError,
    InternalError,
    RequestTimeout,
    ResponseTruncated,
    RouteNotFound,
    ShuttingDown,
)
from app.http.error_renderers import ErrorRenderers
from app.http.limits import BODY_LIMIT
from app.http.operations import OperationsPort
from app.http.problems import note_refusal
from app.http.request_body import read_body, replaying
from app.observability import Metrics
from app.observability.context import bind, bound, clear
from app.observability.tracing import Tracing, describe, fail, is_traced

REQUEST_ID_HEADER = "X-Request-Id"
_HEADER = REQUEST_ID_HEADER.lower().encode()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# ReDoc asks a content network for its maker's logo; a cluster without internet, and its owner, want no such request.
_PAGE_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)
# Asked every few seconds by Kubernetes and Prometheus: a line for each would drown the rest.
_QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
# nginx's word for a caller that hung up before its request was read; nobody is there to be answered.
_CLIENT_CLOSED_REQUEST = 499
_UNTRACED = Tracing()
# Of what the log line knows: no addresses, not even as tokens.
_TRACED = frozenset({"request_id", "tenant_id", "call_id", "call_sid", "execution"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

logger = structlog.stdlib.get_logger(__name__)


class RequestMiddleware:
    """Pure ASGI, outermost: nothing that happens within leaves as a traceback, or in words that are not the dialect's."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tracing: Tracing,
        dialects: ErrorRenderers,
        require_room: Callable[[Scope], None],
        body_timeout_s: float,
        operations: OperationsPort,
        open_path: str,
    ) -> None:
        """`require_room` raises the CallgateError that refuses a creation unread: cheap when it is needed most.

        What lies below `open_path` is asked by the outside world, which may not decide what is traced.
        """
        self.app = app
        self.metrics = metrics
        self.tracing = tracing
        self.dialects = dialects
        self.require_room = require_room
        self.body_timeout_s = body_timeout_s
        self.operations = operations
        self.open_path = open_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        clear()
        tracing = _UNTRACED if scope["path"] in _QUIET_ROUTES else self.tracing
        trusted = not scope["path"].startswith(self.open_path)
        with tracing.request(_method(scope), headers, trusted=trusted) as spent:
            await self._handle(scope, receive, send, headers, spent)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, headers: Headers, spent: Mapping[str, float]) -> None:
        began = time.perf_counter()
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        bind(request_id=request_id)
        dialect = self.dialects.of(scope["path"])
        creation = dialect.is_creation(scope["method"], scope["path"])
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                timing = _server_timing(time.perf_counter() - began, spent)
                answered = [*message["headers"], (_HEADER, request_id.encode()), (b"server-timing", timing)]
                if any(name == b"content-type" and value.startswith(b"text/html") for name, value in answered):
                    answered.append((b"content-security-policy", _PAGE_POLICY))
                message["headers"] = answered
            await send(message)

        async def answer(error: CallgateError) -> None:
            note_refusal(error, self.metrics)
            response = dialect.refusal(error, method=scope["method"], path=scope["path"], request_id=request_id)
            if isinstance(error, RequestTimeout):
                response.headers["Connection"] = "close"
            await response(scope, receive, send_with_id)

        async def say_unknown(call_id: UUID | None) -> None:
            """A 5xx would say that no call was started."""
            await dialect.unknown(call_id, request_id=request_id)(scope, receive, send_with_id)

        async def enter() -> None:
            try:
                # The router's patterns end in `$`, which lets one line break pass; for a dialect it is another path.
                if scope["path"].endswith("\n") or not self.operations.serves(scope):
                    raise RouteNotFound
                if creation:
                    self.require_room(scope)
                if _declared_length(headers) > BODY_LIMIT:
                    raise BodyTooLarge
                body = await read_body(receive, timeout_s=self.body_timeout_s)
                if creation:
                    self.require_room(scope)  # it may have gone while the body came
                await self.app(scope, replaying(body, receive), send_with_id)
            except CallgateError as refusal:
                await answer(refusal)

        try:
            await enter()
        except asyncio.CancelledError:
            # The server's patience has ended (CALLGATE_DRAIN_TIMEOUT). Its own answer would be a 500, and a lie.
            if not status and creation:
                await say_unknown(None)
            elif not status:
                await answer(scope["state"].get("indeterminate_error") or ShuttingDown(after_s=1))
            raise
        except ResponseTruncated as cut:
            logger.warning("answer_cut", reason=str(cut))
        except ClientDisconnect:
            status = _CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("unexpected_error")
            if not status and (call_id := scope["state"].get("placed")):
                await say_unknown(call_id)
            elif not status:
                await answer(scope["state"].get("indeterminate_error") or InternalError())
        finally:
            self._record(scope, status, time.perf_counter() - began, spent)

    def _record(self, scope: Scope, status: int, seconds: float, spent: Mapping[str, float]) -> None:
        # The route's template, not the path and no query: both may hold phone numbers.
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        method = _method(scope)
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        if route not in _QUIET_ROUTES:
            parts = {f"{part}_ms": round(taken * 1000, 1) for part, taken in spent.items()}
            logger.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1), **parts)
        if is_traced():
            known = {f"callgate.{name}": value for name, value in bound().items() if name in _TRACED and value}
            about = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            describe(about | known, name=f"{method} {route}")
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                fail(str(status))


def _method(scope: Scope) -> str:
    """One of a short, fixed set."""
    return scope["method"] if scope["method"] in _METHODS else "other"


def _server_timing(seconds: float, spent: Mapping[str, float]) -> bytes:
    """https://www.w3.org/TR/server-timing/: what was spent on others, and what by the gateway itself."""
    parts = {"gateway": seconds - sum(spent.values()), **spent}
    return ", ".join(f"{part};dur={max(taken, 0) * 1000:.1f}" for part, taken in parts.items()).encode()


def _request_id(headers: Headers) -> str:
    """The caller's own id when it is sane, so that its logs and ours can be joined."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _declared_length(headers: Headers) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() else 0
