"""create_app(): lifespan, routers, middleware, error handlers, documentation."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema

from app import __version__, health, sip_uris
from app.callbacks import router as callbacks_router
from app.calls import examples
from app.calls import router as calls_router
from app.calls.validation import CallRequest
from app.health import Readiness
from app.middleware import RequestMiddleware
from app.observability import Metrics
from app.problems import Problem, install_handlers
from app.services import services
from app.settings import Settings
from app.sip_uris import SipUriQuestion

DESCRIPTION = """\
A gateway between your services and Twilio's Calls resource. **One request, at most one ring**: a call creation is sent to
Twilio at most once unless it is proven that the earlier attempt was never processed, and every request ends as `started`,
`not_started` or `unknown`.

Press **Authorize** and paste a Callgate API key (`cgk_…`). Errors are RFC 9457 problem+json: `execution` says
what the request did, `retry` whether repeating it is safe.
"""
TAGS = [
    {"name": "calls", "description": "Place SIP (and phone) calls and read their records."},
    {"name": "SIP addresses", "description": "Check an address before calling it."},
    {"name": "operations", "description": "For Kubernetes, Prometheus and people on call; no key needed."},
]


def create_app(settings: Settings) -> FastAPI:
    """The API. Needs a database made by the migrations; makes no table itself."""
    metrics = Metrics()
    app = FastAPIOffline(
        title="Callgate",
        version=__version__,
        summary="One request, at most one ring.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=_lifespan(settings, metrics),
        redirect_slashes=False,
        swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True},
    )
    app.state.metrics = metrics
    app.include_router(calls_router.router)
    app.include_router(callbacks_router.router)
    app.include_router(sip_uris.router)
    app.include_router(health.router)
    install_handlers(app, metrics)
    app.add_middleware(RequestMiddleware, metrics=metrics, admission=calls_router.admission)
    _complete_openapi(app)
    return app


def _lifespan(settings: Settings, metrics: Metrics) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with services(settings, metrics) as state:
            yield {**state, "readiness": Readiness(state["database"])}

    return lifespan


def _complete_openapi(app: FastAPI) -> None:
    """Schemas that no route declares as its own, because bodies are read by hand and problems are answered by handlers."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        _, definitions = models_json_schema(
            [(CallRequest, "validation"), (SipUriQuestion, "validation"), (Problem, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        schema["components"]["schemas"].update(definitions["$defs"])
        schema["components"]["examples"] = examples.COMPONENTS
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own documented way to extend the schema
