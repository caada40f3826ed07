"""One HTTP/1.1 connection to a server: writes a request in one piece, and parses the response with llhttp (httptools).

An error that is raised before `transport.write` is called proves that nothing was sent. No other code runs between the last
check of the connection and the write.
"""

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator

import httptools
import httpx

from app.twilio.send_gate import SendGate, TooLate

# The limit for the head, and for the trailer, of a response.
_MAX_FIELD_BYTES = 64 * 1024
# If more bytes of a body than this have arrived and are not taken, no more are read from the socket.
_MAX_UNREAD_BYTES = 256 * 1024
_BODY_LENGTH_FIELDS = frozenset({b"content-length", b"transfer-encoding"})
_FIRST_FINAL_STATUS = 200


class HttpConnection(asyncio.Protocol):
    """A connection for one request at a time. Raises httpx's errors.

    `send` writes a request and returns when the head of its response has arrived. `stream_body` then yields the body.
    """

    transport: asyncio.Transport
    # Each response gets a new parser, because a parser may keep state of an earlier response.
    _parser: httptools.HttpResponseParser

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_tls: bool) -> None:
        self._loop = loop
        # A new TLS connection may hold unread session tickets, which are not data of the application.
        self._may_hold_tickets = is_tls
        self._readable = select.poll()  # instead of MSG_PEEK, which uvloop's sockets do not support
        self._is_reading = False
        self._is_dirty = False
        self._error: httpx.TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_complete = False
        self.idle_since = 0.0

    # Requests

    async def send(self, request: bytes, *, gate: SendGate | None, read_timeout_s: float | None) -> int:
        """Writes the request, and waits for the head of the response. Sets `headers` to its fields, and returns its status.

        Raises ConnectError if the connection is unusable, and TooLate if the deadline of `gate` has passed. Nothing
        was written in either case. Raises another httpx.TransportError if the response fails.
        """
        if self.is_unusable():
            raise httpx.ConnectError("the server closed the connection or sent data before the request")
        if gate is not None and not gate.try_enter():
            raise TooLate("the deadline to send the request has passed")
        self._parser = httptools.HttpResponseParser(self)
        self._is_reading = True
        self._may_hold_tickets = False
        self._read_timeout_s = read_timeout_s
        self._field_bytes = self._unread_bytes = 0
        self._chunks: deque[bytes] = deque()
        self.headers: list[tuple[bytes, bytes]] = []
        self._status = 0
        self.is_complete = False
        self.transport.write(request)
        while not self._status:
            await self._wait()
        return self._status

    def is_unusable(self) -> bool:
        """Returns whether the server closed the connection, or sent data (read or unread) after its last response."""
        if self._is_dirty or self._error is not None or self.transport.is_closing():
            return True
        tls = self.transport.get_extra_info("ssl_object")
        if tls is not None and tls.pending():
            return True
        return not self._may_hold_tickets and bool(self._readable.poll(0))

    def take_body(self) -> bytes:
        """Returns the bytes of the body that have arrived and were not taken before."""
        taken = b"".join(self._chunks)
        self._chunks.clear()
        if self._unread_bytes > _MAX_UNREAD_BYTES and not self.transport.is_closing():
            self.transport.resume_reading()
        self._unread_bytes = 0
        return taken

    async def stream_body(self) -> AsyncIterator[bytes]:
        """Yields the rest of the body as it arrives. Raises an httpx.TransportError if the body does not arrive completely."""
        while True:
            if taken := self.take_body():
                yield taken
            elif self.is_complete:
                return
            else:
                await self._wait()

    @property
    def is_reusable(self) -> bool:
        """Whether the response is complete and the connection can take another request."""
        return self.is_complete and not self._is_dirty and self._error is None

    async def _wait(self) -> None:
        """Waits until more of the response arrives. Raises an httpx.TransportError if the connection fails or times out."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(self._read_timeout_s, self._on_timeout) if self._read_timeout_s is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_timeout(self) -> None:
        if self._waiter is not None and not self._waiter.done():  # otherwise data has arrived since
            self._fail(httpx.ReadTimeout("no data in time"))

    def _fail(self, error: httpx.TransportError) -> None:
        """Ends the current response with this error, and closes the connection."""
        if self._error is None:
            self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._error)
        self.transport.abort()

    # Events of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are not registered as such
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if not self._is_reading:
            self._is_dirty = True
            return
        self._field_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.is_complete:
                self._fail(httpx.RemoteProtocolError(f"the response is not HTTP/1.1: {type(error).__name__}"))
                return
            self._is_dirty = True
        if self.is_complete:
            self._is_reading = False
        elif self._field_bytes > _MAX_FIELD_BYTES:
            self._fail(httpx.RemoteProtocolError("the head or the trailer of the response is too long"))
            return
        elif self._unread_bytes > _MAX_UNREAD_BYTES:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Handles the end of the data that the server sends.

        The event loop does not call this method if Callgate closes the connection, or if the connection is lost. Over TLS,
        uvloop calls it only after a close_notify; asyncio also calls it if the TCP connection ends without a close_notify.
        """
        self._is_dirty = True
        if self._is_reading and self._status and not any(name.lower() in _BODY_LENGTH_FIELDS for name, _ in self.headers):
            # RFC 9112, section 6.3: without these fields, the body ends when the connection ends.
            self.is_complete, self._is_reading = True, False
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_reading:
            self._is_dirty = True
        elif exc is not None:
            self._fail(httpx.ReadError(str(exc)))
        else:
            self._fail(httpx.RemoteProtocolError("the server closed the connection before its response was complete"))

    # Events of the parser

    def on_message_begin(self) -> None:
        # Data after the complete response is no answer to a request.
        self._is_dirty = self._is_dirty or self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status and not self.is_complete:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.is_complete:
            return
        if status < _FIRST_FINAL_STATUS:
            self.headers.clear()
        else:
            self._status = status

    def on_body(self, body: bytes) -> None:
        self._field_bytes = 0
        if self._status and not self.is_complete:
            self._chunks.append(body)
            self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._status and not self.is_complete:
            self.is_complete = True
            self._is_dirty = not self._parser.should_keep_alive()
