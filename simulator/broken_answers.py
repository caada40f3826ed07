"""Answers that nobody can read, that never come, or that another follows. The call exists all the same."""

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from simulator.background import Background
from simulator.connection import Connection, hold


class NoAnswer(Response):
    """Says nothing and closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Connection(receive).close()


class Reset(NoAnswer):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Connection(receive).reset()


class Silence(NoAnswer):
    """Says nothing and keeps the connection open until the client gives up."""

    def __init__(self, held_connections: Background) -> None:
        super().__init__()
        self._held = held_connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = await Connection(receive).take()
        if taken is not None:
            self._held.start(hold(taken))


class HalfAnswer(Response):
    """The headers and the first half of the body, then the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
        await Connection(receive).close()


class Stray(Response):
    """The answer, and after it, on the connection that stays open, a proxy's page that nobody asked for."""

    def __init__(self, created: Response, page: Response) -> None:
        super().__init__(created.body, created.status_code, media_type=JSONResponse.media_type)
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(receive)
        await super().__call__(scope, receive, send)
        head = [f"HTTP/1.1 {self._page.status_code} Stray".encode(), *(b": ".join(field) for field in self._page.raw_headers)]
        connection.write(b"\r\n".join([*head, b"", bytes(self._page.body)]))
