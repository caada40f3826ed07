"""Sends callbacks to their receivers, over connections that are kept open.

The simulator sends up to four callbacks for each call, so this client must use little processor time. It reads only the status
of an answer.
"""

import asyncio
import ssl
from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast
from urllib.parse import quote, unquote, urlsplit

import httptools

# Shorter than servers keep an idle connection: uvicorn closes it after 5 s.
_MAX_IDLE_S = 4.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNQUOTED_IN_TARGET = "/?:@!$&'()*+,;=%-._~[]"


class CallbackError(Exception):
    """A callback got no usable answer. Each subclass is one reason."""


class InvalidURL(CallbackError):
    """The scheme, host or port of the URL is not usable."""


class ConnectError(CallbackError):
    """The TCP or TLS connection to the receiver failed."""


class ConnectTimeout(ConnectError):
    """The TCP or TLS connection to the receiver was not established in time."""


class ReadTimeout(CallbackError):
    """The receiver did not answer in time."""


class RemoteProtocolError(CallbackError):
    """The receiver closed the connection before it answered, or sent something other than HTTP."""


@dataclass(frozen=True, slots=True)
class ReceiverURL:
    scheme: str
    host: str
    port: int
    target: str
    first_header_lines: str
    """The first header lines of a request: `Host` and, if the URL has a user, `Authorization`."""

    @classmethod
    def parse(cls, url: str) -> "ReceiverURL":
        """Returns the parts of a URL that a request needs. Raises InvalidURL if the scheme, host or port is not usable."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
            ascii_host = host if host.isascii() else host.encode("idna").decode()
        except (ValueError, KeyError) as error:
            raise InvalidURL(str(error)) from None
        shown = f"[{host}]" if ":" in host else ascii_host
        head = f"Host: {shown}\r\n" if port == _DEFAULT_PORTS[parts.scheme] else f"Host: {shown}:{port}\r\n"
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            head += f"Authorization: Basic {b64encode(user.encode()).decode()}\r\n"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, ascii_host, port, quote(target, safe=_UNQUOTED_IN_TARGET), head)


_parse_receiver_url = lru_cache(maxsize=4096)(ReceiverURL.parse)


class CallbackClient:
    """Sends requests over connections that are kept open and reused. A connection carries one request at a time."""

    def __init__(self) -> None:
        self._idle: defaultdict[tuple[str, str, int], list[_Connection]] = defaultdict(list)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Returns the TLS context. Creates it at first use, because loading the certificates is slow."""
        return ssl.create_default_context()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: str, *, connect_timeout_s: float, read_timeout_s: float
    ) -> int:
        """Sends a request and returns the status of the answer. Raises CallbackError if there is no usable answer.

        If the receiver closes a reused connection without an answer, sends the request again on another connection, as HTTP
        clients do: https://www.rfc-editor.org/rfc/rfc9112#section-9.3.1.
        """
        address = _parse_receiver_url(url)
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        request = f"{method} {address.target} HTTP/1.1\r\n{address.first_header_lines}{fields}{length}\r\n{body}".encode()
        while True:
            connection = self._take_idle(address)
            is_kept = connection is not None
            if connection is None:
                connection = await self._connect(address, connect_timeout_s)
            try:
                async with asyncio.timeout(read_timeout_s):
                    return await connection.send_and_read_status(request)
            except TimeoutError:
                raise ReadTimeout from None
            except RemoteProtocolError:
                if not is_kept or connection.has_answered:
                    raise
            finally:
                connection.close_unless_finished()

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in list(connections):
                connection.close()
        self._idle.clear()

    def _take_idle(self, address: ReceiverURL) -> "_Connection | None":
        idle = self._idle[address.scheme, address.host, address.port]
        now = asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if connection.is_open and now - connection.idle_since < _MAX_IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self, address: ReceiverURL, timeout_s: float) -> "_Connection":
        idle = self._idle[address.scheme, address.host, address.port]
        tls = self._tls if address.scheme == "https" else None
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(idle), address.host, address.port, ssl=tls
                )
        except TimeoutError as error:
            raise ConnectTimeout(str(error)) from None
        except UnicodeError as error:  # no name that DNS could have
            raise InvalidURL(str(error)) from None
        except OSError as error:
            raise ConnectError(str(error)) from None
        return connection


class _Connection(asyncio.Protocol):
    """A connection to a receiver of callbacks, which can be used for several requests, one after another.

    It adds itself to the list `idle` after each answer that allows another request. The HTTP parser calls the methods `on_…`.
    """

    def __init__(self, idle: list["_Connection"]) -> None:
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None
        self._status: int | None = None
        self._is_finished = True
        self.has_answered = False
        """True once a part of the answer to the last request has arrived."""
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def send_and_read_status(self, request: bytes) -> int:
        """Sends the request and returns the status of the answer. Raises RemoteProtocolError if no status arrives.

        Returns the status even if the connection breaks after the headers of the answer.
        """
        self._answer, self._status = asyncio.get_running_loop().create_future(), None
        self._is_finished = self.has_answered = False
        if self._transport is None or self._transport.is_closing():
            raise RemoteProtocolError("the connection is closed")
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def close_unless_finished(self) -> None:
        """Closes the connection unless the whole answer has arrived and the connection can be used again."""
        if not self._is_finished:
            self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # this answers no request
            return
        self.has_answered = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._resolve_answer(str(error))
            self.close()

    def eof_received(self) -> None:
        self._resolve_answer("the receiver closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._resolve_answer(str(exc or "the receiver closed the connection"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status

    def on_message_complete(self) -> None:
        if self._status is None:
            return  # 1xx: the answer follows
        if self._is_finished:
            self.close()  # a second answer
            return
        self._is_finished = self.is_open and self._parser.should_keep_alive()
        self._resolve_answer("")
        if self._is_finished:
            self.idle_since = asyncio.get_running_loop().time()
            self._idle.append(self)

    def _resolve_answer(self, reason: str) -> None:
        if self._answer is None or self._answer.done():
            return
        if self._status is not None:
            self._answer.set_result(self._status)
        else:
            self._answer.set_exception(RemoteProtocolError(reason))
