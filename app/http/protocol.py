"""uvicorn's HTTP/1.1 protocol, with limits on the request head, on time and on connections.

uvicorn 0.54 has no limit on the head and none on the time that a request may take to arrive. It adds the fields of a chunked
trailer to the headers, and httptools drops the body of a request that offers an upgrade (httptools#124, uvicorn#2722).

A refusal made here never answers a request in the place of another: one that is being processed keeps its answer.
"""

import asyncio
from typing import Any, Literal
from uuid import uuid4

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import CallgateError, HeadTooLarge, MalformedRequest, RequestTimeout, TooManyConnections
from app.http.limits import HEAD_LIMIT, HEADER_LINES_LIMIT, ServerLimits
from app.http.problems import ProblemRenderer
from app.observability import Metrics

# What is parsed at once, and so what an unfinished header line may exceed the limit by.
_PIECE = 16 * 1024
_PIPELINED_LIMIT = 16
# The application's own 408 comes first where there is one: it knows whose words to use.
_GRACE_S = 1.0
# To read on after a refusal lets the client read the answer: closing at once would reset the connection.
_LINGER_S = 2.0
# Offers that only concern this connection, and that are declined by not answering them.
_UPGRADE_FIELDS = frozenset({b"upgrade", b"http2-settings"})

logger = structlog.stdlib.get_logger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """Counts what it refuses in the `metrics` of the lifespan's state, where there are any."""

    def __init__(self, *args: Any, limits: ServerLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self._reading: Literal["start", "head", "body"] | None = "start"  # None: a request is complete
        self._requests = 0
        self._head_bytes = 0
        # Bytes since the parser last reported anything: a header line, a trailer or a chunk extension without an end.
        self._unreported_bytes = 0
        self._waiting_since: float | None = None
        self._fault: CallgateError | None = None
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._watched: tuple[int, str | None] | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._watch()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._write_deadline):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its client; refuse this one if all others are busy."""
        others = [each for each in self.connections if isinstance(each, BoundedProtocol) and each is not self]
        if waiting := [each for each in others if each._is_waiting]:
            # One in the middle of a request first: an idle one may be about to get its next request.
            longest = min(waiting, key=lambda each: (each._reading is None, each._waiting_since or 0.0))
            longest.transport.close()
            longest._abort_later(_LINGER_S)
        elif len(self.connections) > 2 * self.limits.connections:
            self.transport.abort()
        else:
            self._refuse(TooManyConnections(after_s=1))

    @property
    def _is_waiting(self) -> bool:
        """Whether the next thing has to come from the client."""
        return self._waiting_since is not None and not self.transport.is_closing()

    # Input

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._fault or MalformedRequest())
        except CallgateError as error:
            self._refuse(error)
        else:
            if self._reading is None and self.timeout_keep_alive_task is None and not self._is_answering:
                self._reading = "start"  # empty lines between requests
            self._watch()

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            piece, rest = rest[:_PIECE], rest[_PIECE:]
            self._unreported_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                rest = memoryview(head + bytes(piece[upgrade.args[0] :]) + bytes(rest))
            if self._unreported_bytes > HEAD_LIMIT:
                raise HeadTooLarge

    def _head_without_upgrade(self) -> bytes:
        """The head as it would be without its offer, for the parser to begin again."""
        if self.scope["method"] == "CONNECT":
            raise MalformedRequest
        lines = [f"{self.scope['method']} {self.url.decode('latin-1')} HTTP/{self.scope['http_version']}".encode("latin-1")]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _UPGRADE_FIELDS)
            if value and name not in _UPGRADE_FIELDS:
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._requests += 1
        self._reading = "head"
        self._head_bytes = self._unreported_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(b": \r\n"))
        if self._reading != "head":
            return  # RFC 9110, 6.5.1: no field of a trailer is a header unless its definition allows it
        if len(self.headers) >= HEADER_LINES_LIMIT:
            self._fault = HeadTooLarge()
            raise self._fault
        super().on_header(name, value)

    def _count(self, length: int) -> None:
        self._unreported_bytes = 0
        self._head_bytes += length
        if self._head_bytes > HEAD_LIMIT:
            self._fault = HeadTooLarge()
            raise self._fault

    def on_headers_complete(self) -> None:
        self._unreported_bytes = 0
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            return
        if len(self.pipeline) >= _PIPELINED_LIMIT:
            raise MalformedRequest
        super().on_headers_complete()
        self._reading = "body"

    def on_body(self, body: bytes) -> None:
        self._unreported_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unreported_bytes = 0
        if self.parser.should_upgrade():
            return
        self._reading = self._waiting_since = None
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for_the_next()

    # Answers

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        if self._refused:
            self.transport.close()
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later(self.limits.write_timeout_s)
        elif self._reading == "body" and not self._is_answering:
            # Answered before it has arrived: that has a deadline of its own.
            self._unset_keepalive_if_required()
        elif not self._is_answering:
            self._waiting_since = self.loop.time()

    def _wait_for_the_next(self) -> None:
        self._waiting_since = self.loop.time()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later(self.limits.write_timeout_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_later(self.limits.write_timeout_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline and not self.transport.is_closing():
            self._write_deadline.cancel()
            self._write_deadline = None

    def _abort_later(self, seconds: float) -> None:
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(seconds, self.transport.abort)

    # Deadlines and refusals

    def _watch(self) -> None:
        """The deadline of what is being read, counted from its beginning."""
        instrumented = (self._requests, self._reading)
        if instrumented == self._watched:
            return
        self._watched = instrumented
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
        if self._reading == "body":
            self._deadline = self.loop.call_later(self.limits.body_timeout_s + _GRACE_S, self._time_is_up)
        elif self._reading:
            self._deadline = self.loop.call_later(self.limits.head_timeout_s, self._time_is_up)

    def _time_is_up(self) -> None:
        if self._reading == "start":
            self.transport.close()  # it asked for nothing: a 408 could be taken for the answer to its next request
        else:
            self._refuse(RequestTimeout())

    def _refuse(self, error: CallgateError) -> None:
        """Answer what is being read, and nothing after it; then close the connection."""
        self._refused = True
        self._waiting_since = None
        if self._deadline:
            self._deadline.cancel()
        metrics: Metrics | None = self.app_state.get("metrics")
        if metrics:
            metrics.http.refused.labels(error.slug).inc()
        logger.info("request_refused_unread", problem=error.slug)
        own = self.cycle if self._reading == "body" and not self.pipeline else None
        if own is None and self._is_answering:
            # An earlier request of this connection keeps its answer, which is the last one.
            self.pipeline.clear()
            return
        if own is None or not own.response_started:
            self._write(error)
        if own is not None:
            own.disconnected = True
            own.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._abort_later(_LINGER_S)
        else:
            self.transport.close()

    def _write(self, error: CallgateError) -> None:
        request_id = uuid4().hex
        method, path = (self.scope["method"], self.scope["path"]) if self._reading == "body" else ("", "")
        response = ProblemRenderer().render(error, method=method, path=path, request_id=request_id)
        fields = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
