"""Is it alive, is it ready, what does it count: for Kubernetes, Prometheus and people."""

from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from app.database import Database
from app.errors import DatabaseUnavailable
from app.observability import Metrics

router = APIRouter(tags=["operations"])
# What a worker answers too.
process_router = APIRouter(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok", "unavailable"]
    database: Literal["ok", "unavailable"] | None = None


@process_router.get("/livez", operation_id="livez", summary="Is the process alive?", response_model_exclude_none=True)
async def livez() -> Health:
    """Asks nobody else: a database that is away is no reason to restart this process."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can it place calls?",
    responses={503: {"model": Health, "description": "The database cannot be reached."}},
)
async def readyz(request: Request, response: Response) -> Health:
    """Asks the database."""
    database: Database = request.state.database
    try:
        await database.ping()
    except DatabaseUnavailable:
        response.status_code = 503
        return Health(status="unavailable", database="unavailable")
    return Health(status="ok", database="ok")


@process_router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
)
async def metrics(request: Request) -> Response:
    """Of this process only."""
    counted: Metrics = request.app.state.metrics
    return Response(counted.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


router.include_router(process_router)


def probe_app(metrics: Metrics) -> FastAPI:
    """/livez and /metrics of a process that serves nothing else."""
    app = FastAPI(openapi_url=None)
    app.state.metrics = metrics
    app.include_router(process_router)
    return app
