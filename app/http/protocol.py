"""uvicorn's HTTP/1.1 protocol, with limits on the request head, on time and on connections.

uvicorn 0.54 limits neither the size of a request head nor the time in which a request must arrive. Two faults are corrected:
uvicorn adds trailer fields to the headers, and httptools drops the body of an upgrade request (httptools#124, uvicorn#2722).

If a client sends a bad request while its earlier request is in progress, the bad request gets no error response, because the
client would take the error for the response to the earlier request.
"""

import asyncio
from typing import Any, Literal

import httptools
import structlog
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import CallgateError, HeadTooLarge, MalformedRequest, RequestTimeout, TooManyConnections
from app.http.connection_timer import ConnectionTimer
from app.http.limits import MAX_HEAD_BYTES, MAX_HEADER_LINES, MAX_OPERATIONS_CONNECTIONS, ServerLimits
from app.http.operations import OperationsPort
from app.http.raw_responses import raw_error_response
from app.http.upgrades import head_without_upgrade
from app.observability import Metrics

# Bytes parsed in one step. An unfinished header line can exceed the limit by as much.
_PARSE_CHUNK_BYTES = 16 * 1024
_MAX_PIPELINED_REQUESTS = 16
# Added to the body's deadline, so that the application sends its own 408 first, in the error format of the path.
_BODY_TIMEOUT_MARGIN_S = 1.0
# Time for the client to read an error response. An immediate close would reset the connection and could discard the response.
_ERROR_READ_TIMEOUT_S = 2.0

