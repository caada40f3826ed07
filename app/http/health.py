"""Is it alive, is it ready, what does it count: for Kubernetes, Prometheus and people."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict

from app import __version__
from app.database.engine import Database
from app.database.heartbeats import workers
from app.errors import BodyTooLarge, DatabaseUnavailable
from app.http.head import HeadMiddleware
from app.http.openapi import nulls_left_out
from app.http.problems import responses
from app.observability import Metrics
from app.schema import applied_revision, is_usable
from app.security.keyring import Keyring
from app.settings import Settings
from app.tenants.key_check import has_the_right_keys

router = APIRouter(tags=["operations"])

# Shorter than any probe's patience: a Postgres that hangs is reported, too.
READY_PATIENCE_S = 2.0


class Health(BaseModel):
    model_config = ConfigDict(json_schema_extra=nulls_left_out)

    status: Literal["ok", "degraded", "unavailable"]
    database: Literal["ok", "unavailable", "not_migrated"] | None = None
    # Why it is unavailable, in one word: see docs/operations.md.
    reason: str | None = None
    # Of this process, and the revision of the database's schema.
    version: str | None = None
    schema_revision: str | None = None
    # Workers that have reported within the last minute. None is no reason to refuse calls.
    workers: int | None = None


class Readiness:
    """What /readyz tells of one process.

    It is ready once it has found Postgres with a schema that it can work with, and secrets that its keys open.

    From then on it stays ready and reports a Postgres that is away: every process would be taken out at once, and callers
    would meet a closed door instead of an answer that says that no call was started.
    """

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._was_ready = False
        self._looking: asyncio.Task[Health] | None = None

    async def look(self) -> Health:
        """Whoever asks meanwhile gets the same answer: however many ask, they take one database connection."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_once())
        return await asyncio.shield(self._looking)

    async def _look_once(self) -> Health:
        health = await self._look()
        health.version = __version__
        return health

    async def _look(self) -> Health:
        try:
            async with asyncio.timeout(READY_PATIENCE_S):
                revision = await applied_revision(self._database)
                usable = is_usable(revision)
                running = await self._count_workers() if usable else None
                # The keys of a process do not change.
                opens = not usable or self._was_ready or await has_the_right_keys(self._database, self._keyring)
        except DatabaseUnavailable as error:
            return self._without_database(error.reason)
        except TimeoutError:
            return self._without_database("timeout")
        if not usable:
            return self._without_database("not_migrated", revision)
        if not opens:
            return Health(status="unavailable", database="ok", reason="secret_keys_wrong", schema_revision=revision)
        self._was_ready = True
        return Health(status="ok", database="ok", schema_revision=revision, workers=running)

    async def _count_workers(self) -> int:
        async with self._database.begin() as session:
            return (await workers(session)).running

    def _without_database(self, reason: str, revision: str | None = None) -> Health:
        status: Literal["degraded", "unavailable"] = "degraded" if self._was_ready else "unavailable"
        if reason == "not_migrated":
            return Health(status=status, database="not_migrated", schema_revision=revision)
        return Health(status=status, database="unavailable", reason=reason)


@router.get(
    "/livez",
    operation_id="livez",
    summary="Is the process alive?",
    response_model_exclude_none=True,
    responses=responses(BodyTooLarge, instance="/livez"),
)
async def livez() -> Health:
    """Asks nobody else: a database that is away is no reason to restart this process."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can it place calls?",
    response_model_exclude_none=True,
    responses={
        503: {
            "model": Health,
            "description": "It has not yet found the database, the schema that it needs, or secrets that its keys open.",
        },
        **responses(BodyTooLarge, instance="/readyz"),
    },
)
async def readyz(request: Request, response: Response) -> Health:
    """Asks the database. A process that was ready once stays so: while the database is away, it answers 200 and `degraded`."""
    readiness: Readiness = request.state.readiness
    health = await readiness.look()
    if health.status == "unavailable":
        response.status_code = 503
    return health


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text format."},
        **responses(BodyTooLarge, instance="/metrics"),
    },
)
async def metrics(request: Request) -> Response:
    """Of this process only, and at most a second old."""
    counted: Metrics = request.app.state.metrics
    return Response(counted.recent_exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def probe_app(settings: Settings, metrics: Metrics) -> FastAPI:
    """The same three of a process that serves nothing else: a worker."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        database = Database(settings.require_database_url(), pool_size=1)
        try:
            yield {"readiness": Readiness(database, Keyring(settings.require_secret_keys())), "metrics": metrics}
        finally:
            await database.close()

    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.state.metrics = metrics
    app.include_router(router)
    app.add_middleware(HeadMiddleware)
    return app
