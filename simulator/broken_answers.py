"""Broken answers to a request that creates a call: unreadable, missing, or followed by a second answer.

The call exists in every case.
"""

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from simulator.background import BackgroundTaskSet
from simulator.connection import Connection, hold_open


class NoAnswer(Response):
    """A response that closes the connection without an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Connection(receive).close()


class ConnectionResetResponse(NoAnswer):
    """A response that resets the connection (RST) without an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Connection(receive).reset()


class SilentOpenConnection(NoAnswer):
    """A response that sends nothing and keeps the connection open until the client closes it."""

    def __init__(self, held_connections: BackgroundTaskSet) -> None:
        super().__init__()
        self._held = held_connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = await Connection(receive).detach()
        if taken is not None:
            self._held.start(hold_open(taken))


class HalfAnswer(Response):
    """A response that sends the headers and the first half of the body, and then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
        await Connection(receive).close()


class AnswerWithStrayPage(Response):
    """A response that sends the answer and then, although no other request arrived, an error page as of a proxy.

    The connection stays open.
    """

    def __init__(self, created: Response, page: Response) -> None:
        super().__init__(created.body, created.status_code, media_type=JSONResponse.media_type)
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(receive)
        await super().__call__(scope, receive, send)
        head = [f"HTTP/1.1 {self._page.status_code} Stray".encode(), *(b": ".join(field) for field in self._page.raw_headers)]
        connection.write(b"\r\n".join([*head, b"", bytes(self._page.body)]))
