"""Answers to a creation that nobody can read, or that never come. The call exists all the same."""

from starlette.responses import Response
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