logger = structlog.stdlib.get_logger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """One connection of uvicorn's HTTP/1.1 server, with limits on the request head, on time and on open connections.

    Counts the requests that it refuses, if the application's lifespan state has `metrics`.
    """

    def __init__(self, *args: Any, limits: ServerLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self._reading: Literal["start", "head", "body"] | None = "start"  # None: the request is complete
        self._requests = 0
        self._head_bytes = 0
        # Bytes since the parser's last callback: an unfinished header line, trailer or chunk extension.
        self._unreported_bytes = 0
        self._waiting_since: float | None = None
        self._head_error: CallgateError | None = None
        self._is_refused = self._is_for_operations = False
        self._read_deadline = ConnectionTimer(self.loop, self._on_read_timeout)
        # The request (by its number on the connection) and the part of the request that the read deadline applies to.
        self._read_deadline_for: tuple[int, str | None] | None = None
        # Runs while too much of a response is unsent.
        self._write_deadline = ConnectionTimer(self.loop, self._abort)
        # Runs from the moment when the connection is to be closed. An orderly close waits until the client has read everything.
        self._close_deadline = ConnectionTimer(self.loop, self._abort)

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._set_read_deadline()
        self._is_for_operations = OperationsPort(self.limits.ops_port).is_port_of(self.server)
        limit = MAX_OPERATIONS_CONNECTIONS if self._is_for_operations else self.limits.connections
        if len(self.connections) > limit:
            self._enforce_connection_limit(limit)

    def connection_lost(self, exc: Exception | None) -> None:
        for deadline in (self._read_deadline, self._write_deadline, self._close_deadline):
            deadline.cancel()
        super().connection_lost(exc)

    def _enforce_connection_limit(self, limit: int) -> None:
        """Makes room for this new connection if its port has more connections than `limit`.

        Closes the connection that has waited longest for its first request or for the rest of a request. If there is no such
        connection, closes the one that has been idle longest. If all clients wait for a response, refuses the new connection;
        from twice `limit` connections on, closes it without an error response.
        """
        others = [each for each in self.connections if isinstance(each, BoundedProtocol) and each is not self]
        others = [each for each in others if each._is_for_operations == self._is_for_operations]
        if len(others) < limit:
            return
        if waiting := [each for each in others if each._waiting_since is not None and not each.transport.is_closing()]:
            longest = min(waiting, key=lambda each: (each._reading is None, each._waiting_since or 0.0))
            longest._close(within_s=_ERROR_READ_TIMEOUT_S)
        elif len(others) >= 2 * limit:
            self.transport.abort()
        else:
            self._refuse(TooManyConnections(retry_after_s=1))

    # Input

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(self._head_error or MalformedRequest())
        except CallgateError as error:
            self._refuse(error)
        else:
            if self._reading is None and self.timeout_keep_alive_task is None and not self._is_responding:
                self._reading = "start"  # the data was only empty lines between requests
            self._set_read_deadline()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes the connection
        """Handles a client that sends no more. Returns whether the connection stays open, to answer its complete requests."""
        if self._is_responding and self._incomplete_request is None:
            self.cycle.keep_alive = False  # closes the connection after the last response
            self._read_deadline.cancel()
            return True
        self._close_deadline.start(self.limits.write_timeout_s)
        return False

    def _parse(self, data: bytes) -> None:
        """Passes the data to the HTTP parser. Raises HeadTooLarge if the request head, or an unfinished line, is too long.

        If a request asks for a protocol upgrade, a new parser gets the request's head again, without the upgrade headers.
        """
        rest = memoryview(data)
        while rest:
            chunk, rest = rest[:_PARSE_CHUNK_BYTES], rest[_PARSE_CHUNK_BYTES:]
            self._unreported_bytes += len(chunk)
            try:
                self.parser.feed_data(chunk)
            except httptools.HttpParserUpgrade as upgrade:
                scope = self.scope
                head = head_without_upgrade(scope["method"], self.url, scope["http_version"], self.headers)
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                rest = memoryview(head + bytes(chunk[upgrade.args[0] :]) + bytes(rest))
            if self._unreported_bytes > MAX_HEAD_BYTES:
                raise HeadTooLarge

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._requests += 1
        self._reading = "head"
        self._head_bytes = self._unreported_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_head_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head_bytes(len(name) + len(value) + len(b": \r\n"))
        if self._reading != "head":
            return  # a trailer field; RFC 9110 §6.5.1 forbids merging it into the headers
        if len(self.headers) >= MAX_HEADER_LINES:
            self._head_error = HeadTooLarge()
            raise self._head_error
        super().on_header(name, value.rstrip(b" \t"))  # RFC 9110 §5.5: white space after a value is not part of it

    def _count_head_bytes(self, length: int) -> None:
        self._unreported_bytes = 0
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            self._head_error = HeadTooLarge()
            raise self._head_error

    def on_headers_complete(self) -> None:
        self._unreported_bytes = 0
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            return
        if len(self.pipeline) >= _MAX_PIPELINED_REQUESTS:
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
            self._start_keep_alive_timer()

    # Responses

    @property
    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def app_with_deadline(scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            finally:
                if cycle.response_started and not cycle.response_complete and not cycle.disconnected:
                    self._close_deadline.start(self.limits.write_timeout_s)  # uvicorn closes the connection

        super()._start_asgi_task(cycle, app_with_deadline)

    @property
    def _incomplete_request(self) -> RequestResponseCycle | None:
        """The request whose body is being read; None if there is none, or if an earlier request is in progress."""
        return self.cycle if self._reading == "body" and not self.pipeline else None

    def on_response_complete(self) -> None:
        if self._is_refused:
            self.transport.close()
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_deadline.start(self.limits.write_timeout_s)
        elif self._reading == "body" and not self._is_responding:
            # The response was sent before the whole body arrived. The read deadline limits the wait for the rest.
            self._unset_keepalive_if_required()
        elif not self._is_responding:
            self._waiting_since = self.loop.time()

    def _start_keep_alive_timer(self) -> None:
        self._waiting_since = self.loop.time()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self._close(within_s=self.limits.write_timeout_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline.start(self.limits.write_timeout_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline.cancel()

    def _close(self, *, within_s: float) -> None:
        """Closes the connection when the client has read everything, after `within_s` seconds at the latest."""
        self.transport.close()
        self._close_deadline.start(within_s)

    def _abort(self) -> None:
        self.transport.abort()

    # Deadlines and errors

    def _set_read_deadline(self, *, restart: bool = False) -> None:
        """Starts the deadline for reading the current head or body. If it runs already, `restart` restarts it."""
        part = (self._requests, self._reading)
        if part == self._read_deadline_for and not restart:
            return
        self._read_deadline_for = part
        self._read_deadline.cancel()
        if self._reading == "body":
            self._read_deadline.start(self.limits.body_timeout_s + _BODY_TIMEOUT_MARGIN_S)
        elif self._reading:
            self._read_deadline.start(self.limits.head_timeout_s)

    def _on_read_timeout(self) -> None:
        if self.flow.read_paused:
            self._set_read_deadline(restart=True)  # an earlier request is in progress, and what the client sends is not read
        elif self._reading == "start":
            # No request has begun: the client could take a 408 for the response to its next one.
            self._close(within_s=self.limits.write_timeout_s)
        else:
            self._refuse(RequestTimeout())

    def _refuse(self, error: CallgateError) -> None:
        """Sends an error response, or none if an earlier request is in progress. Then closes the connection."""
        self._is_refused = True
        self._waiting_since = None
        self._read_deadline.cancel()
        metrics: Metrics | None = self.app_state.get("metrics")
        if metrics:
            metrics.http.refused.labels(error.slug).inc()
        logger.info("request_refused_unread", problem=error.slug)
        current = self._incomplete_request
        if current is None and self._is_responding:
            # An earlier request is in progress. Its response is the last one of this connection.
            self.pipeline.clear()
            return
        if current is None or not current.response_started:
            method, path = (self.scope["method"], self.scope["path"]) if self._reading == "body" else ("", "")
            headers = self.server_state.default_headers
            self.transport.write(raw_error_response(error, method=method, path=path, default_headers=headers))
        if current is not None:
            current.disconnected, current.waiting_for_100_continue = True, False
            current.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._close_deadline.start(_ERROR_READ_TIMEOUT_S)
        else:
            self._close(within_s=_ERROR_READ_TIMEOUT_S)
