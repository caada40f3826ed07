"""Serves the liveness and readiness probes and the metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from app.database.engine import Database
from app.errors import BodyTooLarge
from app.http.head_method import HeadMethodMiddleware
from app.http.problems import error_responses
from app.http.readiness import Health, Readiness
from app.http.routes import ScopedRoute, add_routes, public
from app.observability import Metrics
from app.security.keyring import Keyring
from app.settings import Settings

router = APIRouter(tags=["operations"], route_class=ScopedRoute)


@router.get(
    "/livez",
    operation_id="livez",
    summary="Check whether the process is alive",
    response_model_exclude_none=True,
    responses=error_responses(BodyTooLarge, instance="/livez"),
)
@public
async def livez() -> Health:
    """Always answers 200. Does not check the database: restarting this process would not repair it."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Check whether the process can place calls",
    response_model_exclude_none=True,
    responses={
        503: {
            "model": Health,
            "description": "The database is unavailable, its schema is not usable, or the encryption keys are wrong.",
        },
        **error_responses(BodyTooLarge, instance="/readyz"),
    },
)
@public
async def readyz(request: Request, response: Response) -> Health:
    """Checks the database, its schema and the encryption keys.

    A process that was ready once stays ready: without its database it answers 200 with the status `degraded`.
    """
    readiness: Readiness = request.state.readiness
    health = await readiness.check()
    if health.status == "unavailable":
        response.status_code = 503
    return health


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Get the metrics of the process",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text format."},
        **error_responses(BodyTooLarge, instance="/metrics"),
    },
)
@public
async def metrics(request: Request) -> Response:
    """Returns the metrics of this process, computed at most a second ago."""
    process_metrics: Metrics = request.app.state.metrics
    return Response(process_metrics.cached_exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def probe_app(settings: Settings, metrics: Metrics) -> FastAPI:
    """Returns an app for a worker process. It serves only the health probes and the Prometheus metrics."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        database = Database(settings.require_database_url(), pool_size=1)
        try:
            yield {"readiness": Readiness(database, Keyring(settings.require_secret_keys())), "metrics": metrics}
        finally:
            await database.close()

    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.state.metrics = metrics
    add_routes(app, router)
    app.add_middleware(HeadMethodMiddleware)
    return app
