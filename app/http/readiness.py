"""Decides whether a process is ready to do its work."""

import asyncio
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app import __version__
from app.database.engine import Database
from app.database.heartbeats import summarize_workers
from app.errors import DatabaseUnavailable
from app.http.openapi import drop_null_types
from app.schema import applied_revision, is_usable_revision
from app.security.keyring import Keyring
from app.tenants.key_check import has_encryption_keys_for_stored_secrets
from app.workloads.authentication import WorkloadTokenValidator
from app.workloads.key_set import JwkSetState

# Less than the timeout of any probe, so that /readyz still answers when Postgres does not.
READY_TIMEOUT_S = 2.0


class Health(BaseModel):
    model_config = ConfigDict(json_schema_extra=drop_null_types)

    status: Literal["ok", "degraded", "unavailable"]
    database: Literal["ok", "unavailable", "not_migrated"] | None = None
    # Why the status is not `ok`; docs/operations.md lists the values.
    reason: str | None = None
    # Callgate's version, and the revision of the database's schema.
    version: str | None = None
    schema_revision: str | None = None
    # Workers whose heartbeat is less than a minute old. Calls can be placed without any.
    workers: int | None = None
    # The issuer's key set for service account tokens, if they are accepted. Requests with API keys do not need it.
    workload_keys: JwkSetState | None = None


class Readiness:
    """Decides whether one process is ready. A load balancer sends requests to ready processes only.

    A worker starts its jobs when it is ready.

    A process becomes ready when the schema in Postgres is usable and the encryption keys decrypt the stored secrets. Later it
    stays ready even while Postgres is unavailable, and reports "degraded". If it became unready, a load balancer would remove
    all processes at once, and clients would get a connection error instead of a response that says that no call was started.
    """

    def __init__(self, database: Database, keyring: Keyring, tokens: WorkloadTokenValidator | None = None) -> None:
        self._database = database
        self._tokens = tokens
        self._keyring = keyring
        self._was_ready = False
        self._running_check: asyncio.Task[Health] | None = None

    async def check(self) -> Health:
        """Returns the current health. If the check takes longer than READY_TIMEOUT_S, the health has the reason `timeout`.

        Requests that arrive during a check wait for the same check, which uses one database connection. A check that exceeds
        READY_TIMEOUT_S is not cancelled, so that it reaches the second host of the database URL if the first does not answer.
        """
        if self._running_check is None or self._running_check.done():
            self._running_check = asyncio.create_task(self._check_database())
        running = self._running_check
        done, _ = await asyncio.wait([running], timeout=READY_TIMEOUT_S)
        health = running.result() if done else self._health_with_unusable_database("timeout")
        health.version = __version__
        health.workload_keys = None if self._tokens is None else self._tokens.key_set_state
        return health

    async def _check_database(self) -> Health:
        """Checks the database, its schema and the encryption keys, and returns the health.

        The timeouts of connections and statements limit how long this takes.
        """
        try:
            revision = await applied_revision(self._database)
            usable = is_usable_revision(revision)
            running = await self._count_workers() if usable else None
            # The encryption keys of a process do not change, so they are checked only until the process is ready.
            keys_fit = (
                not usable or self._was_ready or await has_encryption_keys_for_stored_secrets(self._database, self._keyring)
            )
        except DatabaseUnavailable as error:
            return self._health_with_unusable_database(error.reason)
        if not usable:
            return self._health_with_unusable_database("not_migrated", revision)
        if not keys_fit:
            return Health(status="unavailable", database="ok", reason="secret_keys_wrong", schema_revision=revision)
        self._was_ready = True
        return Health(status="ok", database="ok", schema_revision=revision, workers=running)

    async def _count_workers(self) -> int:
        async with self._database.begin() as session:
            return (await summarize_workers(session)).running

    def _health_with_unusable_database(self, reason: str, revision: str | None = None) -> Health:
        """Returns the health while the database or its schema is not usable.

        `reason` says why: `not_migrated` means that the schema is not usable. `revision` is the schema's revision, if known.
        The status is `degraded` if the process was ready before, and `unavailable` if not.
        """
        status: Literal["degraded", "unavailable"] = "degraded" if self._was_ready else "unavailable"
        if reason == "not_migrated":
            return Health(status=status, database="not_migrated", schema_revision=revision)
        return Health(status=status, database="unavailable", reason=reason)
