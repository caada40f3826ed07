"""Builds the API: routers, middleware, error handlers, lifespan and the OpenAPI document."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Scope

from app import __version__
from app.admin import openapi as admin_openapi
from app.admin.router import ROUTERS as ADMIN_ROUTERS
from app.callbacks import router as callbacks_router
from app.calls import examples
from app.calls import router as calls_router
from app.calls import sip_router as sip_uris
from app.calls.callback_urls import CALLBACK_PATH
from app.calls.control import router as control_router
from app.calls.creation import router as creation_router
from app.calls.parameters import CallRequest, CallUpdate
from app.calls.sip_router import SipUriQuestion
from app.compat import router as compat_router
from app.compat import subresources as compat_subresources
from app.compat.errors import TwilioErrorRenderer
from app.console import router as console_router
from app.console.errors import ErrorPageRenderer
from app.console.oidc.login import oidc_provider
from app.console.sessions.service import ConsoleSessions
from app.console_settings import parse_oidc_access
from app.deliveries import router as delivery_router
from app.deliveries.schemas import ReplayRequest
from app.http import documentation, health
from app.http.concurrency import ConcurrencyLimit
from app.http.document import serve_document
from app.http.error_renderers import ErrorRenderer, ErrorRenderers
from app.http.head_method import HeadMethodMiddleware
from app.http.key_attempts import FailedAuthenticationLimiter
from app.http.middleware import RequestMiddleware
from app.http.openapi import complete_document
from app.http.operations import CONSOLE_PREFIX, OperationsPort
from app.http.problems import Problem, ProblemRenderer, install_error_handlers, is_call_creation
from app.http.readiness import Readiness
from app.http.routes import add_routes, describe_access, public, require_access_declarations
from app.http.worker_gauges import WorkerGauges
from app.observability import Metrics
from app.observability.tracing import Tracing
from app.queues import examples as queue_examples
from app.queues import router as queue_router
from app.queues.schemas import BulkAnswer, BulkCall, QueueSettings
from app.security.keyring import Keyring
from app.services import open_services
from app.setting_values import parse_networks
from app.settings import Settings
from app.subresources import openapi as subresources_openapi
from app.subresources import router as subresources_router
from app.workloads.authentication import open_workload_token_validator

OPENAPI_DESCRIPTION = """\
A gateway between your services and Twilio's Calls resource. A call creation is sent to Twilio at most once,
unless it is proven that the earlier attempt was not processed. Every creation ends as `started`, `not_started` or `unknown`.

Requests carry a Callgate API key as `Authorization: Bearer cgk_…`. Errors are RFC 9457 problem+json: `execution` says
what the request did, and `retry` whether it is safe to repeat it. [Errors](/docs/errors) explains each error.

