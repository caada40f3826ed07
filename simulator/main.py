"""Builds the simulator as an ASGI application.

Run it with `uvicorn.Config(create_app(SimulatorConfig(...)), date_header=False)`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from secrets import token_hex

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulator import calls, control, fault_control, subresource_routes
from simulator.config import SimulatorConfig
from simulator.errors import TwilioError
from simulator.state import SimulatorState

DESCRIPTION = """\
A stand-in for Twilio's Calls resource, for development and tests only. No phone rings.

Point a client at it instead of `https://api.twilio.com`. `docs/simulator.md` describes its answers and the SIP
users that decide how a call ends. The routes under `/_simulator` show what arrived.
"""


class SimulatorMiddleware:
    """A middleware that adds Twilio's headers to each answer and the simulator's state to the ASGI scope, and counts requests.

    The header `Date` follows the simulator's clock, so the server must not add another `Date`. HTML pages, such as those of a
    proxy, get no `Twilio-Request-Id`.
    """

    def __init__(self, app: ASGIApp, state: SimulatorState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[calls.STATE_SCOPE_KEY] = self.state
        if scope["type"] == "http":
            self.state.requests.count_request(scope["method"], scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if not any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                    headers.append((b"twilio-request-id", f"RQ{token_hex(16)}".encode()))
                headers.append(
                    (b"date", _http_date(self.state.display_rules.to_twilio_time(self.state.now()).replace(microsecond=0)))
                )
            await send(message)

        await self.app(scope, receive, send_with_headers)


@lru_cache(maxsize=16)
def _http_date(moment: datetime) -> bytes:
    return format_datetime(moment, usegmt=True).encode()


def create_app(config: SimulatorConfig, state: SimulatorState | None = None) -> FastAPI:
    """Returns the simulator as an ASGI application.

    If `state` is given, `config` is ignored. The caller can read this state while the application runs.
    """
    state = state or SimulatorState(config)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with state.held_connections, state.callbacks.running():
            yield

    app = FastAPIOffline(
        title="Twilio simulator",
        version="2010-04-01",
        description=DESCRIPTION,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for router in (calls.router, subresource_routes.router, control.router, fault_control.router):
        app.router.routes.extend(router.routes)  # include_router would build each route a second time, which takes long
    app.add_middleware(calls.CallsMiddleware)
    app.add_middleware(SimulatorMiddleware, state=state)

    @app.exception_handler(TwilioError)
    async def answer_twilio_error(_request: Request, error: TwilioError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def answer_unserved_route(request: Request, error: HTTPException) -> Response:
        """Answers a request that matches no route, in Twilio's JSON: 405 if only the method is wrong, else 404."""
        return TwilioError(20004 if error.status_code == 405 else 20404, request.url.path).response()

    return app
