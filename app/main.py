"""create_app(): everything of one API process, built in the lifespan and passed on."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, TypedDict

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema

from app import __version__, health, sip_uris
from app.callbacks import router as callbacks_router
from app.callbacks.router import CALLBACK_PATH
from app.callbacks.service import CallbackService
from app.calls import examples
from app.calls import router as calls_router
from app.calls.dial import Budget
from app.calls.placement import Placement
from app.calls.service import CallService
from app.calls.settlement import SearchPlan, Settlement
from app.calls.validation import CallRequest
from app.crypto import Keyring
from app.database import Database
from app.middleware import RequestMiddleware
from app.observability import Metrics
from app.problems import Problem, install_handlers
from app.settings import Settings
from app.sip_uris import SipUriQuestion
from app.tenants.service import TenantService
from app.twilio.client import TwilioClient, make_http_client

DESCRIPTION = """\
A gateway between your services and Twilio's Calls resource. **One request, at most one ring**: a call creation is sent to
Twilio at most once unless it is proven that the earlier attempt was never processed, and every request ends as `started`,
`not_started` or `unknown`.

Press **Authorize** and paste a Callgate API key (`cgk_…`). Errors are RFC 9457 problem+json: `execution` says what happened to
the call, `retry` whether repeating the request is safe.
"""
TAGS = [
    {"name": "calls", "description": "Place SIP (and phone) calls and read their records."},
    {"name": "SIP addresses", "description": "Check an address before calling it."},
    {"name": "operations", "description": "For Kubernetes, Prometheus and people on call; no key needed."},
]


class State(TypedDict):
    """What handlers find in `request.state`."""

    database: Database
    tenants: TenantService
    twilio: TwilioClient
    settlement: Settlement
    calls: CallService
    callbacks: CallbackService


@asynccontextmanager
async def services(settings: Settings, metrics: Metrics) -> AsyncIterator[State]:
    """The collaborators of one process, stopped in reverse order; outcomes are committed before anything closes."""
    database = Database(settings.require_database_url(), pool_size=settings.database_pool_size)
    keyring = Keyring(settings.require_secret_keys())
    http = make_http_client(
        connect_timeout=settings.twilio_connect_timeout,
        read_timeout=settings.twilio_read_timeout,
        pool_timeout=settings.twilio_pool_timeout,
        max_connections=settings.max_in_flight,
        user_agent=f"callgate/{__version__}",
    )
    try:
        tenants = TenantService(database, keyring)
        twilio = TwilioClient(http, base_url=settings.twilio_base_url)
        settlement = Settlement(
            metrics,
            first_refresh=timedelta(seconds=settings.refresh_interval),
            plan=SearchPlan(settings.resolve_searches, timedelta(seconds=settings.resolve_period)),
        )
        placement = Placement(
            database=database,
            tenants=tenants,
            twilio=twilio,
            metrics=metrics,
            settlement=settlement,
            budget=budget_of(settings),
            drain_timeout_s=settings.drain_timeout,
            most=settings.max_in_flight,
            most_of_tenant=settings.max_in_flight_per_tenant,
        )
        calls = CallService(
            database=database,
            keyring=keyring,
            tenants=tenants,
            placement=placement,
            callback_base=settings.public_url and settings.public_url + CALLBACK_PATH,
        )
        callbacks = CallbackService(database, tenants, settlement, metrics, settings.public_url)
        yield State(database=database, tenants=tenants, twilio=twilio, settlement=settlement, calls=calls, callbacks=callbacks)
        await placement.drain()
    finally:
        await http.aclose()
        await database.close()


def budget_of(settings: Settings) -> Budget:
    attempt = settings.twilio_pool_timeout + settings.twilio_connect_timeout + settings.twilio_read_timeout
    return Budget(total=settings.request_budget, attempt=attempt)


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
        swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True},
    )
    app.state.metrics = metrics
    app.include_router(calls_router.router)
    app.include_router(callbacks_router.router)
    app.include_router(sip_uris.router)
    app.include_router(health.router)
    install_handlers(app, metrics)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    _complete_openapi(app)
    return app


def _lifespan(settings: Settings, metrics: Metrics) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with services(settings, metrics) as state:
            yield dict(state)

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