Callgate also serves Twilio's own paths (`/2010-04-01/…`) for unmodified Twilio SDKs. They are not listed here:
[Migrating](/docs/migrating) describes them.
"""
OPENAPI_TAGS = [
    {"name": "calls", "description": "Place SIP (and phone) calls and read their records."},
    {"name": "subresources", "description": "The subresources of a call at Twilio: recordings, streams, payments and others."},
    {"name": "queues", "description": "Sets of scheduled calls with their own pace, hours and pause. [Queues](/docs/queues)."},
    {"name": "deliveries", "description": "List the requests to your status_callback, and send them again."},
    {"name": "SIP addresses", "description": "Check an address before calling it."},
    admin_openapi.TAG,
    {"name": "operations", "description": "Probes and metrics for operators. They need no API key."},
]


# FastAPI's own spans contain the query, and with it phone numbers. app.observability.tracing creates the spans instead.
_FASTAPI_TELEMETRY_OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(settings: Settings, tracing: Tracing | None = None) -> FastAPI:
    """Returns the API. Its database must have been migrated. The app closes `tracing` when it shuts down."""
    metrics = Metrics()
    tracing = tracing or Tracing()
    app = FastAPIOffline(
        docs_url=None,
        redoc_url=None,
        title="Callgate",
        version=__version__,
        summary="One request, at most one ring.",
        description=OPENAPI_DESCRIPTION,
        contact={"name": "The Callgate developers"},
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "This gateway."}],
        openapi_tags=OPENAPI_TAGS,
        lifespan=_lifespan(settings, metrics, tracing),
        telemetry=_FASTAPI_TELEMETRY_OFF,
        redirect_slashes=False,
    )
    app.state.metrics = metrics
    add_routes(
        app,
        *(creation_router.router, calls_router.router, subresources_router.router, control_router.router),
        *(delivery_router.router, queue_router.router, queue_router.bulk_router),
        *(compat_router.router, compat_subresources.router),
        *(callbacks_router.router, sip_uris.router, *ADMIN_ROUTERS, health.router, documentation.router),
    )
    renderers: dict[str, ErrorRenderer] = {compat_router.PREFIX: TwilioErrorRenderer()}
    if settings.console:
        renderers[CONSOLE_PREFIX] = ErrorPageRenderer()
        add_routes(app, *console_router.ROUTERS)
    error_renderers = ErrorRenderers(ProblemRenderer(), renderers)
    install_error_handlers(app, metrics, error_renderers)
    app.add_middleware(HeadMethodMiddleware)
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        tracing=tracing,
        renderers=error_renderers,
        require_capacity=creation_router.require_capacity_unless_keyed,
        body_timeout_s=settings.body_timeout,
        operations=OperationsPort(settings.ops_port),
        untrusted_path_prefix=CALLBACK_PATH,
        large_body_limit=queue_router.bulk_body_limit,
        fast_path_endpoint=_fast_path_endpoint,
    )
    _complete_openapi(app)
    serve_document(app, "/openapi.json", app.openapi)
    _declare_static_files_public(app)
    require_access_declarations(app.routes)
    metrics.http.register_creation_paths(_paths_that_create_calls(app))
    return app


def _lifespan(
    settings: Settings, metrics: Metrics, tracing: Tracing
) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with (
            open_services(settings, metrics) as state,
            WorkerGauges(state["database"], metrics).measuring_in_background(),
            open_workload_token_validator(settings, metrics.workloads) as tokens,
        ):
            yield {
                **state,
                "workload_tokens": tokens,
                "readiness": Readiness(state["database"], Keyring(settings.require_secret_keys()), tokens),
                "metrics": metrics,
                # Limits the transactions of the admin API and of queues, so that creations find a free connection.
                "administration_limit": ConcurrencyLimit(per_process=4, per_tenant=2),
                "console_sessions": ConsoleSessions.from_settings(state["database"], settings),
                # The same for the console. Separate from the API, so that people and services do not delay each other.
                "console_limit": ConcurrencyLimit(per_process=4, per_tenant=2),
                "has_public_url": bool(settings.public_url),
                "resolve_period": timedelta(seconds=settings.resolve_period),
                "console_oidc": oidc_provider(settings),
                "console_oidc_rules": parse_oidc_access(settings.console_oidc_access or "[]"),
                "key_attempts": FailedAuthenticationLimiter(
                    per_minute=settings.key_attempts, proxies=parse_networks(settings.trusted_proxies or "")
                ),
            }
        await asyncio.to_thread(tracing.close)

    return lifespan


def _fast_path_endpoint(scope: Scope) -> ASGIApp | None:
    """Returns the endpoint of a request that creates a call or is a callback from Twilio, or None for any other request.

    These two kinds of requests skip FastAPI's routing, which would take a large part of their CPU time.
    """
    if is_call_creation(scope["method"], scope["path"]):
        return creation_router.create_call_asgi
    return callbacks_router.receive_callback_asgi if callbacks_router.is_callback_request(scope) else None


def _paths_that_create_calls(app: FastAPI) -> list[str]:
    """Returns the templates of the paths where a POST creates calls."""
    paths = [route.path for route in app.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    return [path for path in paths if path.lower().removesuffix(".json").endswith("/calls")]


def _declare_static_files_public(app: FastAPI) -> None:
    """Declares that the scripts and styles of the documentation pages are public: they need no API key."""
    for route in app.routes:
        if isinstance(route, Mount):
            public(route.app)


def _complete_openapi(app: FastAPI) -> None:
    """Adds to the OpenAPI document what FastAPI cannot know: scopes, errors, and the bodies that endpoints parse themselves."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = generate()
        describe_access(document, app.routes)
        _, definitions = models_json_schema(
            [
                (CallRequest, "validation"),
                (ReplayRequest, "validation"),
                (QueueSettings, "validation"),
                (BulkCall, "validation"),
                (BulkAnswer, "serialization"),
                (CallUpdate, "validation"),
                (SipUriQuestion, "validation"),
                (Problem, "serialization"),
                *((body, "validation") for body in admin_openapi.REQUEST_BODY_MODELS),
            ],
            ref_template="#/components/schemas/{model}",
        )
        complete_document(
            document,
            schemas=definitions["$defs"] | subresources_openapi.component_schemas(),
            examples=examples.EXAMPLE_COMPONENTS
            | delivery_router.DELIVERY_EXAMPLES
            | queue_examples.COMPONENTS
            | admin_openapi.EXAMPLE_COMPONENTS,
        )
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
